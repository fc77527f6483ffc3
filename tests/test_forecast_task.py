"""The forecast task: past frames in, future frames out, and what must be beaten."""

import numpy as np
import pytest
import torch

from pipeline import scaling, tasks
from pipeline.errors import UserError
from pipeline.manifest import Statistics
from pipeline.problem import Problem
from pipeline.sources.grids import Grid
from pipeline.tasks import Forecast, ForecastSettings
from pipeline.tasks.extrapolation import moved_on, past_mean, persistence

GRID = Grid(40.5 - np.arange(8.0), 100.5 + np.arange(12.0))  # 33..41 N, 100..112 E


def channel(name, units="K"):
    return {"name": name, "units": units, "valid_min": 0, "valid_max": 400}


CHANNELS = [channel("u", "m s-1"), channel("t"), channel("tp", "mm")]


def task(channels=CHANNELS, grid=None, **settings):
    return tasks.build("forecast", ForecastSettings(**settings), 0, channels, grid)


def frames(T, C=3, H=8, W=12, B=2, seed=0):
    return torch.rand(B, T, C, H, W, generator=torch.Generator().manual_seed(seed)) * 10


def test_past_and_future_are_cut_and_channels_chosen():
    made = task(past=3, future=2, inputs=["tp", "u"], targets=["tp"])
    given = frames(5)
    x, y = made.split(given)
    assert torch.equal(x, given[:, :3][:, :, [2, 0]])
    assert torch.equal(y, given[:, 3:][:, :, [2]])
    assert (made.inputs, made.targets, made.continues) == ((2, 0), (2,), (0,))
    assert (made.window, made.scored_window, made.first) == (5, 5, 3)
    geometry = made.geometry((3, 8, 12))
    assert (geometry.x, geometry.y) == ((3, 2, 8, 12), (2, 1, 8, 12))
    assert geometry.continues == (0,)


def test_no_channel_named_is_all_of_them():
    made = task(past=1, future=1)
    assert made.inputs == made.targets == (0, 1, 2)
    assert task(inputs=["t"], past=1, future=1).targets == (1,)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"inputs": ["w"]}, "task.inputs: no channel w; there are u, t, tp"),
        ({"inputs": ["u"], "targets": ["tp"]}, "task.targets: tp must be among task.inputs"),
        ({"area": (100, 105, 33, 41)}, "task.area: the frames have no latitudes"),
    ],
)
def test_what_is_not_there_is_refused(settings, words):
    with pytest.raises(UserError, match=words):
        task(**settings)


def test_coarsening_is_the_mean_of_blocks_of_what_was_seen():
    given = frames(2)
    given[0, 0, 0, 0, 0] = torch.nan
    x, y = task(past=1, future=1, coarsen=4).split(given)
    assert x.shape == (2, 1, 3, 2, 3)
    block = given[0, 0, 0, :4, :4].numpy()
    np.testing.assert_allclose(x[0, 0, 0, 0, 0], np.nanmean(block), rtol=1e-6)
    np.testing.assert_allclose(y[1, 0, 2, 1, 2], given[1, 1, 2, 4:, 8:].mean(), rtol=1e-6)
    assert task(past=1, future=1, coarsen=4).side() == 4
    with pytest.raises(UserError, match="8x12 pixels cannot be coarsened 9 times"):
        task(coarsen=9).refuse((3, 8, 12))


def test_an_area_and_a_region_by_latitude_and_longitude():
    made = task(grid=GRID, past=1, future=1, area=(102, 110, 35, 39), region=(106, 110, 35, 39))
    given = frames(2)
    x, y = made.split(given)
    assert torch.equal(x, given[:, :1, :, 2:6, 2:10])  # centres 38.5..35.5 N, 102.5..109.5 E
    assert y.shape == x.shape
    assert y[..., :4].isnan().all()
    assert torch.equal(made.judged(y), given[:, 1:, :, 2:6, 6:10])
    shape, grid = made.place(GRID, (8, 12))
    assert shape == (4, 4)
    assert grid.y.tolist() == [38.5, 37.5, 36.5, 35.5]
    assert grid.x.tolist() == [106.5, 107.5, 108.5, 109.5]
    assert made.located
    assert not task().located


def test_a_box_beyond_the_grid_and_one_across_its_end_are_refused():
    with pytest.raises(UserError, match=r"task\.region: west 120, east 130"):
        task(grid=GRID, region=(120, 130, 35, 39))
    with pytest.raises(UserError, match="no connected part"):
        task(grid=GRID, area=(110, 102, 35, 39))  # east of 110 and west of 102


def test_a_box_around_the_globe_is_all_of_it():
    around = Grid(40.5 - np.arange(8.0), -179.5 + np.arange(360.0))
    for west, east in ((-180, 180), (0, 360), (-200, 400)):
        made = task(grid=around, area=(west, east, 33, 41))
        assert made.area == (slice(0, 8), slice(0, 360))


def test_a_centre_on_the_edge_counts_though_float32_does_not_quite_say_so():
    """0.1 degrees in float32, as files have it."""
    fine = Grid(
        np.round(np.float32(40) - np.float32(0.1) * np.arange(8, dtype=np.float32), 6).astype(
            float
        ),
        np.round(np.float32(101) + np.float32(0.1) * np.arange(20, dtype=np.float32), 6).astype(
            float
        ),
    )
    assert not (fine.y == np.round(fine.y, 1)).all()
    made = task(grid=fine, area=(101.3, 102.4, 39.3, 40))
    assert made.area == (slice(0, 8), slice(3, 15))


def test_longitudes_may_be_given_in_any_turn():
    made = task(grid=GRID, area=(-258, -250, 35, 39), past=1, future=1)
    assert made.area == (slice(2, 6), slice(2, 10))


def test_frames_of_another_size_do_not_fit_an_area():
    with pytest.raises(UserError, match=r"9x12 pixels, and task\.area is of a grid of 8x12"):
        task(grid=GRID, area=(102, 110, 35, 39)).refuse((3, 9, 12))


def test_outside_the_region_only_the_mean_is_left():
    made = task(grid=GRID, past=1, future=1, region=(106, 112, 33, 41), outside="mean")
    given = frames(2)
    x, _ = made.split(given)
    assert x[..., :6].isnan().all()
    assert torch.equal(x[..., 6:], given[:, :1, :, :, 6:])
    stats = Statistics(count=[1] * 3, mean=[3, 4, 5], std=[1] * 3, min=[0] * 3, max=[9] * 3)
    problem = Problem.of(made, scaling.fit("weather", CHANNELS, stats))
    filled = problem.x.filled(x)
    for number, mean in enumerate((3, 4, 5)):
        torch.testing.assert_close(
            filled[:, :, number, :, :6], torch.full((2, 1, 8, 6), mean * 1.0)
        )


def test_outside_the_region_another_date():
    made = task(grid=GRID, past=1, future=1, region=(106, 112, 33, 41), outside="other_date")
    given, donors = frames(2, B=3), frames(2, B=3, seed=1)
    x, y = made.split(given, donors)
    assert torch.equal(x[..., :6], donors[:, :1, :, :, :6])
    assert torch.equal(x[..., 6:], given[:, :1, :, :, 6:])
    assert torch.equal(made.judged(y), given[:, 1:, :, :, 6:])  # the truth is of its own date
    x, _ = made.split(given)
    assert torch.equal(x[1, ..., :6], given[0, :1, :, :, :6])  # without donors the batch's next
    assert made.borrows
    with pytest.raises(UserError, match="batch_size of 2 or more"):
        made.split(given[:1])


def blob(row, column, H=48, W=48):
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    return 300 - 80 * torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 40)


def test_what_moves_goes_on_moving():
    """A blob that moves 2 rows and 3 columns a step is found where it will be."""
    path = torch.stack([blob(10 + 2 * t, 8 + 3 * t) for t in range(6)])[None, :, None]
    past, future = path[:, :3], path[:, 3:]
    moved = (moved_on(past, 3) - future).square().mean(dim=(0, 2, 3, 4)).sqrt()
    stayed = (persistence(past, 3) - future).square().mean(dim=(0, 2, 3, 4)).sqrt()
    assert (moved < 0.25 * stayed).all()
    peak = moved_on(past, 3)[0, 2, 0].argmin()
    assert abs(int(peak) // 48 - 20) <= 1
    assert abs(int(peak) % 48 - 23) <= 1


def test_each_channel_and_sample_moves_on_its_own():
    one, other = blob(10, 10), blob(30, 30)
    past = torch.stack([torch.stack([one, other]), torch.stack([blob(10, 13), blob(28, 30)])])
    alone = [moved_on(past[None, :, c : c + 1], 2) for c in range(2)]
    torch.testing.assert_close(moved_on(past[None], 2), torch.cat(alone, 2))


def test_what_is_the_same_everywhere_stays():
    flat = torch.full((1, 2, 1, 16, 16), 7.0)
    assert torch.equal(moved_on(flat, 3), torch.full((1, 3, 1, 16, 16), 7.0))
    assert torch.equal(moved_on(flat[:, :1], 3), torch.full((1, 3, 1, 16, 16), 7.0))


def test_the_baselines_are_of_the_targets_alone():
    made = task(past=3, future=2, inputs=["tp", "u"], targets=["u"])
    assert made.rows() == ["persistence", "optical_flow", "past_mean"]
    x, _ = made.split(frames(5))
    stayed, mean = (made.baseline(row, x) for row in ("persistence", "past_mean"))
    assert torch.equal(stayed, x[:, -1:, [1]].expand(-1, 2, -1, -1, -1))
    assert torch.equal(mean, past_mean(x[:, :, [1]], 2))
    torch.testing.assert_close(mean[:, 1], x[:, :, [1]].mean(1))
    assert made.baseline("optical_flow", x).shape == (2, 2, 1, 8, 12)


def test_going_on_needs_all_that_the_model_is_given():
    made = task(past=2, future=1)
    assert made.longer(5).window == 7
    assert task(past=2, future=3).longer(1).window == 3
    with pytest.raises(UserError, match="given more channels than it forecasts"):
        task(past=2, future=1, targets=["tp"]).longer(2)
    with pytest.raises(UserError, match="more than the region"):
        task(past=2, future=1, grid=GRID, region=(106, 112, 33, 41)).longer(2)
    assert isinstance(
        task(past=2, future=1, grid=GRID, area=(106, 112, 33, 41)).longer(2), Forecast
    )


def test_x_and_y_are_scaled_each_by_their_own_channels():
    stats = Statistics(count=[1] * 3, mean=[3, 4, 5], std=[2] * 3, min=[0] * 3, max=[9] * 3)
    made = Problem.of(
        task(past=1, future=1, inputs=["t", "tp"], targets=["tp"]),
        scaling.fit("weather", CHANNELS, stats),
    )
    given = frames(2)
    x, y = made.pair(given)
    torch.testing.assert_close(x[:, :, 0], (given[:, :1, 1] - 4) / 2)
    torch.testing.assert_close(y[:, :, 0], given[:, 1:, 2].log1p() / np.log1p(9))
    torch.testing.assert_close(made.of_model(y, x), given[:, 1:, [2]])
    geometry = made.geometry((3, 8, 12))
    assert geometry.log_scale == pytest.approx(np.log1p(9))
    assert geometry.floor == 0
    assert (
        Problem.of(task(past=1, future=1), scaling.fit("weather", CHANNELS, stats))
        .geometry((3, 8, 12))
        .log_scale
        is None
    )
    assert made.of_model(y - 5, x).min() == 0  # no rain is less than none


def test_light_rain_shows_how_it_moves_beside_heavy_rain():
    """In mm a shower of 1 is invisible beside one of 200 that stays; in log1p it is not."""
    heavy = 200 * (1 - (blob(40, 8) - 220) / 80).clamp(min=0)
    rain = [heavy + 1 - (blob(8 + 2 * t, 10 + 2 * t) - 220) / 80 for t in range(3)]
    past = torch.stack(rain).clamp(min=0)[None, :, None]
    made = task([channel("tp", "mm")], past=2, future=1)
    truth, light = past[:, 2:], (..., slice(0, 28), slice(0, 48))
    found = (made.baseline("optical_flow", past[:, :2]) - truth)[light].square().mean()
    plain = (moved_on(past[:, :2], 1) - truth)[light].square().mean()
    assert found < 0.5 * plain


def test_what_is_given_is_what_split_makes_of_the_past():
    for outside in ("seen", "mean"):
        made = task(grid=GRID, past=2, future=1, region=(106, 112, 33, 41), outside=outside)
        given = frames(3)
        torch.testing.assert_close(made.given(given[:, :2]), made.split(given)[0], equal_nan=True)


def test_outside_needs_a_region():
    with pytest.raises(ValueError, match="outside mean needs a region"):
        ForecastSettings(outside="mean")
