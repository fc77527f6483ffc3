import errno
import subprocess
from itertools import repeat

import imageio_ffmpeg
import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from pipeline import pictures
from pipeline.credit import Credit
from pipeline.errors import UsageError, UserError
from pipeline.pictures import Panel, Scene
from pipeline.sources import digital_typhoon
from pipeline.sources.grids import Grid

INFRARED = vars(digital_typhoon.INFRARED)
RAIN = {
    "name": "tp",
    "long_name": "Total precipitation",
    "units": "mm",
    "valid_min": 0.0,
    "valid_max": 2000.0,
}
EXTENT = (-80.0, 80.0, -80.0, 80.0)
CREDIT = Credit(title="a title", rights="somebody, free")
LONG = Credit(rights="somebody and others " * 99)


def kelvin(side=32, missing=False):
    field = np.random.default_rng(0).uniform(190, 300, (side, side)).astype(np.float32)
    if missing:
        field[-side // 4 :] = np.nan
    return field


def scene(count=3, errors=0, missing=False, **changes):
    panels = [Panel(f"panel {i}", kelvin(16 * (i + 1), missing)) for i in range(count)]
    panels += [Panel("error", kelvin() - 240, error=True)] * errors
    made = {
        "title": "202101    2021-07-19 00:00 UTC    HMW8",
        "subtitle": "centre 18.0°N 135.0°E    950 hPa    80 kt",
        "panels": panels,
        "look": pictures.look(INFRARED),
        "errors": pictures.error_look(INFRARED, "error"),
        "extent": EXTENT,
        "unit": "km",
        "zoom": pictures.zoomed(EXTENT, 0.3),
    }
    return Scene(**{**made, **changes})


def mp4_frames(path):
    program = imageio_ffmpeg.get_ffmpeg_exe()
    command = [program, "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(command, check=True, capture_output=True).stdout
    return len(pixels) / (96 * 64 * 3)  # H.264 wants even sides


@pytest.mark.parametrize(("count", "errors"), [(3, 0), (4, 1), (1, 0)])
def test_a_png_16_inches_wide(tmp_path, count, errors):
    path = pictures.panels(tmp_path / "new" / "a.png", scene(count, errors), dpi=50)
    with Image.open(path) as image:
        width, height = image.size
    assert width == 800  # 16 in of 50
    assert 200 < height < 3000
    assert path.stat().st_size > 5000
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_no_text_overlaps_another():
    credited = (scene(4, 1, credit=CREDIT), scene(3, credit=LONG))
    for made in (scene(3), scene(4, 1), scene(4, 1, missing=True), *credited):
        figure = pictures.drawn(made, dpi=50)
        FigureCanvasAgg(figure).draw()  # gives every text its place
        texts = [*figure.texts, *(axes.title for axes in figure.axes)]
        texts += [label for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label)]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        assert len(boxes) > 8
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:i])
            assert figure.bbox.containsx(box.x0)
            assert figure.bbox.containsx(box.x1)
            assert figure.bbox.containsy(box.y0)


def test_who_is_to_be_named_is_named_below():
    for credit, lines in ((CREDIT, 1), (LONG, 2)):
        told = pictures.drawn(scene(2, credit=credit), dpi=50).texts[-1].get_text()
        assert len(told.splitlines()) == lines
        assert told.startswith("Data: somebody")
    assert told.endswith(" ...")
    bare = pictures.drawn(scene(2), dpi=50)
    assert not any("Data:" in text.get_text() for text in bare.texts)


def test_a_png_says_what_it_shows_and_whose_data_it_is(tmp_path):
    with Image.open(pictures.panels(tmp_path / "a.png", scene(1, credit=CREDIT), dpi=30)) as image:
        image.load()
        told = image.text
    assert told["Title"] == "a title"
    assert told["Description"].startswith("202101 2021-07-19 00:00 UTC HMW8 centre 18.0°N")
    assert told["Copyright"] == "somebody, free"


def test_nothing_moves_between_frames_with_and_without_missing_pixels():
    whole, holed = (pictures.drawn(scene(3, missing=m), dpi=50) for m in (False, True))
    for a, b in zip(whole.axes, holed.axes, strict=True):
        assert np.array_equal(a.get_position().bounds, b.get_position().bounds)


def test_missing_is_unlike_any_temperature():
    for palette in ("enhanced", "grey"):
        look = pictures.look(INFRARED, palette)
        colours = look.colours(np.linspace(0, 1, 500))[:, :3]
        ground = np.array([int(pictures.MISSING["facecolor"][i : i + 2], 16) for i in (1, 3, 5)])
        lines = np.array([int(pictures.MISSING["edgecolor"][i : i + 2], 16) for i in (1, 3, 5)])
        # not one colour lies near both the ground and its hatching
        near = [np.abs(colours * 255 - c).max(axis=1) < 24 for c in (ground, lines)]
        assert not (near[0] & near[1]).any()


def test_cold_is_bright():
    look = pictures.look(INFRARED, "grey")
    cold, warm = look.colours(0.0), look.colours(1.0)
    assert cold[0] > 0.95
    assert warm[0] < 0.05


def test_coloured_below_minus_30_celsius_only():
    look = pictures.look(INFRARED)
    at = lambda k: look.colours((k - look.low) / (look.high - look.low))[:3]  # noqa: E731
    assert np.ptp(at(244.5)) < 0.02
    assert np.ptp(at(236)) > 0.3


def test_other_quantities_have_their_own_range():
    other = {**INFRARED, "units": "m s-1", "valid_min": 0.0, "valid_max": 50.0}
    look = pictures.look(other)
    assert (look.low, look.high) == (0, 50)
    assert look.label == "brightness temperature of the infrared window channel [m s-1]"
    air = pictures.look({**INFRARED, "standard_name": "air_temperature"})
    assert air.colours.name == "viridis"


@pytest.mark.parametrize(
    ("hours", "ends", "most"), [(None, (0.1, 50), 2), (1, (0.1, 50), 2), (24, (1, 500), 20)]
)
def test_rain_is_white_where_dry_and_then_logarithmic(hours, ends, most):
    look = pictures.look(RAIN, hours=hours)
    assert (look.low, look.high) == pytest.approx(ends)
    assert look.colours.name == "rain"
    low, high = ends
    shares = look.share(np.array([0.99 * low, low, np.sqrt(low * high), 2 * high, np.nan]))
    assert np.allclose(shares, [-1, 0, 0.5, 1, np.nan], equal_nan=True)
    field = np.array([[0.0, 0.99 * low, low, np.nan]])
    dry, nearly, wet, gone = pictures.coloured(field, look)[0].tolist()
    assert dry == nearly == [255, 255, 255]
    assert len({tuple(dry), tuple(wet), tuple(gone)}) == 3
    errors = pictures.error_look(RAIN, "error", hours)
    assert (errors.low, errors.high) == pytest.approx((-most, most))


def test_rain_can_be_read_back_from_its_colour():
    look = pictures.look(RAIN)
    values = look.values()
    colours = [tuple(c) for c in pictures.coloured(values[None], look)[0].tolist()]
    assert len(values) == len(set(colours)) == pictures.LEVELS
    step = values[-1] / values[-2]
    truth = np.geomspace(look.low, look.high, 999)
    value = dict(zip(colours, values, strict=True))
    read = [value[tuple(c)] for c in pictures.coloured(truth[None], look)[0].tolist()]
    assert np.abs(np.log(read / truth)).max() <= np.log(step) / 2 + 1e-9


def test_a_grid_is_covered_from_edge_to_edge():
    grid = Grid(np.arange(55.0, 50.0, -0.5), np.arange(175.0, 185.0, 0.5))  # 10 rows, 20 columns
    assert pictures.covered(grid, (10, 20)) == (174.75, 184.75, 50.25, 55.25)
    assert pictures.covered(grid, (8, 16)) == (174.75, 182.75, 51.25, 55.25)
    assert pictures.covered(grid, (40, 80), 4) == (174.75, 184.75, 50.25, 55.25)


def test_a_map_of_the_earth_has_degrees_and_true_proportions():
    extent = (174.0, 184.0, 55.0, 65.0)
    made = scene(2, look=pictures.look(RAIN), extent=extent, zoom=None, unit="deg", origin="earth")
    figure = pictures.drawn(made, dpi=50)
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    width, height = (axes.bbox.width, axes.bbox.height)
    assert width / height == pytest.approx(0.5, abs=0.01)  # cos 60°
    ticks = [text.get_text() for text in axes.get_xticklabels()]
    assert "180°" in ticks
    assert {"176°E", "176°W"} & set(ticks)
    boxes = [text.get_window_extent() for text in axes.get_xticklabels() if text.get_text()]
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)
    assert "centre" not in axes.get_xlabel() + axes.get_ylabel()


def test_an_error_is_symmetric():
    look = pictures.error_look(INFRARED, "error")
    assert (look.low, look.high) == (-10, 10)  # 180 K / 18


def test_the_zoom_cuts_whole_pixels_around_the_centre():
    field = np.arange(64.0).reshape(8, 8)
    cut, covered = pictures.cut(field, EXTENT, pictures.zoomed(EXTENT, 0.5))
    assert np.array_equal(cut, field[2:6, 2:6])
    assert covered == (-40, 40, -40, 40)


@pytest.mark.parametrize("ending", [".mp4", ".gif"])
def test_an_animation_has_the_images_given(tmp_path, ending):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (65, 97, 3), dtype=np.uint8) for _ in range(4)]
    path = tmp_path / f"a{ending}"
    assert pictures.animation(path, iter(images)) == 4
    if ending == ".gif":
        with Image.open(path) as image:
            assert image.n_frames == 4
            assert image.size == (97, 65)
    else:
        assert mp4_frames(path) == 4
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_same_picture_as_pixels():
    image = pictures.image(scene(3), most=(400, 200))
    assert image.dtype == np.uint8
    assert image.shape[0] <= 200
    assert image.shape[1] <= 400
    assert image.std() > 10


@pytest.mark.parametrize("ending", [".mp4", ".gif"])
def test_a_failed_animation_leaves_the_old_one(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_text("old")

    def images():
        yield np.zeros((64, 64, 3), np.uint8)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        pictures.animation(path, images())
    with pytest.raises(ValueError, match="no image"):
        pictures.animation(path, [])
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"ends in \.mp4 or \.gif"):
        pictures.animation(tmp_path / "a.avi", repeat(np.zeros((2, 2, 3), np.uint8), 1))


def test_what_ffmpeg_refuses_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "/bin/false")
    big = repeat(np.zeros((256, 256, 3), np.uint8), 9)  # more than a pipe holds
    with pytest.raises(UserError, match="could not be made: ffmpeg failed"):
        pictures.animation(tmp_path / "a.mp4", big)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_to_be_one(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho 'a.mp4: No space left on device' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    with pytest.raises(OSError, match="No space left on device") as caught:
        pictures.animation(tmp_path / "a.mp4", repeat(np.zeros((256, 256, 3), np.uint8), 9))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.mp4"))


def test_no_ffmpeg_is_one_sentence(tmp_path, monkeypatch):
    def none():
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none)
    with pytest.raises(UserError, match="ask for a GIF"):
        pictures.animation(tmp_path / "a.mp4", repeat(np.zeros((4, 4, 3), np.uint8), 1))


def test_drawing_chooses_no_backend(tmp_path):
    before = matplotlib.get_backend(auto_select=False)
    pictures.panels(tmp_path / "a.png", scene(1), dpi=30)
    assert matplotlib.get_backend(auto_select=False) == before
