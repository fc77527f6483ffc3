"""Pictures of fixed validation windows: what is in them, and that they change only as they must."""

import time
from dataclasses import replace
from functools import cache
from itertools import chain

import numpy as np
import pytest
import torch
from matplotlib.transforms import Bbox
from PIL import Image

from pipeline import pictures, samples, tasks
from pipeline.pictures import Panel
from pipeline.problem import Problem
from pipeline.samples import Outlined, Samples
from pipeline.scaling import Scaling
from pipeline.sources import digital_typhoon
from pipeline.sources.digital_typhoon import ATTRS
from pipeline.sources.grids import Grid
from pipeline.tasks import ForecastSettings, SuperResolutionSettings

INFRARED = vars(digital_typhoon.INFRARED)
RAIN = {
    "name": "tp",
    "long_name": "Total precipitation",
    "units": "mm",
    "valid_min": 0.0,
    "valid_max": 2000.0,
}
DIGITS = {
    "name": "image",
    "long_name": "grey of the digits",
    "units": "1",
    "valid_min": 0.0,
    "valid_max": 1.0,
}
WIND = {
    "name": "u10",
    "long_name": "10 metre U wind component",
    "units": "m s-1",
    "valid_min": -60.0,
    "valid_max": 60.0,
}
GRID = Grid(np.arange(60.0, 55.0, -0.25), np.arange(0.0, 6.0, 0.25))  # 20 rows, 24 columns
AREA = (1.0, 5.75, 55.25, 60.0)  # 20 x 20 of them
REGION = (2.0, 3.75, 57.0, 58.75)  # 8 x 8


def problem(channels, kind, grid=None, window=1, **settings):
    made = {"superres": SuperResolutionSettings, "forecast": ForecastSettings}[kind](**settings)
    n = len(channels)
    lowest = tuple(0.0 if c["units"] == "mm" else None for c in channels)
    scaling = Scaling(("standard",) * n, (0.0,) * n, (1.0,) * n, (0.5,) * n, lowest)
    return Problem.of(tasks.build(kind, made, window, channels, grid), scaling)


def fields(channel, n, T, H, W, seed=0):
    """(n, T, 1, H, W): no two pixels alike, all of them within the scale of their colours."""
    share = np.random.default_rng(seed).uniform(0.01, 0.99, (n, T, 1, H, W)).astype(np.float32)
    low, high = {"K": (185, 305), "mm": (0, 20), "1": (0, 1), "m s-1": (-50, 50)}[channel["units"]]
    return torch.from_numpy(low + (high - low) * share)


def kelvin(side=32, n=6, missing=False):
    frames = fields(INFRARED, n, 1, side, side)
    if missing:
        frames[..., side // 2 :, :] = torch.nan
    attrs = {"pixel_km": 5.0}
    return Samples.of(problem([INFRARED], "superres"), [INFRARED], attrs, frames)


def rain():
    attrs = {"grid_degrees": 0.25, "accumulation_hours": 1.0}
    return Samples.of(problem([RAIN], "superres"), [RAIN], attrs, fields(RAIN, 6, 1, 32, 40))


def ahead():
    posed = problem([INFRARED], "forecast", past=3, future=3)
    frames = fields(INFRARED, 6, 6, 24, 24)
    return Samples.of(posed, [INFRARED], {"pixel_km": 5.0}, frames, step=3600)


def of_a_region(outside="seen", donors=None):
    settings = {"past": 2, "future": 2, "area": AREA, "region": REGION, "outside": outside}
    posed = problem([RAIN], "forecast", GRID, **settings)
    frames = fields(RAIN, 5, 4, 20, 24)
    return Samples.of(posed, [RAIN], {"grid_degrees": 0.25}, frames, donors, step=3600)


def digits():
    posed = problem([DIGITS], "forecast", past=5, future=5)
    return Samples.of(posed, [DIGITS], {}, fields(DIGITS, 4, 10, 64, 64))


def wide():
    """Of small panels."""
    posed = problem([WIND], "forecast", past=1, future=2)
    return Samples.of(posed, [WIND], {}, fields(WIND, 2, 3, 40, 100), step=600)


MADE = {
    "kelvin": kelvin,
    "rain": rain,
    "ahead": ahead,
    "of_a_region": of_a_region,
    "digits": digits,
    "wide": wide,
}
every = pytest.mark.parametrize("name", MADE)


@cache
def built(name):
    return MADE[name]()


def usual(made):
    """What the usual baseline says."""
    return lambda x: made.problem.of_baseline(made.problem.rows[1], x)


@cache
def plain(name):
    """The picture of the usual baseline as the model."""
    return built(name).drawn(usual(built(name)))


def right(made, off=0.0):
    """The truth where it is drawn; off: what it is too much by, (H, W) or a number."""

    def answer(x):
        sample = next(sample for sample in made.samples if torch.equal(sample.x, x))
        y = usual(made)(x)
        made.problem.task.judged(y)[0, made.times, 0] = sample.truth + off  # a view of it
        return y

    return answer


def places(picture, part):
    """Where exactly these pixels lie in a picture: (row, column) of each place."""
    picture, part = (image.astype(np.int32) @ (1 << 16, 1 << 8, 1) for image in (picture, part))
    (H, W), (h, w) = picture.shape, part.shape
    alike = np.ones((H - h + 1, W - w + 1), bool)
    for i, j in ((0, 0), (h - 1, w - 1), (0, w - 1), (h // 2, w // 2)):
        alike &= picture[i : H - h + 1 + i, j : W - w + 1 + j] == part[i, j]
    return [(i, j) for i, j in np.argwhere(alike) if (picture[i : i + h, j : j + w] == part).all()]


def panels(made, answer):
    """Of the first window, all that is drawn of it."""
    sample = made.samples[0]
    block = made.block(sample, made.guess(sample, answer))
    return [cell for row in block for cell in row if isinstance(cell, Panel)]


@every
def test_the_truth_is_in_the_picture_pixel_by_pixel(name):
    made, picture = built(name), plain(name)
    assert picture.dtype == np.uint8
    for truth in chain(*(sample.truth.numpy() for sample in made.samples)):
        k = made.side // max(truth.shape)
        part = pictures.coloured(truth, made.look).repeat(k, 0).repeat(k, 1)
        assert len(places(picture, part)) == 1


@every
def test_the_same_pixels_every_time(name):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    made = MADE[name]()  # as after a resume
    assert np.array_equal(plain(name), made.drawn(usual(made)))
    assert torch.equal(torch_state, torch.get_rng_state())  # a training goes on unchanged
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


@every
def test_another_answer_changes_the_picture_where_it_is_drawn(name):
    made = built(name)
    one, other = plain(name), made.drawn(right(made))
    assert one.shape == other.shape
    changed = (one != other).any(-1)
    assert changed.mean() > 0.02
    fixed = [panels(made, usual(made))[0]]  # what was given
    fixed += [panel for panel in panels(made, usual(made)) if panel.title.startswith("Truth")]
    if not made.forecast:
        fixed.append(panels(made, usual(made))[1])  # the baseline
    for panel in fixed:
        if not isinstance(panel, Outlined):
            h, w = panel.field.shape
            top, left = places(one, pictures.coloured(panel.field, made.look))[0]
            assert not changed[top : top + h, left : left + w].any()


@every
def test_it_fits_a_screen_and_is_drawn_at_once(name):
    made, (height, width, _) = built(name), plain(name).shape
    since = time.process_time()
    made.drawn(usual(made))
    assert time.process_time() - since < 2  # a third of a second where nothing else runs
    assert 800 <= width <= 1650
    assert height <= 1150


@every
def test_no_text_lies_over_another_or_over_a_colour_bar(name, monkeypatch):
    figures, drawn = [], samples.Sheet.pixels
    monkeypatch.setattr(samples.Sheet, "pixels", lambda s: figures.append(s.figure) or drawn(s))
    made = built(name)
    made.drawn(usual(made), "Epoch 1000, step 1,000,000")
    figure = figures[0]
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    for image in figure.images:
        h, w = image.get_array().shape[:2]
        boxes.append(Bbox.from_bounds(image.ox, image.oy, w, h))
    boxes += [axes.get_tightbbox() for axes in figure.axes if axes.get_ylim()[1] < 100]
    assert len(boxes) > 20
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


@every
def test_a_bright_wrong_answer_stands_in_the_error_panel(name):
    made = built(name)
    h, w = made.samples[0].truth.shape[-2:]
    spot = torch.zeros(h, w)
    spot[1:4, 2:5] = 2 * made.errors.high
    bad = made.drawn(right(made, spot))
    k = made.side // max(h, w)
    wrong = pictures.coloured(spot.numpy(), made.errors).repeat(k, 0).repeat(k, 1)
    assert (wrong[2 * k, 3 * k].astype(int) != wrong[0, 0]).any()
    assert len(places(bad, wrong)) == len(made.samples) * len(made.times)
    assert not places(plain(name), wrong)


@every
def test_titles_tell_the_error_of_each_frame(name):
    made = built(name)
    unit = {"1": ""}.get(made.channel["units"], f" {made.channel['units']}")
    titles = [panel.title for panel in panels(made, right(made, 0.25))]
    assert sum(title.endswith(f"RMSE 0.2500{unit}") for title in titles) == len(made.times)
    sample = made.samples[0]
    for baseline, truth in zip(sample.baseline, sample.truth, strict=True):
        rmse = float((baseline - truth).square().mean().sqrt())
        assert any(title.endswith(f"RMSE {rmse:#.4g}{unit}") for title in titles)


def test_made_finer_a_row_shows_each_method_between_what_was_given_and_the_truth():
    made = kelvin()
    sample = made.samples[0]
    x, baseline, model, truth, error = panels(made, lambda x: usual(made)(x) + 1)
    assert [p.title.partition(", ")[0] for p in (baseline, model, truth)] == [
        "Bicubic",
        "Model",
        "Truth",
    ]
    assert (x.title, truth.title) == (f"Window {sample.number}: low-res, 20 km", "Truth, 5 km")
    k = samples.STILL_SIDE // 32
    assert np.array_equal(x.field, sample.x[0, 0, 0].numpy().repeat(4 * k, 0).repeat(4 * k, 1))
    assert np.allclose(model.field, baseline.field + 1)
    assert error.error
    assert np.allclose(error.field, model.field - truth.field)
    assert len({panel.field.shape for panel in (x, baseline, model, truth, error)}) == 1


def test_a_forecast_shows_what_was_seen_last_and_the_errors_of_both_methods():
    made = ahead()
    sample = made.samples[0]
    grid = made.block(sample, made.guess(sample, usual(made)))
    assert [row[0] for row in grid[1:]] == [
        "Model",
        "Model\nminus truth",
        "Persistence\nminus truth",
    ]
    assert [p.title for p in grid[0]] == [
        f"Window {sample.number}, observed",
        "Truth, +1 h",
        "Truth, +2 h",
        "Truth, +3 h",
    ]
    seen = grid[0][0].field
    k = samples.STRIP_SIDE // 24
    assert np.array_equal(seen[::k, ::k], sample.x[0, -1, 0].numpy())
    for model, off, base in zip(*(row[1:] for row in grid[1:]), strict=True):
        assert np.array_equal(model.field, seen)  # the answer is persistence
        assert off.error
        assert base.error
        assert np.array_equal(off.field, base.field)
    for truth, base in zip(grid[0][1:], grid[3][1:], strict=True):
        assert np.allclose(base.field, seen - truth.field)


def test_lead_times_are_few_and_named_by_what_is_known():
    made = digits()
    assert made.times == [0, 2, 4]
    assert [made.lead(n) for n in range(3)] == ["+1 step", "+3 steps", "+5 steps"]
    assert [replace(made, step=600).lead(n) for n in range(3)] == ["+10 min", "+30 min", "+50 min"]
    once = Samples.of(
        problem([DIGITS], "forecast", past=2, future=1), [DIGITS], {}, fields(DIGITS, 1, 3, 16, 16)
    )
    assert once.times == [0]
    assert once.drawn(usual(once)).shape[1] >= 800


def test_of_a_region_the_whole_area_is_shown_with_a_box():
    made = of_a_region()
    observed = panels(made, usual(made))[0]
    assert isinstance(observed, Outlined)
    k = samples.STRIP_SIDE // 20
    assert observed.field.shape == (20 * k, 20 * k)
    assert observed.box == (4 * k, 12 * k, 7 * k, 15 * k)  # rows 5 to 12 of 20, from the bottom
    assert made.samples[0].truth.shape == (2, 8, 8)
    assert "box" in " ".join(made.told())
    left, right_, bottom, top = (round(side) for side in observed.box)
    inside = observed.field[20 * k - top : 20 * k - bottom, left:right_][::k, ::k]
    assert np.array_equal(inside, made.samples[0].baseline[0].numpy())  # persistence
    within = pictures.coloured(inside[1:-1, 1:-1], made.look).repeat(k, 0).repeat(k, 1)
    top, left = places(plain("of_a_region"), within)[0]
    across = plain("of_a_region")[top + 3 * k, left - 2 * k : left].astype(int)
    assert (across < 60).all(-1).any()  # a black line under a white one
    assert (across > 180).all(-1).any()


def test_what_is_said_outside_the_region_changes_nothing():
    made = of_a_region()

    def beside(x):
        y = usual(made)(x)
        kept = made.problem.task.judged(y).clone()
        y[:] = 50.0
        made.problem.task.judged(y)[:] = kept
        return y

    assert np.array_equal(made.drawn(usual(made)), made.drawn(beside))


def test_donors_lend_what_lies_outside():
    donors = torch.full((5, 4, 1, 20, 24), 7.5)
    made = of_a_region("other_date", donors)
    given = made.samples[0].given
    assert (given[:5] == 7.5).all()
    assert not (made.problem.task.judged(torch.from_numpy(given)) == 7.5).any()


def test_the_model_is_asked_for_each_window_as_it_is():
    made, asked = kelvin(missing=True), []

    def answer(x):
        asked.append(x)
        assert not torch.is_grad_enabled()
        return usual(made)(x)

    made.drawn(answer)
    assert [tuple(x.shape) for x in asked] == [(1, 1, 1, 8, 8)] * 3
    assert all(x[..., 4:, :].isnan().all() for x in asked)


def test_of_each_part_the_most_varied_whole_window():
    frames = torch.full((9, 1, 1, 16, 16), 280.0)
    for n, spread in ((1, 5.0), (2, 20.0), (4, 30.0), (5, 90.0)):
        frames[n, ..., ::2] += spread
    frames[5, ..., 0, 0] = torch.nan  # what is damaged varies most
    frames[6] = torch.nan
    posed = problem([INFRARED], "superres")
    made = Samples.of(posed, [INFRARED], {}, frames)
    assert [sample.number for sample in made.samples] == [3, 5, 8]
    assert "windows 3, 5 and 8 of 9" in made.told()[0]
    few = Samples.of(posed, [INFRARED], {}, frames[:2])
    assert [sample.number for sample in few.samples] == [1, 2]
    assert "varies" not in few.told()[0]


def test_missing_pixels_are_hatched_and_have_no_error():
    made = kelvin(missing=True)
    picture = made.drawn(usual(made))
    sample = made.samples[0]
    k = samples.STILL_SIDE // 32
    part = pictures.coloured(sample.truth[0].numpy(), made.look).repeat(k, 0).repeat(k, 1)
    seen = part[: 16 * k]
    ((top, left),) = places(picture, seen)
    missing = picture[top + 16 * k : top + 32 * k, left : left + 32 * k].reshape(-1, 3)
    ground, line = (
        np.array([int(pictures.MISSING[key][i : i + 2], 16) for i in (1, 3, 5)])
        for key in ("facecolor", "edgecolor")
    )
    assert (missing == ground).all(-1).mean() > 0.4
    assert not (missing == 255).all(-1).any()
    assert (np.abs(missing.astype(int) - line).max(-1) < 60).mean() > 0.05  # its hatching
    for panel in panels(made, usual(made)):
        assert np.isnan(panel.field[16 * k :]).all()  # nothing is invented there
        assert not np.isnan(panel.field[: 16 * k]).any()


def test_a_window_without_any_truth_has_no_score():
    frames = torch.full((1, 1, 1, 16, 16), torch.nan)
    made = Samples.of(problem([INFRARED], "superres"), [INFRARED], {}, frames)
    titles = [panel.title for panel in panels(made, usual(made))]
    assert titles[2] == "Model, RMSE \N{EN DASH} K"
    assert titles[0] == "Window 1: low-res, 1 / 4"
    made.drawn(usual(made))


def test_of_large_frames_made_finer_the_middle_is_shown_pixel_by_pixel():
    made = kelvin(side=320, n=1)
    truth = panels(made, usual(made))[3]
    assert np.array_equal(truth.field, made.samples[0].truth[0, 8:-8, 8:-8].numpy())
    assert "The middle 304 \N{MULTIPLICATION SIGN} 304 of 320" in made.told()[1]


def test_of_large_forecasts_means_are_shown():
    posed = problem([INFRARED], "forecast", past=1, future=1)
    frames = fields(INFRARED, 1, 2, 300, 300)
    made = Samples.of(posed, [INFRARED], {}, frames)
    truth = panels(made, usual(made))[1]
    assert truth.field.shape == (150, 150)
    assert truth.field[0, 0] == pytest.approx(float(frames[0, 1, 0, :2, :2].mean()))
    assert "the mean of 2 \N{MULTIPLICATION SIGN} 2" in made.told()[1]


def test_of_several_channels_the_first_that_is_forecast():
    channels = [RAIN, {**RAIN, "name": "cp", "long_name": "Convective precipitation"}]
    settings = {"past": 2, "future": 1, "inputs": ("tp", "cp"), "targets": ("cp",)}
    frames = torch.cat([fields(RAIN, 2, 3, 16, 16, seed) for seed in (1, 2)], 2)
    made = Samples.of(problem(channels, "forecast", **settings), channels, {}, frames)
    assert made.look.label.startswith("Convective precipitation")
    sample = made.samples[0]
    assert np.array_equal(sample.given, frames[0, 1, 1].numpy())
    assert torch.equal(sample.truth, frames[0, 2:, 1])
    made.drawn(usual(made))


def test_scales_are_those_of_the_reports():
    made = of_a_region()
    assert made.look.logarithmic
    assert made.look.label == "Total precipitation in 1 h [mm]"  # as long as a step
    assert made.errors.high == pictures.error_look(RAIN, "", 1, ahead=True).high
    made = kelvin()
    assert (made.errors.low, made.errors.high) == (-10, 10)
    assert made.errors.label == "model minus truth [K]"
    named = "rightness temperature of the infrared window channel"
    assert made.heading("") == f"B{named}"
    assert made.heading("Epoch 2") == f"Epoch 2: b{named}"


def test_an_interpolated_truth_is_called_so():
    posed = problem([RAIN], "superres", truth="interpolated", factor=2)
    made = Samples.of(posed, [RAIN], {"grid_degrees": 0.25}, fields(RAIN, 1, 1, 16, 16))
    x, *_, truth, _ = panels(made, usual(made))
    assert truth.title == "Interpolated truth, 0.125\N{DEGREE SIGN}"
    assert x.title.endswith("0.25\N{DEGREE SIGN}")
    assert x.field.shape == truth.field.shape


def test_a_png_of_the_same_pixels_or_what_was_there_before(tmp_path):
    made = rain()
    picture = made.drawn(usual(made))
    path = pictures.write(tmp_path / "samples" / "epoch-0001.png", picture)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), picture)
    with pytest.raises((TypeError, ValueError)):
        pictures.write(path, picture[..., :2].astype(complex))
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), picture)
    assert [p.name for p in path.parent.iterdir()] == ["epoch-0001.png"]


def test_whose_data_they_are_is_written_below():
    posed, given = problem([INFRARED], "superres"), fields(INFRARED, 3, 1, 64, 64)
    said, bare = (Samples.of(posed, [INFRARED], attrs, given) for attrs in (ATTRS, {"pixel_km": 5}))
    assert said.credit.line.startswith("Data: Digital Typhoon Dataset")
    pixels, without = (each.drawn(usual(each)) for each in (said, bare))
    more = len(pixels) - len(without)
    assert more == samples.FOOT
    assert np.array_equal(pixels[60:-80], without[60 : -80 + more])  # nothing else moved
    foot = pixels[-samples.FOOT :]
    dark = np.flatnonzero((foot < 200).any((0, 2)))
    assert samples.MARGIN <= dark[0] < 2 * samples.MARGIN
    assert dark[-1] < pixels.shape[1] - samples.MARGIN
