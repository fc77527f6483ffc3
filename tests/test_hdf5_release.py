"""The release's own form, known without HDF5; everything else is left to it."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.sources import hdf5_image, hdf5_release
from pipeline.sources.hdf5_release import Form
from pipeline.sources.synthetic import _write_frame

NAMES = ("Infrared", "infrared", "Data")
DATA = Path(os.environ.get("EDDY_DATA", Path(__file__).parents[2] / "shared/data/WP"))
GZIP = {"chunks": (16, 32), "compression": "gzip"}
PIXELS = np.random.default_rng(0).integers(1700, 3300, (45, 70)) / 10


def write(path: Path, name: str = "Infrared", units: object = np.bytes_(b"K"), **form) -> Path:
    libver = form.pop("libver", None)
    with h5py.File(path, "w", libver=libver) as file:
        data = file.create_dataset(name, data=form.pop("data", PIXELS), **{**GZIP, **form})
        if units is not None:
            data.attrs["units"] = units
    return path


def form(path: Path) -> Form | None:
    return hdf5_release.form(path.read_bytes(), NAMES)


def is_as_hdf5_says(path: Path) -> None:
    known = form(path)
    assert known is not None
    with h5py.File(path) as file:
        (data,) = file.values()
        assert (data.shape, data.chunks, data.dtype) == (known.shape, known.chunk, known.dtype)
        found = [data.id.get_chunk_info(n) for n in range(data.id.get_num_chunks())]
        places = {c.chunk_offset: slice(c.byte_offset, c.byte_offset + c.size) for c in found}
        assert places == known.places
        units = data.attrs.get("units", b"")
        assert known.units == (units.decode() if isinstance(units, bytes) else units).strip()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (45, 70)},
        {"chunks": (6, 70)},
        {"chunks": (64, 128), "maxshape": (99, 199)},
        {"compression_opts": 9, "track_times": True},
        {"units": None},
        {"units": np.bytes_(b" K (kelvin) ")},
    ],
    ids=str,
)
def test_it_is_what_hdf5_finds(tmp_path, name, dtype, options):
    is_as_hdf5_says(write(tmp_path / "x.h5", name, data=PIXELS.astype(dtype), **options))


def test_many_attributes_lie_behind_the_header(tmp_path):
    path = write(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        for number in range(20):
            file["Infrared"].attrs[f"note {number}"] = np.bytes_(b"as long as it takes")
    is_as_hdf5_says(path)


def test_drawn_files_are_of_this_form(tmp_path):
    _write_frame(tmp_path / "x.h5", PIXELS.astype(np.float32), "Infrared")
    is_as_hdf5_says(tmp_path / "x.h5")


def test_every_real_file_is_of_this_form():
    files = sorted((DATA / "image").rglob("*.h5"))
    if not files:
        pytest.skip(f"no Digital Typhoon files in {DATA}")
    for file in files:
        is_as_hdf5_says(file)


OTHERS = {
    "shuffled": {"shuffle": True},
    "fletcher32": {"fletcher32": True},
    "lzf": {"compression": "lzf"},
    "as it is": {"compression": None},
    "contiguous": {"compression": None, "chunks": None},
    "latest": {"libver": "latest"},
    "big endian": {"data": PIXELS.astype(">f8")},
    "integers": {"data": PIXELS.astype(int)},
    "three axes": {"data": PIXELS[None], "chunks": (1, 16, 32)},
    "two levels of chunks": {"chunks": (3, 3)},
    "a fill value": {"fillvalue": 1.0},
    "another name": {"name": "other"},
    "text of varying length": {"units": "kelvin"},
    "units of a number": {"units": 1.5},
    "units beyond ASCII": {"units": np.bytes_("\u00b0C".encode())},
    "two texts": {"units": np.array([b"K", b"kelvin"])},
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_forms_are_left_to_hdf5(tmp_path, other):
    assert form(write(tmp_path / "x.h5", **OTHERS[other])) is None


@pytest.mark.parametrize("more", ["dataset", "link", "attribute", "byte"])
def test_a_file_that_holds_more_is_left_to_hdf5(tmp_path, more):
    path = write(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        if more == "dataset":
            file["second"] = PIXELS
        elif more == "link":
            file["second"] = h5py.SoftLink("/Infrared")
        elif more == "attribute":
            file.attrs["of the file"] = 1
    if more == "byte":
        path.write_bytes(path.read_bytes() + b"\0")
    assert form(path) is None
    np.testing.assert_array_equal(hdf5_image.read(path, NAMES)[0], PIXELS.astype(np.float32))


def test_a_cut_file_is_left_to_hdf5(tmp_path):
    whole = write(tmp_path / "x.h5").read_bytes()
    for length in range(0, len(whole), 7):
        cut = bytearray(whole[:length])
        cut[hdf5_release.END_OF_FILE :][:8] = struct.pack("<Q", length)  # that would not tell
        assert hdf5_release.form(whole[:length], NAMES) is None
        hdf5_release.form(bytes(cut), NAMES)  # whatever it says, it raises nothing


def with_much(path: Path) -> bytes:
    """Of a file that may grow, whose header goes on elsewhere and has the time of its change."""
    whole = write(path, chunks=(23, 35), maxshape=(45, 80), track_times=True)
    with h5py.File(whole, "a") as file:
        for number in range(20):
            file["Infrared"].attrs[f"note {number}"] = np.bytes_(b"as long as it takes")
    is_as_hdf5_says(whole)
    return whole.read_bytes()


def test_no_byte_of_the_headers_makes_it_raise(tmp_path):
    """What it then says is compared with HDF5 in test_hdf5_image.py."""
    whole = with_much(tmp_path / "x.h5")
    for place in range(2000):
        for value in (0, 1, 127, 255, whole[place] ^ 4):
            changed = bytearray(whole)
            changed[place] = value
            hdf5_release.form(bytes(changed), NAMES)


def test_the_release_s_own_files_are_not_opened_by_hdf5(tmp_path, monkeypatch):
    path = write(tmp_path / "x.h5")

    def refuse(*_: object) -> None:
        raise AssertionError("HDF5 was asked")

    monkeypatch.setattr(hdf5_image, "with_image", refuse)
    pixels, units = hdf5_image.read(path, NAMES)
    np.testing.assert_array_equal(pixels, PIXELS.astype(np.float32))
    assert units == "K"


def changed(whole: bytes, old: bytes, new: bytes, behind: int = 0) -> bytes:
    """With one piece replaced, that many bytes behind where `old` first stands."""
    place = whole.index(old) + behind
    assert place >= behind
    return whole[:place] + new + whole[place + len(new) :]


SIDES = struct.pack("<4Q", 45, 70, 45, 80)  # and the most that they may become
TIME = struct.pack("<HHB3x", 18, 8, 0)
TREE = b"TREE\1"
HARM = {
    "taller than it may be": (SIDES, struct.pack("<2Q", 46, 70), 0),
    "another version of the time": (TIME, b"\3", 8),
    "an end between two chunks": (TREE, b"\x47", 24 + 4 * 40 + 16),
    "a header that goes on beyond all numbers": (struct.pack("<HHB3x", 16, 16, 0), b"\xff", 15),
    "a chunk longer than the file": (TREE, struct.pack("<I", 2**31), 24),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_hdf5_refuses_is_not_taken_for_an_image(tmp_path, harm):
    whole = with_much(tmp_path / "x.h5")
    old, new, behind = HARM[harm]
    assert hdf5_release.form(changed(whole, old, new, behind), NAMES) is None


def test_chunks_that_lie_in_one_another_are_refused(tmp_path):
    whole = with_much(tmp_path / "x.h5")
    size = struct.pack("<I", len(whole) - 6000)
    for entry in range(4):
        whole = changed(whole, TREE, size, 24 + entry * 40)
        whole = changed(whole, TREE, struct.pack("<Q", 6000), 24 + entry * 40 + 32)
    assert hdf5_release.form(whole, NAMES) is None


def test_a_text_that_the_header_cuts_off_is_refused(tmp_path):
    whole = write(tmp_path / "x.h5", units=np.bytes_(b"K" * 8)).read_bytes()
    assert hdf5_release.form(whole, NAMES) is not None
    assert hdf5_release.form(changed(whole, b"\x13\1\0\0\x08", b"\x20", 4), NAMES) is None


def test_millions_of_chunks_cost_nothing(tmp_path):
    whole = write(tmp_path / "x.h5").read_bytes()
    whole = changed(whole, struct.pack("<4Q", 45, 70, 45, 70), struct.pack("<4Q", *4 * [4096]))
    whole = changed(whole, struct.pack("<3I", 16, 32, 8), struct.pack("<3I", 1, 1, 8))
    tracemalloc.start()
    assert hdf5_release.form(whole, NAMES) is None
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
