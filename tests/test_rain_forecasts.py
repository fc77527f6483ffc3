"""A field of another resolution, given to a model."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import forecasts
from pipeline.errors import UserError
from pipeline.sources.grids import Grid

RAIN = {
    "name": "tp",
    "units": "mm",
    "standard_name": "lwe_thickness_of_precipitation_amount",
    "observed_max": 40.0,
}
WIND = {"name": "u10", "units": "m s-1", "standard_name": "eastward_wind"}


def test_the_finer_grid_is_exact_and_keeps_its_edges():
    """The specification's 0.4 degree forecasts; its own grid of 500 points was 0.00802 apart."""
    grid = Grid(55 - 0.4 * np.arange(101), 70 + 0.4 * np.arange(176))
    made = forecasts.place(grid, 4, (404, 704))
    assert (made.y.shape, made.x.shape, made.unit, made.pixel) == ((404,), (704,), "deg", 0.1)
    np.testing.assert_allclose(np.diff(made.y), -0.1, atol=1e-9)
    np.testing.assert_allclose(np.diff(made.x), 0.1, atol=1e-9)
    assert made.extent == pytest.approx((69.8, 140.2, 14.8, 55.2))
    np.testing.assert_allclose(made.y.reshape(101, 4).mean(1), grid.y)
    assert list(made.axes) == ["latitude", "longitude"]
    assert made.axes["longitude"]["units"] == "degrees_east"


def test_longitudes_beyond_180_go_on():
    made = forecasts.place(Grid(np.array([1.0, 0]), np.array([179.0, 180, 181])), 2, (4, 6))
    assert made.x.tolist() == [178.75, 179.25, 179.75, 180.25, 180.75, 181.25]


def test_a_map_in_kilometres_stays_one():
    made = forecasts.place(Grid(np.array([2.0, 0, -2]), np.array([0.0, 2]), True), 2, (6, 4))
    assert (made.unit, made.pixel) == ("km", 1.0)
    assert made.axes["y"]["standard_name"] == "projection_y_coordinate"


def test_an_uneven_grid_is_refused():
    with pytest.raises(UserError, match=r"rows are not evenly spaced \(steps of 1 to 2\)"):
        forecasts.place(Grid(np.array([3.0, 2, 0]), np.array([1.0, 2])), 4, (12, 8))
    with pytest.raises(UserError, match=r"columns are not evenly spaced \(one value\)"):
        forecasts.place(Grid(np.array([3.0, 2]), np.array([1.0])), 4, (8, 4))


def test_in_check_mode_the_pixels_are_the_input_s_own():
    grid = Grid(55 - 0.25 * np.arange(33), 5 + 0.25 * np.arange(41))
    made = forecasts.place(grid, 1, (32, 40))
    assert (made.y[-1], made.x[-1], made.pixel) == (47.25, 14.75, 0.25)


def test_rain_by_another_name_is_rain_but_metres_are_not_millimetres():
    forecasts.refuse_others(Path("f.nc"), [{**RAIN, "name": "precip"}], [RAIN])
    with pytest.raises(UserError, match=r"f.nc: has the channels tp \[m\]; the model .* tp \[mm\]"):
        forecasts.refuse_others(Path("f.nc"), [{**RAIN, "units": "m"}], [RAIN])
    with pytest.raises(UserError, match=r"has the channels u10 \[m s-1\]"):
        forecasts.refuse_others(Path("f.nc"), [WIND], [RAIN])
    with pytest.raises(UserError, match=r"has the channels u10 \[m s-1\], tp \[mm\]"):
        forecasts.refuse_others(Path("f.nc"), [WIND, RAIN], [RAIN, WIND])
    forecasts.refuse_others(Path("f.nc"), [WIND, RAIN], [WIND, RAIN])


TRAINED = {"grid_degrees": 0.25, "accumulation_hours": 24.0}


def test_what_was_learnt_needs_no_word():
    given = {"grid_degrees": 1.0, "accumulation_hours": 24.0}
    assert forecasts.unlike(RAIN, TRAINED, given, (1, 4), 55.0) == []
    assert forecasts.unlike(RAIN, TRAINED, given, (1, 4), 0.0) == []  # a dry day
    assert forecasts.unlike(RAIN, {}, {}, (1, 4), float("nan")) == []


def test_another_resolution_another_accumulation_and_another_unit_are_each_said():
    said = forecasts.unlike(RAIN, TRAINED, {"grid_degrees": 0.4}, (1, 4), 20.0)
    assert len(said) == 1
    assert "cells of 0.4°, the model learnt from cells of 1°" in said[0]
    assert forecasts.unlike(RAIN, TRAINED, {"grid_degrees": 0.25}, (1, 4), 20.0) == []
    assert forecasts.unlike(RAIN, TRAINED, {"grid_degrees": 1.0}, (1,), 20.0)  # in check mode
    said = forecasts.unlike(RAIN, TRAINED, {"accumulation_hours": 6.0}, (1, 4), 20.0)
    assert "rain of 6 h, the training data of 24 h" in said[0]
    metres = forecasts.unlike(RAIN, TRAINED, {}, (1, 4), 0.02)  # of 20 mm, as if they were mm
    assert "0.02 mm, that of the training tracks 40 mm: more than 100 times smaller" in metres[0]
    assert "larger" in forecasts.unlike(RAIN, TRAINED, {}, (1, 4), 2e4)[0]
