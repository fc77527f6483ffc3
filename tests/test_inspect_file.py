"""One H5 file: its structure and worth, a picture of letters, and one sentence for damage."""

from __future__ import annotations

import json
import random
import re
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

if __name__ == "__main__":  # a process of its own, which damage may end
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline import inspection
from pipeline.errors import UserError
from pipeline.ingest import ConvertSettings
from pipeline.inspecting import raw_file, thumbnails
from pipeline.pictures import look
from pipeline.sources.digital_typhoon import INFRARED

NAME = "2021071903-202107-HMW8-1.h5"
GZIP: dict[str, Any] = {"chunks": (24, 24), "compression": "gzip", "compression_opts": 9}


def picture(side: int = 48) -> np.ndarray:
    """Warm at the top, cold at the bottom, in steps of 2 K."""
    return np.repeat(np.linspace(300, 200, side).round()[:, None], side, 1)


def write(path: Path, pixels: np.ndarray, **form: Any) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_dataset("Infrared", data=pixels, **form)
        data.attrs["long_name"] = np.bytes_(b"Brightness temperature")
        data.attrs["units"] = "K (kelvin)"
    return path


def facts(path: Path) -> dict[str, Any]:
    found = inspection.inspect(path).facts
    json.dumps(found, allow_nan=False)
    return found


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        inspection.inspect(path)
    told = str(caught.value)
    assert told.startswith(str(path))
    assert "\n" not in told
    return told


def test_structure_name_and_worth(tmp_path):
    pixels = picture()
    pixels[0, :5] = [-19.1, -19.1, 335, np.nan, np.inf]
    found = facts(write(tmp_path / NAME, pixels, **GZIP))
    assert found["name"] == {
        "time": "2021-07-19T03:00:00",
        "track": "202107",
        "satellite": "HMW8",
        "channel": "1",
        "channel_name": "infrared",
    }
    (entry,) = found["contents"]
    assert entry["shape"] == [48, 48]
    assert (entry["dtype"], entry["chunks"], entry["filters"]) == (
        "float64",
        [24, 24],
        ["deflate 9"],
    )
    assert entry["attributes"] == {"long_name": "Brightness temperature", "units": "K (kelvin)"}
    assert entry["plain"] == 48 * 48 * 8
    assert 0 < entry["stored"] < entry["plain"]
    image = found["image"]
    assert image["missing"] == 5
    assert (image["below_range"], image["above_range"], image["not_a_number"]) == (2, 2, 1)
    assert image["stored_min"] == pytest.approx(-19.1)
    assert image["stored_max"] == 335
    assert image["distinct_values"] == len(np.unique(picture()))
    assert (image["statistics"]["min"], image["statistics"]["max"]) == ([200], [300])
    assert (image["blank"], image["flagged"]) == (False, False)
    assert found["best_track"] is None


def test_a_flagged_and_a_blank_one(tmp_path):
    pixels = picture()
    pixels[-5:] = -19.1
    found = facts(write(tmp_path / NAME, pixels))["image"]
    assert (found["missing_fraction"], found["flagged"], found["blank"]) == (
        pytest.approx(5 / 48),
        True,
        False,
    )
    found = facts(write(tmp_path / NAME, np.full((48, 48), 170.0)))["image"]
    assert (found["blank"], found["flagged"], found["distinct_values"]) == (True, True, 1)
    found = facts(write(tmp_path / NAME, np.full((48, 48), np.nan)))["image"]
    assert (found["stored_min"], found["statistics"]["mean"]) == (None, [None])


def test_what_the_best_track_says_of_that_hour(tiny):
    file = tiny.write(0)
    tiny.table("202101", tiny.rows([0]))
    row = facts(file)["best_track"]
    assert row["central_pressure"] == {"value": 965, "units": "hPa"}
    from cli import app

    result = CliRunner().invoke(app, ["inspect", str(file)])
    assert result.exit_code == 0
    assert "20.5°N, 135.2°E, 965 hPa, 75 kt, typhoon" in result.stdout


def test_what_else_a_file_holds_is_named_and_not_followed(tmp_path):
    outside = write(tmp_path / "outside.h5", picture())
    path = write(tmp_path / NAME, picture(), compression="lzf", shuffle=True)
    with h5py.File(path, "r+") as file:
        file["out"] = h5py.ExternalLink(outside, "Infrared")
        file["soft"] = h5py.SoftLink("/Infrared")
        file.create_group("deep")["x"] = 1
        file["counts"] = np.arange(6, dtype="i2").reshape(2, 3)
        file.create_dataset("away", (4,), "f8", external=[(str(outside), 0, 32)])
        file["counts"].attrs["long"] = "x" * 4000
        file["counts"].attrs["many"] = np.arange(3)
        file["counts"].attrs["pair"] = np.zeros(1, [("a", "i4")])
    found = {entry["name"]: entry for entry in facts(path)["contents"]}
    assert {name: entry["is"] for name, entry in found.items()} == {
        "Infrared": "dataset",
        "out": "link",
        "soft": "link",
        "deep": "group",
        "counts": "dataset",
        "away": "in other files",
    }
    assert found["Infrared"]["filters"] == ["shuffle", "lzf"]
    counts = found["counts"]
    assert (counts["shape"], counts["dtype"], counts["chunks"]) == ([2, 3], "16-bit integer", None)
    assert counts["attributes"]["many"] == "0 1 2"
    assert counts["attributes"]["pair"] == "(compound)"
    assert len(counts["attributes"]["long"]) <= 1000


def test_more_than_anyone_wants_to_read(tmp_path):
    path = write(tmp_path / NAME, picture())
    with h5py.File(path, "r+") as file:
        for number in range(80):
            file[f"x{number}"] = number
    entries = facts(path)["contents"]
    assert len(entries) == 51
    assert entries[-1] == {"name": "31 more", "is": "not listed"}


def test_a_name_that_would_move_the_cursor(tmp_path):
    path = write(tmp_path / NAME, picture())
    with h5py.File(path, "r+") as file:
        file["\x1b[2J"] = 1
        file["[red]x"] = 1
        file["Infrared"].attrs["\x1b]0;x\x07"] = "\x1b[31m"
    from cli import app

    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout
    assert "[red]x" in result.stdout


def test_another_name_is_no_obstacle_but_said(tmp_path):
    found = facts(write(tmp_path / "mine.h5", picture()))
    assert found["name"] is None
    assert "`cli convert` leaves it out" in found["notes"][0]
    assert facts(write(tmp_path / "mine", picture()))["kind"] == "file"  # by its first bytes


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"words", "not a readable HDF5 image"),
        (b"", "not a readable HDF5 image"),
        (b"\x89HDF\r\n\x1a\n" + bytes(400), "not a readable HDF5 image"),
    ],
)
def test_what_is_no_image(tmp_path, content, told):
    (tmp_path / NAME).write_bytes(content)
    assert told in refused(tmp_path / NAME)


def test_an_image_that_convert_would_refuse(tmp_path):
    path = write(tmp_path / NAME, picture())
    path.write_bytes(path.read_bytes()[:-100])
    assert "not a readable HDF5 image" in refused(path)
    assert "expected floating-point" in refused(write(tmp_path / NAME, picture().astype("i2")))
    third = write(tmp_path / NAME.replace("-1.h5", "-7.h5"), picture())
    assert "channel 7; known are 1, 2, 3, 4" in refused(third)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = picture(), picture()
    assert "expected one 2-D image" in refused(tmp_path / "two.h5")


@pytest.mark.parametrize("flips", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_damage_anywhere_is_survived(tmp_path, flips):
    """Flipped bytes: an answer or one sentence, never a crash, never for ever."""
    path = write(tmp_path / NAME, picture(), **GZIP)
    with h5py.File(path, "r+") as file:
        file["other"] = np.arange(12).reshape(3, 4)
        file["other"].attrs["words"] = ["of", "varying", "length"]
        file["text"] = "hello"
        file["table"] = np.zeros(3, [("a", "i4"), ("b", "f8")])
    sound = path.read_bytes()
    rng = random.Random(0)
    used = [n for n in range(len(sound)) if any(sound[max(0, n - 8) : n + 9])]
    cases = [(rng.choice(used), rng.randrange(256)) for _ in range(flips)]
    child = subprocess.run(
        [sys.executable, __file__, path],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=100,
    )
    found = child.stdout.split()
    assert child.returncode == 0, f"crashed at {cases[len(found)]}: {child.stderr[-500:]}"
    assert len(found) == len(cases)
    assert set(found) == {"read", "refused"}


def with_long_text(content: bytearray) -> None:
    """A text that claims to be of 4 GB."""
    place = content.index(struct.pack("<IQ", 11, content.index(b"GCOL")))  # length, place, number
    struct.pack_into("<I", content, place, 0xFFFFFFF0)


def with_endless_heap(content: bytearray) -> None:
    """A heap that HDF5 2.0 walks through for ever."""
    struct.pack_into("<Q", content, content.index(b"GCOL") + 16 + 8, 255)


def with_many(content: bytearray) -> None:
    """A shape of a billion texts."""
    sides = content.index(struct.pack("<Q", 2), content.index(b"long_name\0"))
    struct.pack_into("<QQ", content, sides, 1 << 30, 1 << 30)


@pytest.mark.parametrize(
    ("text", "harm", "told"),
    [
        ("temperature", with_long_text, {"units": "K", "long_name": "(not readable)"}),
        ("temperature", with_endless_heap, {"units": "K", "long_name": "(in a damaged heap)"}),
        (["a", "b"], with_many, dict.fromkeys(["attribute 0", "attribute 1"], "(not readable)")),
    ],
)
def test_hostile_attributes_cost_nothing(tmp_path, text, harm, told):
    """The image is sound, so the rest of the file is answered for."""
    path = tmp_path / NAME
    with h5py.File(path, "w") as file:
        data = file.create_dataset("Infrared", data=picture(), **GZIP)
        data.attrs["units"] = np.bytes_(b"K")
        data.attrs["long_name"] = text
    content = bytearray(path.read_bytes())
    harm(content)
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (entry,) = facts(path)["contents"]
    assert entry["attributes"] == told
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KiB


def test_listing_is_not_spoiled_by_damage_beside_the_image(tmp_path):
    path = write(tmp_path / NAME, picture(), chunks=None)
    with h5py.File(path, "r+") as file:
        data = file.create_dataset("zz", data=np.arange(4.0))
        header = h5py.h5o.get_info(data.id).addr
    content = bytearray(path.read_bytes())
    content[header] ^= 0xFF  # the version of its object header
    path.write_bytes(content)
    found = {entry["name"]: entry["is"] for entry in facts(path)["contents"]}
    assert found == {"Infrared": "dataset", "zz": "damaged"}


# the picture


def drawn(image: np.ndarray, width: int, *, coloured: bool) -> list[str]:
    style = look(vars(INFRARED), "grey")
    return [line.plain for line in thumbnails.in_terminal(image, style, width, coloured=coloured)]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_letters_show_cold_as_bright(width):
    lines = drawn(picture(64), width, coloured=False)
    assert max(map(len, lines)) <= width
    body = [line[: min(width - 8, 64)] for line in lines]
    ranks = [thumbnails.RAMP.index(line[0]) for line in body]
    assert all(len(set(line)) == 1 for line in body)
    assert ranks == sorted(ranks)  # warm above, cold below
    assert ranks[0] <= 1
    assert ranks[-1] == 8  # 200 K of 190..310
    assert lines[0].endswith("190")
    assert lines[-1].endswith("310")


def test_half_blocks_hold_two_pixels_each():
    image = picture(16)
    style = look(vars(INFRARED), "grey")
    lines = thumbnails.in_terminal(image, style, 80, coloured=True)
    assert len(lines) == 8
    span = lines[0].spans[0].style
    upper, lower = thumbnails.colours(image, style)[:2, 0]
    assert tuple(span.color.triplet) == tuple(upper)
    assert tuple(span.bgcolor.triplet) == tuple(lower)
    image[2] = np.nan
    pink = thumbnails.in_terminal(image, style, 80, coloured=True)[1].spans[0].style
    assert pink.color.name == thumbnails.MISSING_HERE


def test_missing_pixels_are_no_letter_of_the_ramp():
    image = picture(32)
    image[:, 16:] = np.nan
    lines = drawn(image, 80, coloured=False)
    assert {line[20] for line in lines} == {thumbnails.NO_VALUE}
    assert thumbnails.NO_VALUE not in thumbnails.RAMP


def test_rain_is_bright_where_wet_and_not_pale():
    rain = {**vars(INFRARED), "units": "mm", "standard_name": "rain", "valid_max": 2000.0}
    style = look(rain)
    field = np.repeat([[0.0, 0.2, 2.0, 20.0]], 4, axis=0).repeat(8, axis=1)
    line = thumbnails.letters(field, style, 2, 32)[0].plain
    ranks = [thumbnails.RAMP.index(letter) for letter in line[::8]]
    assert ranks[0] == 0
    assert ranks == sorted(set(ranks))
    dry, *wet = thumbnails.colours(field, style)[0, ::8].astype(int)
    assert dry.tolist() == [255, 255, 255]
    assert np.abs(np.diff(wet, axis=0)).max(axis=1).min() > 60
    low, *_, high = thumbnails.beside(style, 9, coloured=False)
    assert low.plain.split()[-1] == f"{style.low:.2g}"
    assert high.plain.split()[-1] == f"{style.high:.2g}"


def test_means_of_blocks():
    image = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_array_equal(thumbnails.shrunk(image, 2, 2), [[2.5, 4.5], [10.5, 12.5]])
    image[0, :2] = np.nan
    image[2:, 2:] = np.nan
    np.testing.assert_array_equal(thumbnails.shrunk(image, 2, 2), [[4.5, 4.5], [10.5, np.nan]])
    uneven = thumbnails.shrunk(np.ones((7, 5), np.float32), 3, 2)
    np.testing.assert_array_equal(uneven, np.ones((3, 2)))
    assert thumbnails.shrunk(image, 99, 99).shape == (4, 4)


@pytest.mark.parametrize(
    ("system", "blocks"), [("truecolor", True), ("256", True), ("standard", False), (None, False)]
)
def test_a_terminal_without_colours_gets_letters(tmp_path, system, blocks):
    done = inspection.inspect(write(tmp_path / NAME, picture()))
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        console = Console(
            file=file, width=80, color_system=system, force_terminal=system is not None
        )
        for part in inspection.screen(done, console):
            console.print(part)
    text = (tmp_path / "out").read_text(encoding="utf-8")
    assert (thumbnails.HALF_BLOCK in text) == blocks
    assert ("@ is cold" in text) != blocks


def test_a_page_of_one_file(tmp_path):
    path = write(tmp_path / NAME, picture())
    from cli import app

    words = ["inspect", str(path), "--html", str(tmp_path / "x.html"), "--palette", "grey"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "x.html").read_text()
    assert len(re.findall(r'src="data:image/png;base64,', page)) == 1
    assert "2021-07-19 03:00 UTC" in page
    assert "Brightness temperature" in page


if __name__ == "__main__":
    place = Path(sys.argv[1])
    whole = place.read_bytes()
    for at, byte in json.load(sys.stdin):
        changed = bytearray(whole)
        changed[at] = byte
        place.write_bytes(changed)
        try:
            raw_file.examine(place, ConvertSettings())
            sys.stdout.write("read\n")
        except UserError:
            sys.stdout.write("refused\n")
        sys.stdout.flush()
