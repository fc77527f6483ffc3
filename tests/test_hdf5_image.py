"""One image out of an HDF5 file: two ways that agree, and no file that can harm the program.

What may crash, hang or grow runs in a process of its own: this very file, as a script.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t, h5z
from typer.testing import CliRunner

from pipeline.sources import FrameError, hdf5_image

NAMES = ("Infrared", "infrared", "Data")
DATA = Path(os.environ.get("EDDY_DATA", Path(__file__).parents[2] / "shared/data/WP"))
DTYPES = ["<f8", ">f8", "<f4", ">f4", "<f2", ">f2"]
MIB = 1 << 20


def image(shape: tuple[int, int] = (45, 70), dtype: str = "<f8") -> np.ndarray:
    """Kelvin, and all that a float can be beside."""
    values = np.random.default_rng(0).integers(1700, 3300, shape) / 10
    values[0, :6] = np.nan, np.inf, -np.inf, -0.0, 5e-324, 1e300
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(dtype)


def write(
    path: Path,
    pixels: np.ndarray | None = None,
    *,
    name: str = "Infrared",
    units: object = np.bytes_(b"K (kelvin)"),
    libver: str | None = None,
    userblock: int = 0,
    **form: object,
) -> Path:
    with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
        data = file.create_dataset(name, data=image() if pixels is None else pixels, **form)
        if units is not None:
            data.attrs["units"] = units
    return path


def lay_out(
    path: Path,
    *,
    kind: h5t.TypeID = h5t.IEEE_F64LE,
    shape: tuple[int, ...] = (45, 70),
    chunk: tuple[int, ...] | None = (16, 32),
    filters: Sequence[tuple[int, tuple[int, ...]]] = (),
    layout: int | None = None,
    pixels: np.ndarray | None = None,
) -> Path:
    """What h5py's own interface does not offer."""
    form = h5p.create(h5p.DATASET_CREATE)
    if layout is not None:
        form.set_layout(layout)
    elif chunk:
        form.set_chunk(chunk)
    for code, settings in filters:
        form.set_filter(code, 0, settings)
    with h5py.File(path, "w") as file:
        data = h5d.create(file.id, b"Infrared", kind, h5s.create_simple(shape), form)
        if pixels is not None:
            data.write(h5s.ALL, h5s.ALL, pixels)
    return path


def read(path: Path, direct: bool = True) -> np.ndarray:
    return hdf5_image.read(path, NAMES, direct=direct)[0]


def refused(path: Path, told: str) -> None:
    """Both ways say the same, on one line that begins with the file's name."""
    said = []
    for direct in (True, False):
        with pytest.raises(FrameError, match=told) as caught:
            read(path, direct)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert said[0].startswith(f"{path}: ")
    assert len(said[0].splitlines()) == 1


# the two ways


class ByHDF5(Exception):
    """Raised where the pixels are left to HDF5."""


@pytest.fixture
def here_alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], np.ndarray]:
    """Reads an image; raises ByHDF5 unless each of its chunks is unpacked here."""

    def refuse(*_: object) -> None:
        raise ByHDF5

    def alone(path: Path) -> np.ndarray:
        with monkeypatch.context() as patch:
            patch.setattr(hdf5_image, "plain", refuse)
            return read(path)

    return alone


GZIP = {"chunks": (16, 32), "compression": "gzip"}
HERE = {
    "release": {**GZIP, "compression_opts": 9},
    "even": {**GZIP, "chunks": (15, 35)},
    "one chunk": {**GZIP, "chunks": (45, 70)},
    "a pixel each": {**GZIP, "chunks": (9, 1)},
    "chunk larger than the image": {**GZIP, "chunks": (64, 128), "maxshape": (99, 199)},
    "level 0": {**GZIP, "compression_opts": 0},
    "shuffled": {**GZIP, "shuffle": True},
    "shuffled alone": {"chunks": (16, 32), "shuffle": True},
    "chunks as they are": {"chunks": (16, 32)},
    "user block": {**GZIP, "userblock": 1024},
    "array of chunks": {**GZIP, "libver": "latest"},
    "growing array of chunks": {**GZIP, "libver": "latest", "maxshape": (None, 70)},
    "B-tree of chunks": {**GZIP, "libver": "latest", "maxshape": (None, None)},
    "one chunk, no index": {**GZIP, "libver": "latest", "chunks": (45, 70)},
}
BY_HDF5 = {
    "fletcher32": {**GZIP, "fletcher32": True},
    "fletcher32 alone": {"chunks": (16, 32), "fletcher32": True},
    "all three": {**GZIP, "shuffle": True, "fletcher32": True},
    "lzf": {"chunks": (16, 32), "compression": "lzf"},
    "lzf, shuffled": {"chunks": (16, 32), "compression": "lzf", "shuffle": True},
    "contiguous": {},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [*HERE, *BY_HDF5])
def test_both_ways_give_what_h5py_gives(tmp_path, here_alone, layout, dtype):
    form = {**HERE, **BY_HDF5}[layout]
    path = write(tmp_path / "x.h5", image(dtype=dtype), **form)
    with h5py.File(path) as file, np.errstate(over="ignore"):
        expected = file["Infrared"][:].astype(np.float32)
    assert read(path).tobytes() == read(path, direct=False).tobytes() == expected.tobytes()
    if layout in HERE:
        assert here_alone(path).tobytes() == expected.tobytes()
    else:
        with pytest.raises(ByHDF5):
            here_alone(path)


ORDERS = [
    order
    for count in (1, 2, 3)
    for order in permutations(
        (h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE, h5z.FILTER_FLETCHER32), count
    )
]


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("dtype", ["<f8", "<f2"])
def test_filters_in_any_order(tmp_path, order, dtype):
    filters = [(code, (6,) if code == h5z.FILTER_DEFLATE else ()) for code in order]
    kind, pixels = h5t.py_create(np.dtype(dtype)), image(dtype=dtype)
    path = lay_out(tmp_path / "x.h5", kind=kind, filters=filters, pixels=pixels)
    with np.errstate(over="ignore"):
        expected = pixels.astype(np.float32).tobytes()
    assert read(path).tobytes() == read(path, direct=False).tobytes() == expected


@pytest.mark.parametrize("level", range(10))
def test_every_level_of_the_release_s_own_form(tmp_path, here_alone, level):
    pixels = image((300, 300))
    path = write(
        tmp_path / "x.h5", pixels, chunks=(256, 256), compression="gzip", compression_opts=level
    )
    with np.errstate(over="ignore"):
        expected = pixels.astype(np.float32).tobytes()
    assert here_alone(path).tobytes() == read(path, direct=False).tobytes() == expected


def test_a_compact_image_lies_in_the_header(tmp_path):
    path = lay_out(tmp_path / "x.h5", layout=h5d.COMPACT, pixels=image())
    assert read(path).tobytes() == read(path, direct=False).tobytes()
    np.testing.assert_array_equal(read(path)[1:], image()[1:].astype(np.float32))


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_chunk_that_skipped_filters(tmp_path, here_alone, shuffle):
    """HDF5 stores a chunk as it is where a filter would not make it smaller."""
    pixels = image((32, 64))
    path = write(tmp_path / "x.h5", pixels, **GZIP, shuffle=shuffle)
    with h5py.File(path, "r+") as file:
        data = file["Infrared"].id
        data.write_direct_chunk((0, 32), pixels[:16, 32:].tobytes(), 3 if shuffle else 1)
        if shuffle:  # shuffled but not deflated
            shuffled = np.frombuffer(pixels[16:, :32].tobytes(), "u1").reshape(-1, 8).T.tobytes()
            data.write_direct_chunk((16, 0), shuffled, 2)
    assert here_alone(path).tobytes() == read(path, direct=False).tobytes()
    np.testing.assert_array_equal(read(path)[1:], pixels[1:].astype(np.float32))


@pytest.mark.parametrize("name", [*NAMES, "other", "\u6e29\u5ea6", "two\nlines"])
def test_any_name(tmp_path, here_alone, name):
    path = write(tmp_path / "x.h5", name=name, **GZIP)
    assert here_alone(path).shape == (45, 70)
    assert hdf5_image.shape(path, NAMES) == (45, 70)
    assert hdf5_image.read(path, NAMES)[1] == "K (kelvin)"
    refused(write(path, np.zeros((2, 3), int), name=name), r"is int64; expected floating-point")


def test_of_two_images_the_name_that_comes_first_counts(tmp_path):
    path = write(tmp_path / "x.h5", np.full((3, 4), 200.0), name="Data")
    with h5py.File(path, "r+") as file:
        file["infrared"] = np.full((5, 6), 250.0)
        file["Infrared"] = np.zeros((2, 3, 4))  # no image
        file["mask"] = np.zeros((5, 6))
    assert read(path).shape == (5, 6)


def test_a_hard_link_to_deeper_in_the_file_is_the_image(tmp_path):
    path = write(tmp_path / "x.h5", name="a/b/c", **GZIP)
    with h5py.File(path, "r+") as file:
        file["Infrared"] = file["a/b/c"]
    assert read(path).shape == (45, 70)


def test_a_named_type_is_the_type(tmp_path, here_alone):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["type"] = np.dtype(">f4")
        file.create_dataset("Infrared", data=image(dtype=">f4"), dtype=file["type"], **GZIP)
    np.testing.assert_array_equal(here_alone(path), image(dtype=">f4"))


def test_into_is_used_where_it_fits(tmp_path):
    path = write(tmp_path / "x.h5", **GZIP)
    room = np.full((45, 70), 7, np.float32)
    assert hdf5_image.read(path, NAMES, into=room)[0] is room
    assert room.tobytes() == read(path).tobytes()
    small = np.full((45, 69), 7, np.float32)
    assert hdf5_image.read(path, NAMES, into=small)[0].tobytes() == room.tobytes()
    assert (small == 7).all()


def test_threads_do_not_get_in_one_another_s_way(tmp_path):
    """A limit on memory, for what HDF5 unpacks, is the whole process's."""
    paths = [
        write(tmp_path / f"{n}.h5", **{**HERE, **BY_HDF5}[name])
        for n, name in enumerate(["release", "lzf", "fletcher32", "contiguous", "shuffled"])
    ]
    expected = [read(path).tobytes() for path in paths]
    before = resource.getrlimit(resource.RLIMIT_AS)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(read, paths * 40))
    assert [pixels.tobytes() for pixels in found] == expected * 40
    assert resource.getrlimit(resource.RLIMIT_AS) == before


# what is refused


@pytest.mark.parametrize(
    "kind",
    [h5t.STD_I16LE, h5t.STD_B16LE, h5t.NATIVE_LDOUBLE, h5t.C_S1, h5t.STD_REF_OBJ, "biased", "bool"],
    ids=["integer", "bits", "long double", "string", "reference", "biased", "bool"],
)
def test_types_that_are_no_ieee_754(tmp_path, kind):
    if kind == "biased":  # as IEEE 754, but for the exponent's bias
        kind = h5t.IEEE_F64LE.copy()
        kind.set_ebias(1000)
    elif kind == "bool":
        kind = h5t.py_create(np.dtype(bool))
    path = lay_out(tmp_path / "x.h5", kind=kind, filters=[(h5z.FILTER_DEFLATE, (4,))])
    refused(path, r"expected floating-point kelvin|not a readable HDF5 image \(No NumPy")


@pytest.mark.parametrize(
    ("sides", "chunk"),
    [
        ((1 << 40, 1 << 40), (256, 256)),
        ((4097, 10), (16, 10)),
        ((0, 10), None),
        ((20_000, 20_000), (20_000, 20_000)),
        ((1 << 40, 1 << 20), None),
    ],
)
def test_absurd_shapes(tmp_path, sides, chunk):
    refused(lay_out(tmp_path / "x.h5", shape=sides, chunk=chunk), "sides of 1 to 4096")


@pytest.mark.parametrize("form", [GZIP, {"chunks": (16, 32)}, {}])
def test_pixels_that_were_never_written_are_not_guessed(tmp_path, form):
    for name, rows in (("none", 0), ("half", 16)):
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("Infrared", (32, 64), "f8", **form)[:rows] = 250
    refused(tmp_path / "none", r"'Infrared' holds no pixels; is it whole\?")
    if form:
        refused(tmp_path / "half", r"'Infrared' has 2 chunks, expected 4; is it whole\?")


UNSAFE = {
    "szip": {"compression": "szip", "chunks": (16, 32)},
    "scaleoffset": {"scaleoffset": 2, "chunks": (16, 32)},
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_makes_hdf5_crash_when_damaged_is_not_read(tmp_path, name):
    if name == "szip" and not h5py.h5z.filter_avail(h5z.FILTER_SZIP):
        pytest.skip("this HDF5 has no szip")
    path = write(tmp_path / "x.h5", np.ones((45, 70)), **UNSAFE[name])
    refused(path, rf"is packed by {name}; expected deflate \(h5repack")


def test_nbit_is_not_read(tmp_path):
    path = lay_out(tmp_path / "x.h5", filters=[(h5z.FILTER_NBIT, ())], pixels=image())
    refused(path, "is packed by nbit; expected deflate")


def test_a_filter_that_nobody_here_has(tmp_path):
    path = write(tmp_path / "x.h5", **GZIP)
    content = path.read_bytes()
    message = struct.pack("<HHHH", h5z.FILTER_DEFLATE, 8, 1, 1) + b"deflate\0"
    assert content.count(message) == 1
    path.write_bytes(
        content.replace(message, struct.pack("<HHHH", 32_015, 8, 0, 1) + b"zst\0\0\0\0\0")
    )
    refused(path, "is packed by HDF5's filter 32015; expected deflate")


FULL = 16 * 32 * 8
SIZES = {
    "too little": zlib.compress(b"\1" * 1000),
    "too much": zlib.compress(b"\1" * (FULL + 1)),
    "nothing": zlib.compress(b""),
    "not the whole stream": zlib.compress(bytes(range(256)) * (FULL // 256))[:-5],
    "no stream": b"\0",
}


@pytest.mark.parametrize("payload", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("filters", ["gzip", "shuffle", "fletcher32"])
def test_a_chunk_that_inflates_to_another_size(tmp_path, filters, payload):
    """HDF5 itself would show what lies in memory beside a chunk that is too small."""
    form = GZIP if filters == "gzip" else {**GZIP, filters: True}
    path = write(tmp_path / "x.h5", image((32, 64)), **form)
    if filters == "fletcher32":
        payload += struct.pack("<I", 0)
    with h5py.File(path, "r+") as file:
        file["Infrared"].id.write_direct_chunk((16, 32), payload)
    refused(path, "the chunk at row 16, column 32 is damaged: ")


@pytest.mark.parametrize("length", [1, FULL - 1, FULL + 1, 100_000])
@pytest.mark.parametrize("compression", ["gzip", "lzf"])
def test_a_chunk_that_skipped_its_filter_has_its_size(tmp_path, compression, length):
    """HDF5 would show what lies in memory beside it."""
    form = {**GZIP, "compression": compression}
    path = write(tmp_path / "x.h5", image((32, 64)), **form)
    with h5py.File(path, "r+") as file:
        file["Infrared"].id.write_direct_chunk((16, 32), b"\1" * length, 1)
    refused(path, rf"chunk at row 16, column 32 is damaged: {length} bytes; expected {FULL} bytes")


@pytest.mark.parametrize("length", [1, FULL - 1, FULL + 1, FULL + 2000])
def test_a_chunk_without_filters_has_its_size(tmp_path, length):
    """HDF5 would read, and write, beyond the end of its memory."""
    path = write(tmp_path / "x.h5", image((32, 64)), chunks=(16, 32))
    content = bytearray(path.read_bytes())
    leaf = content.index(b"TREE\1\0\4\0")  # of four chunks; each key begins with its length
    struct.pack_into("<I", content, leaf + 24 + 40, length)
    path.write_bytes(content)
    refused(path, rf"chunk at row 0, column 32 is damaged: {length} bytes; expected {FULL} bytes")


def test_a_shuffle_by_another_number_is_damage(tmp_path):
    filters = [(h5z.FILTER_SHUFFLE, ()), (h5z.FILTER_DEFLATE, (4,))]
    path = lay_out(tmp_path / "x.h5", filters=filters, pixels=image())
    message = (
        struct.pack("<HHHH", h5z.FILTER_SHUFFLE, 8, 0, 1) + b"shuffle\0" + struct.pack("<I", 8)
    )
    content = path.read_bytes()
    assert content.count(message) == 1
    path.write_bytes(content.replace(message, message[:-4] + struct.pack("<I", 4)))
    refused(path, r"shuffled by \(4,\), not by 8 bytes")


# units


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        (None, ""),
        (np.bytes_(b"kelvin"), "kelvin"),
        ("kelvin", "kelvin"),
        ("\u00b0C", "\u00b0C"),
        (np.bytes_(b" K "), "K"),
        ("", ""),
        (np.array([b"K", b"x"]), "K"),
        (np.array(["K", "x"], object), "K"),
        (np.array([], "S3"), ""),
        (h5py.Empty("S3"), ""),
        (3, "3"),
        (1.5, "1.5"),
    ],
)
def test_units_however_they_are_written(tmp_path, units, expected):
    path = write(tmp_path / "x.h5", units=units, **GZIP)
    assert hdf5_image.read(path, NAMES)[1] == expected


@pytest.mark.parametrize("libver", [None, "latest"])
@pytest.mark.parametrize(
    ("units", "told"),
    [
        (np.bytes_(b"K" * 60_000), "its units are 60000 bytes"),
        (np.array([b"K"] * 2000), "its units are 2000 bytes"),
        (np.array([(1, 2.0)], "i4,f8"), "its units are neither text nor a number"),
        (h5py.Reference(), "its units are neither text nor a number"),
    ],
)
def test_absurd_units(tmp_path, libver, units, told):
    refused(write(tmp_path / "x.h5", units=units, libver=libver, **GZIP), told)


def test_units_of_ten_megabytes(tmp_path):
    units = np.zeros(10 * MIB, "u1")
    refused(write(tmp_path / "x.h5", units=units, libver="latest", **GZIP), "units are 10485760 b")


def test_units_that_go_on_and_on_are_cut(tmp_path):
    path = write(tmp_path / "x.h5", units="K" * 10_000, **GZIP)
    assert hdf5_image.read(path, NAMES)[1] == "K" * 1000


# damage: each copy is read in a process of its own, both ways


Case = tuple[int, int, str]  # bytes from, to, and what stands there instead, in hex


def judge(source: Path, folder: Path, cases: Sequence[Case]) -> None:
    """Read every damaged copy of a file, and print what came of it."""
    sound = source.read_bytes()
    truth, units = hdf5_image.read(source, NAMES)
    path = folder / f"{os.getpid()}.h5"
    for number, (start, stop, put) in enumerate(cases):
        path.write_bytes(sound[:start] + bytes.fromhex(put) + sound[stop:])
        for direct in (True, False):
            say(f"{number} ")  # the last line tells where it crashed
            try:
                pixels, said = hdf5_image.read(path, NAMES, direct=direct)
            except FrameError as error:
                good = str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1
                say("refused\n" if good else f"refused by {str(error)!r}\n")
            else:
                same = pixels.shape == truth.shape and pixels.tobytes() == truth.tobytes()
                say("other\n" if not same else "same\n" if said == units else "units\n")
    path.unlink()


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def script(what: str, *words: object, given: object) -> subprocess.Popen[str]:
    """This file in a process of its own."""
    child = subprocess.Popen(
        [sys.executable, __file__, what, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(given))
        child.stdin.close()
    child.stdin = None
    return child


def ended(child: subprocess.Popen[str], seconds: float) -> list[str]:
    """The lines that it printed; fails where it crashed or went on and on."""
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        pytest.fail(f"went on and on at {out.splitlines()[-1:]}")
    told = "\n".join(line for line in err.splitlines() if "Extension modules" not in line)
    assert child.returncode == 0, f"exit {child.returncode} at {out.splitlines()[-1:]}: {told}"
    return out.splitlines()


def outcomes(source: Path, folder: Path, cases: Sequence[Case], processes: int = 2) -> list[str]:
    """For every case what came of it; HDF5 may refuse what is read here as it was."""
    folder.mkdir(exist_ok=True)
    parts = [cases[start::processes] for start in range(processes)]
    children = [script("judge", source, folder, given=part) for part in parts]
    found = [""] * len(cases)
    for start, (part, child) in enumerate(zip(parts, children, strict=True)):
        lines = ended(child, 120)
        assert len(lines) == 2 * len(part)
        for number, (here, by_hdf5) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
            what, other = here.split(maxsplit=1)[1], by_hdf5.split(maxsplit=1)[1]
            assert (what, other) == ("same", "refused") or what == other, (part[number], here)
            found[start + processes * number] = what
    return found


def chunks(path: Path) -> list[range]:
    """Where the pixels lie."""
    with h5py.File(path) as file:
        (data,) = file.values()
        found = [data.id.get_chunk_info(n) for n in range(data.id.get_num_chunks())]
    return [range(c.byte_offset, c.byte_offset + c.size) for c in found]


def flips(sound: bytes, places: Sequence[int], rng: random.Random) -> list[Case]:
    """One bit or the whole byte changed, at each place."""
    cases = []
    for place in places:
        bit = sound[place] ^ 1 << rng.randrange(8)
        value = rng.choice([bit, bit, rng.randrange(256), 0, 255, 128])
        value = value if value != sound[place] else bit
        cases.append((place, place + 1, f"{value:02x}"))
    return cases


def unguarded(sound: bytes) -> set[int]:
    """The bytes that no checksum and no other number in the file vouches for.

    In the old form of HDF5's headers, which the release has: the two sides (other sides with as
    many chunks are another image), and of the type the order of its bytes.
    """
    f8 = bytes.fromhex("11203f000800000000004000340b0034ff030000")
    sides = struct.pack("<QQ", 512, 512)
    assert sound.count(f8) == 1
    first = sound.index(sides)
    return {*range(first, first + 16), sound.index(f8) + 1}


@pytest.fixture(scope="module", params=["real", "synthetic"])
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the release's form: a real one, and one that is always there."""
    if request.param == "real":
        files = sorted((DATA / "image").rglob("*.h5"), key=lambda file: file.stat().st_size)
        if not files:
            pytest.skip(f"no Digital Typhoon files in {DATA}")
        return files[len(files) // 4]
    path = tmp_path_factory.mktemp("release") / "x.h5"
    y, x = np.mgrid[:512, :512] // 8
    pixels = 200 + np.round(50 + 50 * np.sin(x * y / 99), 1)
    return write(path, pixels, chunks=(256, 256), compression="gzip", compression_opts=9)


@pytest.mark.parametrize(
    "release", [pytest.param("real", marks=pytest.mark.slow), "synthetic"], indirect=True
)
def test_flipped_bytes_of_every_region(release, tmp_path):
    sound, rng = release.read_bytes(), random.Random(0)
    pixels = [place for chunk in chunks(release) for place in chunk]
    ends = [place for c in chunks(release) for place in (*c[:4], *c[-8:])]  # head, Adler-32
    rest = sorted({*range(len(sound))} - {*pixels})
    head = [place for place in rest if place < 2000]  # behind it next to nothing is in use
    places = [*ends, *rng.sample(pixels, 220), *rng.sample(head, 160), *rng.sample(rest, 20)]
    cases = flips(sound, places, rng)
    found = outcomes(release, tmp_path, cases)
    in_pixels = {found[n] for n, place in enumerate(places) if place in set(pixels)}
    assert in_pixels <= {"same", "refused"}  # Adler-32 finds what matters
    other = {place for place, what in zip(places, found, strict=True) if what == "other"}
    assert other <= unguarded(sound)
    assert found.count("refused") > 200
    assert found.count("same") > 40


@pytest.mark.slow
def test_every_byte_of_the_headers(release, tmp_path):
    sound = release.read_bytes()
    pixels = {place for chunk in chunks(release) for place in chunk}
    rest = [place for place in range(2000) if place not in pixels]
    cases = [case for seed in range(2) for case in flips(sound, rest, random.Random(seed))]
    found = outcomes(release, tmp_path, cases)
    other = {case[0] for case, what in zip(cases, found, strict=True) if what == "other"}
    assert other <= unguarded(sound)


def test_truncated_anywhere(release, tmp_path):
    size = release.stat().st_size
    ends = {end for c in chunks(release) for end in (c.start - 1, c.start, c.start + 1, c.stop)}
    structures = {96, 136, 680, 800, 1072, 1400, 2048, 4016}
    lengths = {*range(0, size, size // 200), *range(0, 1500, 50), *ends, *structures, size - 1}
    cases = [(length, size, "") for length in sorted(lengths - {size})]
    assert set(outcomes(release, tmp_path, cases)) == {"refused"}


def test_blocks_that_never_arrived(release, tmp_path):
    """As a broken download leaves them: zeros, or a piece of another place."""
    sound, cases = release.read_bytes(), []
    for start in range(0, len(sound) - 4096, len(sound) // 40 & ~511):
        cases.append((start, start + 4096, bytes(4096).hex()))
        cases.append((start, start + 4096, sound[-4096:].hex()))
    found = outcomes(release, tmp_path, cases)
    assert set(found) <= {"same", "refused"}
    assert found.count("refused") > 70


FORMS = {
    "text of varying length": {"units": "kelvin"},
    "shuffled": {"shuffle": True},
    "fletcher32": {"fletcher32": True},
    "latest": {"libver": "latest"},
    "B-tree": {"libver": "latest", "maxshape": (None, None)},
    "lzf": {"compression": "lzf"},
    "as it is": {"compression": None},
    "contiguous": {"compression": None, "chunks": None},
}


@pytest.mark.parametrize("form", FORMS)
def test_damage_to_other_forms(tmp_path, form):
    path = write(tmp_path / "x.h5", image((48, 40)), **{**GZIP, **FORMS[form]})
    sound, rng = path.read_bytes(), random.Random(form)
    used = [n for n in range(len(sound)) if any(sound[max(0, n - 8) : n + 9])]
    cases = flips(sound, [rng.choice(used) for _ in range(300)], rng)
    cases += [(length, len(sound), "") for length in range(0, len(sound), len(sound) // 40)]
    found = outcomes(path, tmp_path / "copies", cases, processes=1)
    assert "refused" in found
    if form not in ("lzf", "as it is", "contiguous"):  # these have no checksum
        pixels = {place for chunk in chunks(path) for place in chunk}
        spoiled = [c for c, what in zip(cases, found, strict=True) if what == "other"]
        assert not [start for start, stop, _ in spoiled if stop - start == 1 and start in pixels]
        if form in ("latest", "B-tree"):  # all of it has
            assert not spoiled


# hostile files: measured in a process of its own


def measure(paths: Sequence[str]) -> None:
    """Read each file, and print what came of it, how long it took and what memory it needed."""
    for path in paths:
        say(f"{path}\n")  # the last line tells where it crashed
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        for direct in (True, False):
            try:
                said = str(hdf5_image.read(Path(path), NAMES, direct=direct)[0].shape)
            except FrameError as error:
                said = str(error)
            seconds = time.process_time() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            say(json.dumps([said, seconds, (peak - before) / 1024]) + "\n")


ZEROS = 4 << 30  # what a bomb inflates to


def bomb() -> bytes:
    """A small zlib stream of 4 GiB of zeros: one flushed MiB of them again and again."""
    packer = zlib.compressobj(9)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    once = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    tail = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    check = struct.pack(">I", (ZEROS % 65_521) << 16 | 1)  # Adler-32 of so many zeros
    return head + once * (ZEROS // MIB) + tail + check


def test_the_bomb_is_one():
    inflater = zlib.decompressobj()
    assert inflater.decompress(bomb(), 3 * MIB) == bytes(3 * MIB)
    assert len(bomb()) < 8 * MIB


def with_bomb(*filters: int) -> Callable[[Path], Path]:
    def build(path: Path) -> Path:
        steps = [(code, (4,) if code == h5z.FILTER_DEFLATE else ()) for code in filters]
        lay_out(path, shape=(32, 64), filters=steps, pixels=image((32, 64)))
        payload = bomb() + (b"\0\0\0\0" if filters[-1] == h5z.FILTER_FLETCHER32 else b"")
        with h5py.File(path, "r+") as file:
            file["Infrared"].id.write_direct_chunk((0, 32), payload)
        return path

    return build


def with_lzf_bomb(path: Path) -> Path:
    """Of 3 GB: a zero, and again and again a repetition of 264 bytes."""
    write(path, image((32, 64)), **{**GZIP, "compression": "lzf"})
    with h5py.File(path, "r+") as file:
        file["Infrared"].id.write_direct_chunk((0, 32), b"\0\0" + b"\xe0\xff\0" * 12_000_000)
    return path


def with_claim(path: Path) -> Path:
    """An index that claims a chunk of 3 GB, in a file that has them."""
    write(path, image((32, 64)), **GZIP)
    content = bytearray(path.read_bytes())
    leaf = content.index(b"TREE\1\0\4\0")
    struct.pack_into("<I", content, leaf + 24, 3_000_000_000)
    path.write_bytes(content)
    os.truncate(path, 4 << 30)  # sparse
    return path


def with_long_text(path: Path) -> Path:
    """Units that claim to be of 4 GB."""
    write(path, units="kelvin", **GZIP)
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    place = content.index(struct.pack("<IQ", 6, heap))  # length, place and number of the text
    struct.pack_into("<I", content, place, 0xFFFFFFF0)
    path.write_bytes(content)
    return path


def with_endless_heap(path: Path) -> Path:
    """Units in a heap that HDF5 2.0 walks through for ever."""
    write(path, units="kelvin", **GZIP)
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    struct.pack_into("<Q", content, heap + 16 + 8, 255)  # the first object's size
    path.write_bytes(content)
    return path


def with_many_units(path: Path) -> Path:
    """An attribute whose shape says a billion texts."""
    write(path, units=np.array(["K", "x"], object), **GZIP)
    content = bytearray(path.read_bytes())
    place = content.index(b"units\0")
    sides = content.index(struct.pack("<Q", 2), place)
    struct.pack_into("<QQ", content, sides, 1 << 30, 1 << 30)  # as it is, and at most
    path.write_bytes(content)
    return path


def with_group(path: Path) -> Path:
    """Groups within one another without end, by the image's name."""
    with h5py.File(path, "w") as file:
        group = file.create_group("Infrared")
        group["Infrared"] = group
        group["up"] = file["/"]
    return path


def with_pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def to_device(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


HOSTILE = {
    "a bomb": (with_bomb(h5z.FILTER_DEFLATE), "column 32 is damaged"),
    "a shuffled bomb": (with_bomb(h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE), "32 is damaged"),
    "a bomb with fletcher32": (
        with_bomb(h5z.FILTER_DEFLATE, h5z.FILTER_FLETCHER32),
        "column 32 is damaged",
    ),
    "a bomb in another order": (
        with_bomb(h5z.FILTER_FLETCHER32, h5z.FILTER_DEFLATE),
        "column 32 is damaged",
    ),
    "a bomb for HDF5": (with_lzf_bomb, "not a readable HDF5 image"),  # stopped by the limit
    "a claim": (with_claim, "claims 3000.* bytes; the file has 4294967296, the image 16384"),
    "long text": (with_long_text, "not a readable HDF5 image"),
    "endless heap": (with_endless_heap, "its units lie in a damaged heap"),
    "many units": (with_many_units, "not a readable HDF5 image"),
    "groups": (with_group, "holds no dataset; expected one 2-D image"),
    "pipe": (with_pipe, "not a file"),
    "device": (to_device, "not a file"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured and limited as Linux does")
def test_hostile_files_cost_next_to_nothing(tmp_path):
    paths = {name: build(tmp_path / f"{name}.h5") for name, (build, _) in HOSTILE.items()}
    sound = write(tmp_path / "sound.h5", **GZIP)  # first: what reading costs at all
    lines = ended(script("measure", given=[str(p) for p in (sound, *paths.values())]), 60)
    for name, path in paths.items():
        found = lines.index(str(path))
        for line in lines[found + 1 : found + 3]:  # both ways
            said, seconds, mib = json.loads(line)
            assert re.match(f"{re.escape(str(path))}: .*{HOSTILE[name][1]}", said), said
            assert mib < 300, f"{name}: {mib:.0f} MiB"
            assert seconds < 5, f"{name}: {seconds:.1f} s"


def external_link(path: Path, outside: Path) -> None:
    with h5py.File(path, "w") as file:
        file["Infrared"] = h5py.ExternalLink(outside, "Infrared")


def soft_link_to_external(path: Path, outside: Path) -> None:
    with h5py.File(path, "w") as file:
        file["there"] = h5py.ExternalLink(outside, "/")
        file["Infrared"] = h5py.SoftLink("/there/Infrared")


def virtual(path: Path, outside: Path) -> None:
    layout = h5py.VirtualLayout((16, 16), "f8")
    layout[:] = h5py.VirtualSource(outside, "Infrared", shape=(16, 16))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("Infrared", layout)


def virtual_without_end(path: Path, outside: Path) -> None:
    """To ask for the shape of such an image opens its sources."""
    form = h5p.create(h5p.DATASET_CREATE)
    form.set_layout(h5d.VIRTUAL)
    space = h5s.create_simple((16, 16), (h5s.UNLIMITED, 16))
    space.select_hyperslab((0, 0), (1, 1), (1, 1), (h5s.UNLIMITED, 16))
    form.set_virtual(space, os.fsencode(outside), b"/Infrared", space)
    with h5py.File(path, "w") as file:
        h5d.create(file.id, b"Infrared", h5t.IEEE_F64LE, space, form)


def virtual_of_another_name(path: Path, outside: Path) -> None:
    virtual_without_end(path, outside)
    with h5py.File(path, "r+") as file:
        file.move("Infrared", "whatever")


def external_storage(path: Path, outside: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("Infrared", (16, 16), "f8", external=[(str(outside), 0, 2048)])


OUTSIDE = {
    external_link: "holds no dataset; expected one 2-D image",
    soft_link_to_external: "holds no dataset; expected one 2-D image",
    virtual: "'Infrared' lies in other files; expected pixels in this one",
    virtual_without_end: "'Infrared' lies in other files; expected pixels in this one",
    virtual_of_another_name: "'whatever' lies in other files; expected pixels in this one",
    external_storage: "'Infrared' lies in other files; expected pixels in this one",
}


@pytest.mark.parametrize("outside", ["pipe", "image"])
def test_no_other_file_is_opened(tmp_path, outside):
    """To open a pipe that nobody writes to would be to wait for ever."""
    other = write(tmp_path / outside, np.full((16, 16), 250.0))
    paths = [tmp_path / f"{build.__name__}.h5" for build in OUTSIDE]
    for build, path in zip(OUTSIDE, paths, strict=True):
        build(path, other)
    if outside == "pipe":
        other.unlink()
        os.mkfifo(other)
    lines = ended(script("measure", given=[str(path) for path in paths]), 20)
    for build, path in zip(OUTSIDE, paths, strict=True):
        found = lines.index(str(path))
        for line in lines[found + 1 : found + 3]:
            assert json.loads(line)[0] == f"{path}: {OUTSIDE[build]}" or "expected one" in line


def test_a_pipe_in_the_place_of_a_file_would_be_noticed(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    external_link(tmp_path / "x.h5", tmp_path / "pipe")
    child = script("follow", tmp_path / "x.h5", given=None)
    assert child.stdout is not None
    assert child.stdout.readline() == "follows\n"
    with pytest.raises(subprocess.TimeoutExpired):
        child.communicate(timeout=0.5)
    child.kill()
    child.communicate()


def test_convert_names_each_and_takes_the_others(tiny):
    import cli  # not for the processes above

    sound = tiny.track("202101", range(3))
    bad = {tiny.path(3 + n): build for n, (build, _) in enumerate(HOSTILE.values())}
    for path, build in bad.items():
        build(path)
    spoiled = tiny.path(20)
    spoiled.write_bytes(sound[0].read_bytes()[:-1])
    outside = [tiny.path(hour, "202102") for hour in range(len(OUTSIDE))]  # a track of nothing else
    outside[0].parent.mkdir()
    for path, build in zip(outside, OUTSIDE, strict=True):
        build(path, sound[0])
    words = [
        "convert",
        tiny.root,
        tiny.home / "S.zarr",
        "--manifest-dir",
        tiny.home,
        "--workers",
        1,
    ]
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert result.exit_code == 3, result.output
    assert "1 tracks, 3 frames, 1 triplets" in result.output
    assert "Traceback" not in result.output
    problems = json.loads((tiny.home / "S.json").read_text())["problems"]
    for path in [*bad, spoiled, *outside]:
        (told,) = [problem for problem in problems if path.name in problem]
        assert told.startswith(f"{path}: ")
        assert path.name in result.output


if __name__ == "__main__":
    given = json.load(sys.stdin)
    if sys.argv[1] == "judge":
        judge(Path(sys.argv[2]), Path(sys.argv[3]), given)
    elif sys.argv[1] == "measure":
        measure(given)
    else:
        say("follows\n")
        h5py.File(sys.argv[2])["Infrared"]
