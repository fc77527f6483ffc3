"""A release's archive, whole or in parts, converts to what its unpacked tree would."""

import io
import os
import subprocess
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline import convert, inspection, raw_tree, sources, verify
from pipeline.errors import UsageError, UserError
from pipeline.ingest import ConvertSettings
from pipeline.sources import archive
from pipeline.sources.synthetic import Storm, write_tree

pytest.importorskip("indexed_gzip", reason="indexed-gzip is not installed")

STORMS = [
    Storm("202101", hours=4),
    Storm("202102", hours=5, satellite="MTS1", gaps=(2,)),
    Storm("198701", datetime(1987, 4, 9, 19, tzinfo=UTC), 3, satellite="GMS3", truncated=(1,)),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """WP/, with whole seconds in its files' times, as the release's archives keep them."""
    root = tmp_path_factory.mktemp("release") / "WP"
    write_tree(root, STORMS, size=16)
    for number, file in enumerate(sorted(root.rglob("*.h5"))):
        os.utime(file, (1_600_000_000 + number, 1_600_000_000 + number))
    return root


def pack(tree: Path, into: Path, *, names=None, parts=1, mode="w:gz") -> list[Path]:
    """WP.tar.gz, or WP.tar.gz00 and so on; names: of the files, in this order."""
    into.mkdir(exist_ok=True)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode=mode) as tar:
        for name in names or ["."]:
            tar.add(tree / name, Path("WP") / name)
    data = whole.getvalue()
    ending = "tar.gz" if mode == "w:gz" else "tar"
    if parts == 1:
        file = into / f"WP.{ending}"
        file.write_bytes(data)
        return [file]
    each = -(-len(data) // parts)
    files = [into / f"WP.{ending}{number:02}" for number in range(parts)]
    for number, file in enumerate(files):
        file.write_bytes(data[number * each : (number + 1) * each])
    return files


def converted(source: Path, target: Path, **options) -> convert.Conversion:
    manifests = target.parent / "manifests"
    how = {"workers": 1, "manifests": manifests, **options}
    return convert.convert(source, target, ConvertSettings(), **how)


def contents(store: Path) -> dict[str, bytes]:
    """Every file of the tracks and the index; the root names its source in `history`."""
    files = (file for file in store.rglob("*") if file.is_file() and file.parent != store)
    return {str(file.relative_to(store)): file.read_bytes() for file in files}


def unpack(parts: list[Path], into: Path) -> Path:
    """As the release says: cat WP.tar.gz* | tar xz."""
    into.mkdir()
    flag = "-xz" if parts[0].name.startswith("WP.tar.gz") else "-x"
    data = b"".join(part.read_bytes() for part in parts)
    subprocess.run(["tar", flag, "-C", str(into)], input=data, check=True)
    return into / "WP"


def mixed(tree: Path) -> list[str]:
    """Files of all typhoons by turns, in no order of time, the tables in between."""
    names = [str(f.relative_to(tree)) for f in sorted(tree.rglob("*")) if f.is_file()]
    return names[::-3] + names[-2::-3] + names[-3::-3]


@pytest.mark.parametrize(
    ("order", "parts", "mode"), [(None, 1, "w:gz"), (mixed, 5, "w:gz"), (mixed, 3, "w")]
)
def test_the_store_is_that_of_the_unpacked_tree(tree, tmp_path, order, parts, mode):
    names = order(tree) if order else None
    files = pack(tree, tmp_path / "dl", names=names, parts=parts, mode=mode)
    from_tree = converted(unpack(files, tmp_path / "un"), tmp_path / "a.zarr")
    packed = converted(files[0], tmp_path / "b.zarr")
    a, b = contents(tmp_path / "a.zarr"), contents(tmp_path / "b.zarr")
    damaged = "198701/zarr.json"  # tells the cut file's place
    assert b"/dl/WP.tar" in b.pop(damaged)
    assert b"/un/WP/image/198701/" in a.pop(damaged)
    assert a == b
    assert packed.records.keys() == from_tree.records.keys() == {"198701", "202101", "202102"}
    about = [c.manifest.read_text().split('"format_version"')[1] for c in (from_tree, packed)]
    assert about[0].split('"problems"')[0] == about[1].split('"problems"')[0]
    (problem,) = packed.problems
    assert problem.startswith(f"{files[0]}/WP/image/198701/1987")
    assert "not a readable HDF5 image" in problem


def test_any_part_or_the_folder_is_the_archive(tree, tmp_path):
    files = pack(tree, tmp_path / "dl", parts=3)
    first = sources.scan(files[0])
    for other in (files[2], tmp_path / "dl"):
        tracks = sources.scan(other).tracks
        assert [track.frames for track in tracks] == [track.frames for track in first.tracks]
    assert [t.id for t in first.tracks] == ["198701", "202101", "202102"]
    assert first.tracks[1].variables["latitude"].values.shape == (4,)


@pytest.mark.slow
def test_two_processes_leave_nothing_behind(tree, tmp_path):
    files = pack(tree, tmp_path / "dl", parts=2)
    converted(files[0], tmp_path / "a.zarr", workers=1)
    converted(files[0], tmp_path / "b.zarr", workers=2)
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")
    found = {entry.name for entry in (tmp_path / "b.zarr").iterdir()}
    assert found == {"zarr.json", "triplets", "198701", "202101", "202102"}


def test_at_most_one_typhoon_is_unpacked_at_a_time(tree, tmp_path, monkeypatch):
    (file,) = pack(tree, tmp_path / "dl")
    seen = []
    real = archive.laid_out

    def watched(frame, place):
        unpacked = [*place.parent.rglob("*.h5")]
        assert {f.parent for f in unpacked} == {place}
        assert place.parent == tmp_path / "a.zarr"
        seen.append(len(unpacked))
        return real(frame, place)

    # which looks at one header before, in a temporary folder
    monkeypatch.setattr(convert, "refuse_full_disk", lambda *_: None)

    monkeypatch.setattr(archive, "laid_out", watched)
    converted(file, tmp_path / "a.zarr")
    assert set(seen) == {3, 4}  # 202102 has a gap


def test_a_conversion_that_is_broken_off_goes_on(tree, tmp_path, monkeypatch):
    (file,) = pack(tree, tmp_path / "dl")
    real, begun = archive.content, []

    def dying(member):
        begun.append(member)
        if len(begun) == 6:
            raise KeyboardInterrupt
        return real(member)

    monkeypatch.setattr(archive, "content", dying)
    with pytest.raises(KeyboardInterrupt):
        converted(file, tmp_path / "b.zarr")
    monkeypatch.setattr(archive, "content", real)
    done = converted(file, tmp_path / "b.zarr")
    assert len(done.reused) == 1
    converted(file, tmp_path / "a.zarr")
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")


def test_an_unpacked_tree_and_its_archive_are_one_source(tree, tmp_path):
    files = pack(tree, tmp_path / "dl")
    converted(files[0], tmp_path / "a.zarr")
    again = converted(unpack(files, tmp_path / "un"), tmp_path / "a.zarr")
    assert again.reused == ["198701", "202101", "202102"]


def test_only_some_typhoons(tree, tmp_path):
    (file,) = pack(tree, tmp_path / "dl")
    done = converted(file, tmp_path / "a.zarr", ids=["202102"])
    assert list(done.records) == ["202102"]


def test_reading_begins_near_a_file_not_at_the_start(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "SPACING", 1 << 20)
    noise = tree.parent / "noise.bin"
    noise.write_bytes(os.urandom(6 << 20))
    try:
        (file,) = pack(tree, tmp_path / "dl", names=["../noise.bin", "."])
    finally:
        noise.unlink()
    member = next(iter(archive.listed(file).images.values()))
    assert member.offset > 6 << 20
    read = []
    real = archive.Parts.readinto
    monkeypatch.setattr(
        archive.Parts, "readinto", lambda self, b: read.append(self.at) or real(self, b)
    )
    archive.reader.cache_clear()
    assert len(archive.content(member)) == member.size
    assert min(read) > 3 << 20  # compressed; noise stays as long as it is


def test_verify_and_inspect_read_an_archive(tree, tmp_path):
    (file,) = pack(tree, tmp_path / "dl")
    converted(file, tmp_path / "a.zarr")
    found = verify.verify(tmp_path / "a.zarr", source=file, workers=1)
    assert (found.equal, found.faults) == (10, [])
    facts = inspection.inspect(file, workers=1).facts
    of_tree = inspection.inspect(tree, workers=1).facts
    for name, about in of_tree["tracks"].items():
        assert facts["tracks"][name] == about
    assert facts["totals"] == of_tree["totals"]
    assert inspection.inspect(file, quick=True).facts["totals"]["files"] == 11


def test_training_from_an_archive_says_to_convert_it(tree, tmp_path):
    (file,) = pack(tree, tmp_path / "dl")
    for path in (file, tmp_path / "dl"):
        with pytest.raises(UserError, match=r"is an archive.*run `cli convert"):
            raw_tree.opened(path)
    with pytest.raises(UsageError, match="leave --scheduler out"):
        converted(file, tmp_path / "a.zarr", scheduler="tcp://nowhere:1")


def cut_last(files):
    files[-1].write_bytes(files[-1].read_bytes()[: files[-1].stat().st_size // 3])
    return rf"{files[-1].name}: the archive ends in the middle"


def last_gone(files):
    files[-1].unlink()
    return rf"{files[-2].name}: the archive ends in the middle.*those after it are missing"


def cut_middle(files):
    files[1].write_bytes(files[1].read_bytes()[:-777])
    return rf"{files[1].name}: is cut off: \d+ bytes, other parts have \d+"


def middle_gone(files):
    files[1].unlink()
    return rf"{files[2].name}: the part before it is missing"


def first_gone(files):
    files[0].unlink()
    return rf"{files[1].name}: is no archive, or not the first part"  # some count from 1


def no_archive(files):
    files[0].write_bytes(b"<html>404</html>".ljust(files[0].stat().st_size))
    return rf"{files[0].name}: is no archive"


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize(
    "harm", [cut_last, last_gone, cut_middle, middle_gone, first_gone, no_archive]
)
def test_a_bad_download_names_its_part(tree, tmp_path, harm, mode):
    files = pack(tree, tmp_path / "dl", parts=4, mode=mode)
    told = harm(files)
    start = next(file for file in files if file.exists())
    with pytest.raises(UserError, match=told) as caught:
        sources.scan(start)
    assert "\n" not in str(caught.value)
    assert "download" in str(caught.value)


def test_a_flipped_byte_is_found(tree, tmp_path):
    (file,) = pack(tree, tmp_path / "dl")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(UserError, match="download it again"):
        sources.scan(file)


def test_links_and_names_that_lead_out_are_left_out(tree, tmp_path):
    home = tmp_path / "two" / "down"  # two folders up is still within what is looked through
    home.mkdir(parents=True)
    file = home / "evil.tar.gz"
    name = "2021071900-202101-HMW8-1.h5"
    data = next(tree.rglob(name)).read_bytes()
    with tarfile.open(file, "w:gz") as tar:

        def add(path, **about):
            info = tarfile.TarInfo(path)
            for key, value in about.items():
                setattr(info, key, value)
            info.size = 0 if about else len(data)
            tar.addfile(info, None if about else io.BytesIO(data))

        add(f"../../image/{name}")
        add(f"/image/{name.replace('00-', '01-', 1)}")
        add(f"WP/image/{name.replace('00-', '02-', 1)}", type=tarfile.SYMTYPE, linkname="/etc/pwd")
        add(f"WP/image/{name.replace('00-', '03-', 1)}", type=tarfile.LNKTYPE, linkname="x")
        add(f"WP/image/{name.replace('00-', '04-', 1)}")
    before = {*tmp_path.rglob("*")}
    done = converted(file, home / "a.zarr")
    assert done.records["202101"]["frames"] == 1
    assert len(done.problems) == 4
    assert sum("leads out of the archive" in p for p in done.problems) == 2
    assert sum("is a link or no plain file" in p for p in done.problems) == 2
    new = {*tmp_path.rglob("*")} - before
    assert {p.relative_to(home).parts[0] for p in new} == {"a.zarr", "manifests"}


def test_what_macos_packs_and_names_in_capitals(tree, tmp_path):
    into = tmp_path / "mac.tar.gz"
    with tarfile.open(into, "w:gz") as tar:
        for file in sorted(tree.rglob("*")):
            name = file.relative_to(tree).as_posix()
            if file.is_file() and file.suffix in (".h5", ".csv"):
                tar.add(file, f"./{name.upper()}")
                tar.add(tree / "metadata.json", f"__MACOSX/{file.parent.name}/{file.name}")
                tar.add(tree / "metadata.json", f"./{Path(name).parent}/._{file.name}")
    plain, mac = sources.scan(tree), sources.scan(into)
    assert [t.id for t in mac.tracks] == [t.id for t in plain.tracks]
    for one, other in zip(plain.tracks, mac.tracks, strict=True):
        assert [f.time for f in one.frames] == [f.time for f in other.frames]
        assert one.variables.keys() == other.variables.keys() != set()
    assert not mac.problems


def test_archives_of_something_else_and_several_are_refused(tree, tmp_path):
    folder = tmp_path / "dl"
    pack(tree, folder)
    (folder / "AU.tar.gz").write_bytes((folder / "WP.tar.gz").read_bytes())
    with pytest.raises(UserError, match=r"holds the archives AU.tar.gz, WP.tar.gz; name one"):
        sources.scan(folder)
    other = tmp_path / "other.tar.gz"
    with tarfile.open(other, "w:gz") as tar:
        tar.add(tree / "metadata", "metadata")
    told = "no usable H5 file; there is none; it holds best-track tables: give the archive that"
    with pytest.raises(UserError, match=told):
        sources.scan(other)
    fields = tmp_path / "fields.tar.gz"
    (tmp_path / "a.nc").touch()
    with tarfile.open(fields, "w:gz") as tar:
        tar.add(tmp_path / "a.nc", "a.nc")
    with pytest.raises(UserError, match=r"it holds 1 .nc: unpack it, and give the folder"):
        sources.scan(fields)
    with tarfile.open(fields, "w:gz"):
        pass
    with pytest.raises(UserError, match="it is empty: download it again"):
        sources.scan(fields)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["WP.tar.gz"], ["WP.tar.gz"]),
        (["WP.tar.gz.02", "WP.tar.gz.01"], ["WP.tar.gz.01", "WP.tar.gz.02"]),
        (["WP.tgz-ab", "WP.tgz-aa"], ["WP.tgz-aa", "WP.tgz-ab"]),
        (["WP.tar9", *(f"WP.tar{n}" for n in range(9)), "WP.tar10"], 11),
        (["WP.tar.xz"], []),
        (["WP.tar.bz2"], []),
        (["WP.zip", "a.nc", "WP.tar.gz"], []),
        (["WP.tar.gz", "WP.tar.gz.md5sum1", "readme.txt"], ["WP.tar.gz"]),
    ],
)
def test_names_of_archives_and_of_their_parts(tmp_path, names, expected):
    for name in names:
        (tmp_path / name).touch()
    found = [p.name for p in archive.parts_of(tmp_path)] if archive.is_archive(tmp_path) else []
    if isinstance(expected, int):
        assert found == [f"WP.tar{n}" for n in range(expected)]
    else:
        assert found == expected


def test_what_a_shell_makes_of_an_unquoted_name_is_one_source(tree, tmp_path):
    files = pack(tree, tmp_path / "downloads", parts=12)
    for order in (files, files[::-1], files[3:]):
        first = archive.one_source(order)
        assert first == min(order)
        assert archive.parts_of(first) == tuple(files)  # and what was not named is found
    assert archive.one_source([tmp_path / "WP.tar.gz.9", tmp_path / "WP.tar.gz.10"]).suffix == ".9"
    assert archive.one_source([tmp_path, tmp_path]) == tmp_path
    assert archive.one_source([Path("WP.tar.gz*")]) == Path("WP.tar.gz*")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "no source: give a folder, a file, or the first part of an archive"),
        (["WP", "AU"], "2 sources, but WP is no part of an archive; give one of them"),
        (
            ["WP.tar.gz00", "WP.tar.gz01", "WP.tar.gz.bak"],
            "3 sources, but WP.tar.gz.bak is no part of an archive; give one of them, and of an "
            "archive in parts the first alone: WP.tar.gz00",
        ),
        (
            ["WP.tar.gz00", "AU.tar.gz00"],
            "2 sources, but WP.tar.gz00 and AU.tar.gz00 are of two archives; give one of them, and "
            "of an archive in parts the first alone: AU.tar.gz00",
        ),
        (
            ["new/WP.tar.gz00", "old/WP.tar.gz01"],
            "2 sources, but new/WP.tar.gz00 and old/WP.tar.gz01 are of two archives; give one of "
            "them, and of an archive in parts the first alone: new/WP.tar.gz00",
        ),
        (
            ["A.tar", "B.tar"],
            "2 sources, but A.tar and B.tar are of two archives; give one of them",
        ),
        (
            ["WP.tar.gz", "WP.tar.gz00"],
            "2 sources, but WP.tar.gz is whole, and others are parts; give one of them, and of an "
            "archive in parts the first alone: WP.tar.gz00",
        ),
    ],
)
def test_several_sources_are_refused(names, told):
    with pytest.raises(UsageError) as caught:
        archive.one_source([Path(name) for name in names])
    assert str(caught.value) == told


def test_checksums_that_a_shell_names_too_are_no_source():
    parts = [Path(f"WP.tar.gz{end}") for end in ("00", "00.sha256", "01", "01.md5", ".txt")]
    assert archive.one_source(parts) == Path("WP.tar.gz00")
    assert archive.one_source([Path("WP.tar.gz.md5")]) == Path("WP.tar.gz.md5")


def test_an_unpacked_tree_is_read_as_a_tree_whatever_lies_beside(tree, tmp_path):
    pack(tree, tmp_path / "dl")
    unpack([tmp_path / "dl/WP.tar.gz"], tmp_path / "un")
    (tmp_path / "un/WP.tar.gz").write_bytes(b"")
    assert not archive.is_archive(tmp_path / "un")
    assert not sources.scan(tmp_path / "un/WP").tracks[0].frames[0].packed
