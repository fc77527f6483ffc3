"""Reading a Digital Typhoon tree as it is found on people's disks."""

import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import convert, demands, raw_tree, sources, store, tasks, verify
from pipeline.errors import UserError
from pipeline.ingest import ConvertSettings
from pipeline.provenance import fingerprint
from pipeline.settings import TrainSettings
from pipeline.sources import FrameError, RawFrame
from pipeline.sources.digital_typhoon import ATTRS, INVENTED, read_frame
from pipeline.sources.options import asked
from pipeline.sources.synthetic import Storm, write_tree


def ids(release):
    return [track.id for track in release.tracks]


def only(release):
    (track,) = release.tracks
    return track


def read(path):
    return read_frame(RawFrame(np.datetime64("2021-07-19T00", "s"), (path,)))


def test_tracks_are_grouped_by_the_id_in_the_file_name(tiny):
    tiny.track("202101", [2, 0, 1])
    tiny.track("197801", [5])
    folder = tiny.root / "image/202107"  # a calendar month, which looks like an id
    folder.mkdir()
    for file in list(tiny.root.glob("image/*/*.h5")):
        file.rename(folder / file.name)
    release = sources.scan(tiny.root)
    assert ids(release) == ["197801", "202101"]  # strings; storms before 2000 count
    hours = [str(frame.time) for frame in release.tracks[1].frames]
    assert hours == [f"2021-07-19T0{h}:00:00" for h in range(3)]
    assert release.problems == ()


@pytest.mark.parametrize("start", [".", "image", "image/202101", "image/202101/{file}"])
def test_a_part_of_a_tree_still_finds_its_best_track(tiny, start):
    file = tiny.write(0)
    tiny.table("202101", tiny.rows([0]))
    track = only(sources.scan(tiny.root / start.format(file=file.name)))
    assert track.variables["central_pressure"].values.tolist() == [965]


def test_what_macos_and_others_leave_behind(tiny):
    file = tiny.write(0)
    file.with_name(f"._{file.name}").write_bytes(b"\0" * 10)
    file.with_name("thumbs.db").write_bytes(b"")
    file.with_name("copy of it.h5").write_bytes(b"")
    release = sources.scan(tiny.root)
    assert len(only(release).frames) == 1
    (problem,) = release.problems
    assert "copy of it.h5: name not understood; expected 2021071900-202107-HMW8-1.h5" in problem


def test_a_tree_below_the_folder_that_was_given_still_finds_its_best_track(tiny):
    tiny.write(0)
    tiny.table("202101", tiny.rows([0]))
    (tiny.root / "downloads/WP").mkdir(parents=True)
    for name in ("image", "metadata"):
        shutil.move(tiny.root / name, tiny.root / "downloads/WP" / name)
    release = sources.scan(tiny.root)
    assert only(release).variables["central_pressure"].values.tolist() == [965]
    assert release.notes == release.problems == ()


def test_names_in_capitals_are_the_same_tree(tiny):
    file = tiny.write(0)
    tiny.table("202101", tiny.rows([0]))
    file.rename(file.with_name(file.name.upper()))
    (tiny.root / "image").rename(tiny.root / "IMAGE")
    table = tiny.root / "metadata/202101.csv"
    table.rename(table.with_suffix(".CSV"))
    (tiny.root / "metadata").rename(tiny.root / "METADATA")
    track = only(sources.scan(tiny.root))
    assert track.variables["central_pressure"].values.tolist() == [965]
    assert track.frames[0].satellite == "HMW8"


def test_a_tree_without_tables_is_said_to_lack_them(tiny):
    tiny.write(0)
    tiny.write(0, id="202102")
    told = "no best track for {} of 2 typhoons: no usable metadata/<id>.csv beside image/ nor up"
    (note,) = sources.scan(tiny.root).notes
    assert told.format(2) in note
    tiny.table("202101", tiny.rows([0]))
    (note,) = sources.scan(tiny.root).notes
    assert told.format(1) in note
    tiny.table("202102", tiny.rows([0]))
    assert sources.scan(tiny.root).notes == ()


def test_what_macos_lays_beside_a_tree_is_no_second_file(tiny):
    file = tiny.write(0)
    (tiny.root / "__MACOSX/202101").mkdir(parents=True)
    shutil.move(tiny.root / "image/202101", tiny.root / "202101")
    (tiny.root / "__MACOSX/202101" / file.name).write_bytes(b"\0\5\x16\7")
    (tiny.root / "image").rmdir()
    release = sources.scan(tiny.root)
    assert len(only(release).frames) == 1
    assert release.problems == ()


def test_names_that_say_the_impossible(tiny):
    good = tiny.write(0)
    for name in ("2021023005-202101-HMW8-1.h5", "2021071924-202101-HMW8-1.h5"):
        shutil.copy(good, good.with_name(name))
    shutil.copy(good, good.with_name("2021071901-202101-HMW8-2.h5"))
    release = sources.scan(tiny.root)
    assert len(only(release).frames) == 1
    assert [p.split(": ", 1)[1] for p in release.problems] == [
        "2021023005 is not a UTC hour YYYYMMDDHH",
        "channel 2; outside of V3's folders only channel 1 (infrared) is read, or what --variable "
        "names",
        "2021071924 is not a UTC hour YYYYMMDDHH",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "0000010100-202101-HMW8-1.h5",  # before any calendar that readers of the store know
        "2021071909-\u0662\u0660\u0662\u0661\u0660\u0661-HMW8-1.h5",  # digits of another script
        "2021071909-202101-HMW8-1.h5\n.h5",
    ],
)
def test_names_that_only_look_right(tiny, name):
    tiny.write(0).with_name(name).touch()
    release = sources.scan(tiny.root)
    assert ids(release) == ["202101"]
    (problem,) = release.problems
    assert "name not understood" in problem


def test_two_files_of_one_hour(tiny):
    tiny.write(0)
    tiny.write(0, satellite="GOE9")
    said = r"two files for one hour of one typhoon: .*GOE9-1.h5 and .*HMW8-1.h5; expected one: move"
    with pytest.raises(UserError, match=said):
        sources.scan(tiny.root)


def test_a_link_that_leads_back_is_walked_once(tiny):
    tiny.write(0)
    (tiny.root / "image/loop").symlink_to(tiny.root / "image", target_is_directory=True)
    assert len(only(sources.scan(tiny.root)).frames) == 1


def test_linked_files_and_folders_are_followed(tiny):
    file = tiny.write(0)
    months = tiny.home / "months/image"
    (months / "202107").mkdir(parents=True)
    (months / "202107" / file.name).symlink_to(file)
    assert len(only(sources.scan(months.parent)).frames) == 1
    (tiny.home / "linked").symlink_to(tiny.root, target_is_directory=True)
    assert len(only(sources.scan(tiny.home / "linked")).frames) == 1


@pytest.mark.parametrize("path", ["absent", "empty", "text", "other"])
def test_nothing_to_read(tmp_path, path):
    (tmp_path / "empty/image").mkdir(parents=True)
    (tmp_path / "text").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/image.h5").write_bytes(b"")
    found = "no such file or folder" if path == "absent" else "no raw frames found; expected H5"
    with pytest.raises(UserError, match=f"{path}: {found}"):
        sources.scan(tmp_path / path)


FIRST, LAST = datetime(1978, 1, 1), datetime(2025, 12, 31)  # noqa: DTZ001
HOURS = st.datetimes(FIRST, LAST).map("{:%Y%m%d%H}".format)
IDS = st.sampled_from(["197801", "198702", "202101", "202107", "202112"])
SATELLITES = st.text("ABCabc019", min_size=1, max_size=4)
NAMES = st.builds("{}-{}-{}-1.h5".format, HOURS, IDS, SATELLITES)
FOLDERS = st.sampled_from(["", "202101", "202107", "2021/07", "more/of/it", "id=202101"])


@st.composite
def near_names(draw):
    """A name with something else in one place, or something taken away."""
    name, place = draw(NAMES), draw(st.integers(0, 25))
    other = draw(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), max_size=2))
    return name[:place] + other + name[place + draw(st.integers(0, 2)) :]


def parts(name):
    """Hour, id and satellite of a valid name, told by other means; None for any other."""
    if not name.isascii() or not name.endswith("-1.h5") or name.count("-") != 3:
        return None
    hour, id, satellite, _ = name.split("-")
    digits = hour.isdigit() and id.isdigit() and satellite.isalnum()
    if not digits or (len(hour), len(id)) != (10, 6) or hour[:2] not in ("19", "20"):
        return None
    try:
        return datetime.strptime(hour + "+0000", "%Y%m%d%H%z"), id, satellite
    except ValueError:
        return None


@contextmanager
def tree(files):
    """A tree of empty files, by name and folder: a scan looks at names alone."""
    with TemporaryDirectory() as home:
        for name, folder in files.items():
            place = Path(home, "image", folder)
            place.mkdir(parents=True, exist_ok=True)
            (place / name).touch()
        yield Path(home)


def frames(release):
    """What a release says of every file."""
    return [(t.id, f.time, f.satellite, f.paths[0].name) for t in release.tracks for f in t.frames]


@settings(deadline=None, max_examples=80)
@given(st.lists(NAMES | near_names(), max_size=12), NAMES, st.data())
def test_a_valid_name_is_its_parts_and_any_other_is_named(names, valid, data):
    names = {n for n in names if n not in ("", ".", "..") and len(os.fsencode(n)) < 256} | {valid}
    files = {name: data.draw(FOLDERS) for name in names}
    listed = [name for name in names if name.endswith(".h5") and not name.startswith(".")]
    expected = sorted((*reversed(parts(n)[:2]), parts(n)[2], n) for n in listed if parts(n))
    with tree(files) as root:
        if len({(id, hour) for id, hour, *_ in expected}) < len(expected):
            with pytest.raises(UserError, match="two files for one hour of one typhoon"):
                sources.scan(root)
            return
        release = sources.scan(root)
    found = [(id, f"{time}Z", *more) for id, time, *more in frames(release)]
    assert found == [(id, f"{hour:%Y-%m-%dT%H:%M:%SZ}", *more) for id, hour, *more in expected]
    left_out = [name for name in listed if not parts(name)]
    assert len(release.problems) == len(left_out)
    for name in left_out:
        assert any(f"/{name}: " in problem for problem in release.problems)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(NAMES, st.tuples(FOLDERS, FOLDERS), min_size=1, max_size=12))
def test_however_folders_are_regrouped_the_release_is_the_same(files):
    names = {parts(name)[:2]: name for name in files}.values()  # one file for each hour
    seen = []
    for grouping in (0, 1):
        with tree({name: files[name][grouping] for name in names}) as root:
            seen.append(sources.scan(root))
    assert frames(seen[0]) == frames(seen[1])
    assert ids(seen[0]) == sorted(set(ids(seen[0])))
    assert seen[0].problems == seen[1].problems == ()


# the best track


def test_the_best_track_is_joined_by_hour(tiny):
    tiny.track(hours=[0, 1, 2, 5])
    rows = tiny.rows([1], "3,10.5,135.5,990,40,0,1") + tiny.rows([2, 3, 4, 5])
    tiny.table("202101", rows)
    track = only(sources.scan(tiny.root))
    values = {name: v.values for name, v in track.variables.items()}
    assert {v.dtype for v in values.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(values["latitude"], [np.nan, 10.5, 20.5, 20.5])
    np.testing.assert_array_equal(values["max_wind"], [np.nan, 40, 75, 75])
    np.testing.assert_array_equal(values["grade"], [np.nan, 3, 5, 5])
    np.testing.assert_array_equal(values["interpolated"], [np.nan, 1, 0, 0])
    assert track.unmatched_frames == 1  # hour 0
    assert track.unmatched_rows == 2  # hours 3 and 4
    assert track.variables["central_pressure"].attrs["units"] == "hPa"
    assert track.variables["max_wind"].attrs["units"] == "kt"


def test_minus_one_and_empty_are_missing_but_one_degree_south_is_a_place(tiny):
    tiny.track(hours=[0, 1, 2, 3])
    values = [
        "-1,-1,179.9,-1,-1,0,-1",
        "5,10,-1,,,0,",
        "5,-0.5,181.5,990,0,0,0",
        "-1,-1,-1,-1,-1,0,-1",
    ]
    tiny.table("202101", [row for h, v in enumerate(values) for row in tiny.rows([h], v)])
    found = {n: v.values for n, v in only(sources.scan(tiny.root)).variables.items()}
    nan = np.nan
    np.testing.assert_array_equal(found["latitude"], np.float32([-1, 10, -0.5, nan]))
    np.testing.assert_array_equal(found["longitude"], np.float32([179.9, -1, 181.5, nan]))
    np.testing.assert_array_equal(found["central_pressure"], [nan, nan, 990, nan])
    np.testing.assert_array_equal(found["max_wind"], [nan, nan, 0, nan])  # 0 kt: not analysed
    np.testing.assert_array_equal(found["grade"], [nan, 5, 5, nan])
    np.testing.assert_array_equal(found["interpolated"], [nan, nan, 0, nan])


def test_of_a_repeated_hour_the_first_row_counts(tiny):
    tiny.track(hours=[0])
    tiny.table("202101", tiny.rows([0], "5,10,130,950,80,0,0") + tiny.rows([0]))
    track = only(sources.scan(tiny.root))
    assert track.variables["latitude"].values.tolist() == [10]
    assert track.unmatched_rows == 0


def test_a_table_with_faults_costs_only_its_rows(tiny):
    tiny.track(hours=[0, 1])
    tiny.table("202101", [*tiny.rows([0]), "2021,13,40,0,5,1,1,1,1,0,0", "x,,,,,,,,,,"])
    release = sources.scan(tiny.root)
    assert only(release).variables["latitude"].values[0] == 20.5
    assert only(release).unmatched_rows == 0
    (problem,) = release.problems
    assert problem.endswith("202101.csv: 2 rows without a valid date left out")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "year,month,day,hour,grade,lat,lng\n2021,7,19,0,5,1,1\n",
            "no column pressure, wind, intp",
        ),
        ("", "not a readable CSV table"),
        ("\x00\x01\xff", "not a readable CSV table|no column"),
        ('a,b\n"1,2\n', "not a readable CSV table|no column"),
        ("a\n1,2\n1,2,3,4\n", "not a readable CSV table|no column"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(tiny, text, said):
    tiny.track(hours=[0])
    tiny.table("202101", []).write_bytes(text.encode("latin-1"))
    release = sources.scan(tiny.root)
    assert only(release).variables == {}
    assert only(release).unmatched_frames == 1
    (problem,) = release.problems
    np.testing.assert_string_equal(problem.split(".csv")[0][-6:], "202101")
    assert any(word in problem for word in said.split("|"))


def test_a_table_without_rows(tiny):
    tiny.track(hours=[0])
    tiny.table("202101", [])
    release = sources.scan(tiny.root)
    assert only(release).unmatched_frames == 1
    assert release.problems == ()


@pytest.mark.parametrize("place", ["aux_data.csv", "metadata/aux_data.csv"])
def test_one_table_for_all_is_joined_as_one_per_storm_is(tiny, place):
    tiny.track("202101", [0, 1])
    tiny.track("197801", [0])
    rows = {"202101": tiny.rows([0, 2]), "197801": tiny.rows([0], "3,9,130,999,35,0,1")}
    for id, lines in rows.items():
        tiny.table(id, lines)
    apart = sources.scan(tiny.root)
    shutil.rmtree(tiny.root / "metadata")
    columns = tiny.table("x", []).read_text().strip()
    (tiny.root / "metadata/x.csv").unlink()
    lines = [f"{id},image/{id}/x.h5,{row}" for id, rows in rows.items() for row in rows]
    (tiny.root / place).write_text("\ufeff" + "\n".join([f"id,image_path,{columns}", *lines]))
    together = sources.scan(tiny.root)
    assert together.problems == apart.problems == ()
    for a, b in zip(apart.tracks, together.tracks, strict=True):
        assert (a.id, a.unmatched_rows, a.unmatched_frames) == (
            b.id,
            b.unmatched_rows,
            b.unmatched_frames,
        )
        for name in a.variables:
            np.testing.assert_array_equal(a.variables[name].values, b.variables[name].values)


@pytest.mark.parametrize(
    "text", ["", "image_path,year\nx,2021\n", "id,year\n202101,2021\n202102,2021\n"]
)
def test_a_fault_of_the_table_for_all_is_said_once(tiny, text):
    tiny.track("202101", [0])
    tiny.track("202102", [0])
    (tiny.root / "aux_data.csv").write_text(text)
    release = sources.scan(tiny.root)
    assert len(release.problems) == 1
    assert all(track.variables == {} for track in release.tracks)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_table_that_may_not_be_read_is_named(tiny):
    tiny.track(hours=[0])
    tiny.table("202101", tiny.rows([0])).chmod(0)
    (problem,) = sources.scan(tiny.root).problems
    assert "Permission denied" in problem


# one file


@pytest.mark.parametrize("name", ["Infrared", "infrared", "Data", "whatever"])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2"])
def test_the_dataset_is_found_whatever_its_name(tiny, name, dtype):
    pixels = tiny.pixels(shape=(4, 6)).astype(dtype)
    frame = read(tiny.write(0, pixels=pixels, dataset=name))
    assert frame.dtype == np.float32
    np.testing.assert_array_equal(frame, pixels.astype(np.float32)[None])


def test_an_image_among_other_datasets(tiny):
    path = tiny.write(0)
    with h5py.File(path, "a") as file:
        file["mask"] = np.zeros((16, 16))
        file["count"] = 3
        file.create_group("more")
    np.testing.assert_array_equal(read(path)[0], tiny.pixels(202101).astype(np.float32))


@pytest.mark.parametrize(
    "units", [None, "K", "Kelvin", b"kelvin", " K", "", np.array([b"K"]), h5py.Empty("S1")]
)
def test_units_that_are_kelvin_or_not_said(tiny, units):
    assert read(tiny.write(0, units=units)).shape == (1, 16, 16)


@pytest.mark.parametrize("units", ["degC", b"1", "\u00b0C", 3, "km"])
def test_other_units_are_refused(tiny, units):
    with pytest.raises(FrameError, match=r"h5: units are .*; expected kelvin"):
        read(tiny.write(0, units=units))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_hdf5(path):
    path.write_bytes(b"<html>404</html>" * 100)


def empty(path):
    path.write_bytes(b"")


def gone(path):
    path.unlink()


def dangling(path):
    path.unlink()
    path.symlink_to(path.with_name("not here"))


def folder(path):
    path.unlink()
    path.mkdir()


def soft_link(path):
    with h5py.File(path, "w") as file:
        file["Infrared"] = h5py.SoftLink("/nowhere")


def rewritten(data):
    def rewrite(path):
        with h5py.File(path, "w") as file:
            file["Infrared"] = data

    return rewrite


def two_images(path):
    with h5py.File(path, "w") as file:
        file["a"] = file["b"] = np.zeros((4, 4))


def enormous(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("Infrared", (10**6, 10**6), "f8", chunks=(256, 256))


def no_side(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("Infrared", (0, 16), "f8")


HARM = {
    cut: r"not a readable HDF5 image \(.*\); it is cut off: download it again",
    no_hdf5: "not a readable HDF5 image",
    empty: "not a readable HDF5 image",
    gone: "no such file",
    dangling: "no such file",
    folder: "not a file",
    soft_link: "expected one 2-D image",
    two_images: "expected one 2-D image",
    enormous: "expected sides of 1 to 4096",
    no_side: "expected sides of 1 to 4096",
    rewritten(np.zeros((3, 16, 16))): r"\(3, 16, 16\).*expected one 2-D image",
    rewritten(np.zeros((16, 16), np.int16)): "int16; expected floating-point kelvin",
    rewritten(np.zeros((16, 16), np.uint8)): "uint8; expected floating-point kelvin",
    rewritten(np.zeros((16, 16), complex)): "complex128; expected floating-point kelvin",
    rewritten(np.zeros((16, 16), "S3")): "expected floating-point kelvin",
    rewritten(h5py.Empty("f8")): "expected one 2-D image",
}


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_what_is_no_image_is_one_clear_sentence(tiny, harm):
    path = tiny.write(0)
    harm(path)
    with pytest.raises(FrameError, match=HARM[harm]) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


def test_values_beyond_float32_are_infinite_not_a_warning(tiny):
    pixels = tiny.pixels()
    pixels[0, 0] = 1e300
    assert np.isinf(read(tiny.write(0, pixels=pixels))[0, 0, 0])


# basins


def sides(release):
    return [track.attrs.get("hemisphere") for track in release.tracks]


def test_the_best_track_tells_the_hemisphere(tiny):
    for id, latitude in (("202101", 20.5), ("202102", -20.5), ("202103", 12)):
        tiny.write(0, id)
        tiny.table(id, tiny.rows([0], f"5,{latitude},135.25,965,75,0,0"))
    tiny.write(0, "202104")  # no best track, and the tree is not named WP or AU
    assert sides(sources.scan(tiny.root)) == ["north", "south", "north", None]
    assert tiny.store().track("202102").attrs["hemisphere"] == "south"


@pytest.mark.parametrize(("name", "side"), [("AU", "south"), ("WP", "north"), ("mine", None)])
def test_else_the_basin_does(tiny, name, side):
    tiny.track("202101", [0])
    tiny.root = tiny.root.rename(tiny.home / name)
    assert sides(sources.scan(tiny.root)) == [side]
    assert sides(sources.scan(tiny.root / "image/202101")) == [side]


def test_two_basins_number_their_storms_alike(tiny):
    tiny.track("202101", [0])
    tiny.root.rename(tiny.home / "AU")
    tiny.track("202101", [1])
    tiny.track("202102", [1])
    tiny.root.rename(tiny.home / "WP")
    with pytest.raises(UserError, match="two storms 202101, of the basins AU and WP; choose"):
        sources.scan(tiny.home)
    shutil.rmtree(tiny.home / "WP/image/202101")
    assert sides(sources.scan(tiny.home)) == ["south", "north"]


def test_a_training_is_told_of_mirrors_and_of_both_hemispheres(tiny, capsys):
    for id, latitude in (("202101", 20.5), ("202102", -20.5)):
        tiny.write(0, id)
        tiny.table(id, tiny.rows([0], f"5,{latitude},135.25,965,75,0,0"))
    tiny.write(0, "202103")
    north, south, unknown = tiny.store()

    def told(tracks, augment, kind="forecast"):
        channels = [{"name": "ir", "units": "K", "valid_min": 150.0, "valid_max": 330.0}]
        task = tasks.build(kind, tasks.SETTINGS[kind](), 3, channels)
        demands.say_mirrored(task, tracks, TrainSettings(augment=augment))
        return capsys.readouterr().err

    assert "mirrors half of the samples" in told([north, unknown], True)
    assert "1 are of the northern hemisphere and 1 of the southern" in told(
        [north, south], "rotations"
    )
    assert (
        told([north, unknown], "rotations") == told([north], False) == told([unknown], True) == ""
    )
    of_tree = list(raw_tree.opened(tiny.root))
    capsys.readouterr()
    assert "mirrors half" in told(of_tree, True)
    assert told([north, south], True, "superres") == ""  # of which no frame knows how it turns


# V3: a tree for each channel and basin


@pytest.fixture(scope="module")
def v3(tmp_path_factory):
    """WP 202101 with four channels and one file gone, WP 198701 with one channel; AU 202101."""
    root = tmp_path_factory.mktemp("v3") / "V3-2025"
    storms = [
        Storm("202101", hours=4),
        Storm("198701", datetime(1987, 4, 9, 19, tzinfo=UTC), 3, satellite="GMS3"),
        Storm("202102", hours=3, latitude=-18, name="south"),
    ]
    write_tree(root, storms, size=16, channels=(1, 2, 3, 4))
    (root / "2/WP/image/202101/2021071901-202101-HMW8-2.h5").unlink()
    for old in root.glob("*/AU/**/*202102*"):
        if old.is_file():  # the basins number their storms alike
            old.rename(old.with_name(old.name.replace("202102", "202101")))
    return root


def stored(v3, target, words=None):
    options = asked(**(words or {}))
    how = {"manifests": target.parent / "m", "workers": 1}
    return convert.convert(v3, target, ConvertSettings(options=options), **how)


def test_the_channels_of_v3_become_those_of_one_frame(v3, tmp_path):
    done = stored(v3, tmp_path / "S.zarr", {"basin": "WP"})
    opened = store.open_store(tmp_path / "S.zarr")
    names = ["infrared", "infrared_2", "water_vapour", "near_infrared"]
    assert [c["name"] for c in opened.channels] == names
    track = opened.track("202101")
    assert track.frames.shape == (4, 4, 16, 16)
    for c, channel in enumerate("1234"):
        for t, when in enumerate(("00", "01", "02", "03")):
            file = v3 / channel / f"WP/image/202101/20210719{when}-202101-HMW8-{channel}.h5"
            if not file.exists():
                assert (t, c) == (1, 1)
                assert np.isnan(track.frames[t, c]).all()
                continue
            with h5py.File(file) as opened_file:
                assert list(opened_file) == ["Data"]
                expected = opened_file["Data"][...].astype(np.float32)
            np.testing.assert_array_equal(track.frames[t, c], expected)
    assert track.values("missing_fraction").tolist() == [0, 0.25, 0, 0]
    assert (track.flag > 0).tolist() == [False, True, False, False]  # in no window
    assert track.values("latitude").shape == (4,)  # of 1/WP/metadata
    assert track.attrs["hemisphere"] == "north"
    old = opened.track("198701")
    assert (old.flag > 0).all()
    assert np.isnan(old.frames[:, 1:]).all()
    assert not np.isnan(old.frames[:, 0]).any()
    (note,) = done.notes
    assert note.startswith(
        "4 of 7 hours lack a channel (infrared_2 at 4, water_vapour at 3, near_infrared at 3)"
    )
    found = verify.verify(tmp_path / "S.zarr", source=v3, workers=1)
    assert (found.equal, found.faults) == (7, [])


def test_one_channel_of_v3_is_what_its_own_tree_gives(v3, tmp_path):
    stored(v3, tmp_path / "a.zarr", {"basin": "WP", "variable": ["3"]})
    stored(v3 / "3/WP", tmp_path / "b.zarr")
    a, b = (store.open_store(tmp_path / name) for name in ("a.zarr", "b.zarr"))
    assert a.ids == b.ids == ["202101"]
    assert a.channels == b.channels
    assert a.channels[0]["name"] == "water_vapour"
    np.testing.assert_array_equal(a.track("202101").frames, b.track("202101").frames)
    assert a.track("202101").has("latitude")


def test_channels_come_in_the_order_that_is_asked(v3):
    release = sources.scan(v3, asked(basin="WP", variable=["water_vapour,infrared"]))
    assert [channel.name for channel in release.channels] == ["water_vapour", "infrared"]
    frame = release.tracks[-1].frames[0]
    frames = read_frame(frame)
    alone = [read(frame.paths[i])[0] for i in (0, 1)]
    assert [path.name[-4] for path in frame.paths] == ["3", "1"]
    np.testing.assert_array_equal(frames, alone)
    room = np.empty_like(frames)
    assert read_frame(frame, into=room) is room
    np.testing.assert_array_equal(room, alone)


def test_v3_has_two_basins_and_says_so(v3):
    with pytest.raises(UserError, match=r"two storms 202101, of the basins AU and WP; choose one"):
        sources.scan(v3)
    south = only(sources.scan(v3, asked(basin="AU")))
    assert (south.id, south.attrs["hemisphere"]) == ("202101", "south")
    assert len(south.frames[0].paths) == 4
    with pytest.raises(UserError, match="no usable H5 file; there is none of the basin AU"):
        sources.scan(v3 / "1/WP", asked(basin="AU"))
    with pytest.raises(UserError, match="has no file of the channel near_infrared"):
        sources.scan(v3 / "1/WP", asked(variable=["1", "4"]))


def test_channels_of_other_sizes_are_no_frame(v3, tiny):
    release = sources.scan(v3, asked(basin="WP", variable=["1", "2"]))
    first = release.tracks[-1].frames[0]
    other = tiny.write(0, pixels=tiny.pixels(shape=(8, 8)))
    with pytest.raises(FrameError, match=r"channels are \(16, 16\), \(8, 8\); expected one size"):
        read_frame(RawFrame(first.time, (first.paths[0], other), part=(2, (0, 1))))


def test_a_channel_that_comes_or_goes_is_another_source(v3):
    options = asked(basin="WP", variable=["1", "2"])
    track = sources.scan(v3, options).tracks[-1]
    less = replace(track, frames=(replace(track.frames[0], paths=track.frames[0].paths[:1],
                   part=(2, (0,))), *track.frames[1:]))  # fmt: skip
    prints = [fingerprint(raw, ConvertSettings(options=options)) for raw in (track, less)]
    assert prints[0] != prints[1]


def test_invented_storms_are_nobody_s_data(tiny):
    tiny.track(hours=range(3))
    assert sources.scan(tiny.root).attrs == ATTRS
    (tiny.root / INVENTED).touch()
    for path in (tiny.root, tiny.root / "image/202101", tiny.path(0)):
        found = sources.scan(path)
        for attrs in (found.attrs, found.tracks[0].attrs):
            assert attrs["source"] == "drawn by eddy, not observed"
            assert not {"license", "attribution"} & set(attrs)
            assert attrs["pixel_km"] == ATTRS["pixel_km"]
