"""Places that are followed date by date."""

from __future__ import annotations

import math

import matplotlib.image
import numpy as np
import pytest
from PIL import Image

from pipeline import axes, site_plots, sites, tasks
from pipeline.credit import Credit
from pipeline.errors import UsageError, UserError
from pipeline.scorecard import TRUTH
from pipeline.sites import Places, Series, Site
from pipeline.sources.grids import Grid
from pipeline.tasks import SuperResolutionSettings

GRID = Places((4, 5), np.array([52.0, 51.5, 51.0, 50.5]), np.array([7.0, 7.5, 8.0, 8.5, 9.0]))


class Field:
    """What sites ask of a store's track."""

    def __init__(self, frames: np.ndarray, north: float = 52) -> None:
        self.frames = frames  # (T, H, W)
        self.shape = (1, *frames.shape[1:])
        H, W = frames.shape[1:]
        self.grid: Grid | None = Grid(north - 0.5 * np.arange(H), 7 + 0.5 * np.arange(W))

    def windows(self, length: int) -> np.ndarray:
        return np.arange(len(self.frames))

    def checked(self, first: int, count: int) -> np.ndarray:
        return self.frames[first : first + count, None].astype(np.float32)


RAIN = {"name": "tp", "units": "mm"}


def task(**settings):
    return tasks.build("superres", SuperResolutionSettings(factor=2, **settings), 1, [RAIN])


def gradient(shape=(6, 5, 7)) -> np.ndarray:
    """(T, H, W): the wetter, the further south and east; the last row and column fill no block."""
    T, H, W = shape
    return np.ones(T)[:, None, None] * (np.arange(H)[:, None] * 10 + np.arange(W))


def test_the_wettest_the_median_and_the_driest_are_found():
    frames = gradient()
    frames[:, 1, 1] = np.nan  # and what is never seen is none of them
    found = sites.chosen([Field(frames)], task())
    assert [(s.name, s.row, s.column) for s in found] == [
        ("wettest", 3, 5),
        ("median", 2, 0),
        ("driest", 0, 0),
    ]
    assert (found[0].latitude, found[0].longitude) == (50.5, 9.5)


@pytest.mark.parametrize(
    ("wish", "row", "column"),
    [("51.5,8", 1, 2), ("51.3,8.2", 1, 2), ("50.4,9.1", 3, 4), ("51.5,368", 1, 2), ("@3,0", 3, 0)],
)
def test_a_site_is_asked_for_by_place_or_by_number(wish, row, column):
    found = GRID.nearest(wish)
    assert (found.row, found.column) == (row, column)
    assert found.latitude == GRID.latitude[row]


@pytest.mark.parametrize(
    ("wish", "error", "said"),
    [
        ("Berlin", UsageError, r"expected latitude,longitude as in 50\.1,8\.7"),
        ("51.5", UsageError, "expected latitude,longitude"),
        ("nan,8", UsageError, "expected latitude,longitude"),
        ("@4,0", UsageError, "the frames are 4x5"),
        ("@-1,0", UsageError, "the frames are 4x5"),
        ("40,8", UserError, r"outside the frames, 50\.5 to 52 north and 7 to 9 east"),
        ("51,12", UserError, "outside the frames"),
    ],
)
def test_a_site_that_is_none(wish, error, said):
    with pytest.raises(error, match=said):
        GRID.nearest(wish)


def test_places_need_latitudes():
    with pytest.raises(UserError, match="this store has no latitudes; give @row,column"):
        Places((4, 5), None, None).nearest("51,8")
    storm = Field(gradient())
    storm.grid = None
    assert sites.places_of(storm, task()).latitude is None
    assert sites.chosen([storm], task())[0].latitude is None


def test_tracks_of_several_grids_have_no_common_sites():
    both = [Field(gradient()), Field(gradient(), north=40)]
    assert sites.chosen(both, task()) == []
    with pytest.raises(UserError, match="only where all tracks are of one grid"):
        sites.chosen(both, task(), ["@0,0"])


def test_of_interpolated_truth_sites_lie_on_the_finer_grid():
    found = sites.places_of(Field(gradient()), task(truth="interpolated"))
    assert found.shape == (10, 14)
    np.testing.assert_allclose(found.latitude[:4], [52.125, 51.875, 51.625, 51.375])
    np.testing.assert_allclose(found.longitude[-2:], [9.875, 10.125])


def test_a_finer_axis_cuts_every_cell_into_equal_parts():
    """1 degree by 100 is 0.01 degree exactly, and the edges of the area stay where they were."""
    axis = np.array([30.0, 29, 28, 27, 26])
    fine = axes.finer(axis, 100)
    assert len(fine) == 500
    np.testing.assert_allclose(np.diff(fine), -0.01, atol=1e-12)
    assert (fine[0] + 0.005, fine[-1] - 0.005) == pytest.approx((30.5, 25.5))
    np.testing.assert_allclose(axes.coarser(fine, 100), axis)
    assert axes.side(axis) == 1
    assert axes.side(np.array([1.0, 2, 4])) is None
    with pytest.raises(ValueError, match="unequal steps"):
        axes.finer(np.array([1.0, 2, 4]), 2)


def values(n: int = 400, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.gamma(0.3, 4.0, n)


def test_the_same_values_on_other_dates_have_the_same_quantiles_but_no_correlation():
    """So a permutation of the days, which a quantile plot hides, is found out."""
    truth = values()
    shuffled = np.random.default_rng(1).permutation(truth)
    frames = [
        {TRUTH: [a], "model": [a * 0.9], "shuffled": [b]}
        for a, b in zip(truth, shuffled, strict=True)
    ]
    found = Series.of(Site("here", 0, 0, None, None), 0, frames).summary()
    assert found["quantiles"]["rows"]["shuffled"] == found["quantiles"]["truth"]
    assert found["correlation"]["model"] == pytest.approx(1)
    assert abs(found["correlation"]["shuffled"]) < 0.2
    assert found["mean"] == pytest.approx(truth.mean())


def test_missing_dates_are_left_out_of_both_and_a_constant_has_no_correlation():
    frames = [{TRUTH: [a], "model": [1.0]} for a in (1.0, math.nan, 3.0)]
    series = Series.of(Site("here", 0, 0, None, None), 0, frames)
    assert series.truth.tolist() == [1, 3]
    assert series.rows["model"].tolist() == [1, 1]
    found = series.summary()
    assert math.isnan(found["correlation"]["model"])
    assert found["quantiles"]["probability"] == []  # two dates say nothing about extremes


def test_the_picture_shows_every_site(tmp_path):
    made = [
        Series(
            Site(name, 0, 0, 50.0, 8.0), values(), {"model": values(), "bicubic": values(seed=1)}
        )
        for name in ("wettest", "driest")
    ]
    empty = Series(Site("dry", 0, 0, None, None), np.empty(0), {"model": np.empty(0)})
    credit = Credit.of({"attribution": "Somebody", "license": "free"})
    path = site_plots.draw(tmp_path / "sites.png", [*made, empty], "mm", credit)
    with Image.open(path) as image:
        image.load()
        assert image.text["Copyright"] == "Somebody, free"
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[1] == 990
    thirds = np.array_split(pixels[..., :3].std(axis=(1, 2)), 3)
    assert all(each.max() > 0.05 for each in thirds)  # something is drawn in each row
