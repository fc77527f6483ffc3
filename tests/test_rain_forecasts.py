"""A field of another resolution, given to a model."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import forecasts
from pipeline.errors import UserError
from pipeline.forecasts import Place

RAIN = {
    "name": "tp",
    "units": "mm",
    "standard_name": "lwe_thickness_of_precipitation_amount",
    "observed_max": 40.0,
}
WIND = {"name": "u10", "units": "m s-1", "standard_name": "eastward_wind"}


def test_the_finer_grid_is_exact_and_keeps_its_edges_and_order():
    """The specification's 0.4 degree forecasts, rows from north to south."""
    latitude, longitude = 55 - 0.4 * np.arange(101), 70 + 0.4 * np.arange(176)
    made = Place.finer(latitude, longitude, 4)
    assert (len(made.latitude), len(made.longitude)) == (404, 704)
    np.testing.assert_allclose(np.diff(made.latitude), -0.1, atol=1e-9)
    np.testing.assert_allclose(np.diff(made.longitude), 0.1, atol=1e-9)
    assert made.extent == pytest.approx((69.8, 140.2, 14.8, 55.2))
    np.testing.assert_allclose(made.latitude.reshape(101, 4).mean(1), latitude)


def test_rows_from_south_to_north_stay_so():
    made = Place.finer(np.array([10.0, 11]), np.array([100.0, 101]), 2)
    assert made.latitude.tolist() == [9.75, 10.25, 10.75, 11.25]


def test_longitudes_beyond_180_go_on():
    made = Place.finer(np.array([1.0, 0]), np.array([179.0, 180, 181]), 2)
    assert made.longitude.tolist() == [178.75, 179.25, 179.75, 180.25, 180.75, 181.25]


def test_an_uneven_grid_is_refused():
    with pytest.raises(UserError, match=r"latitudes are not evenly spaced \(steps of 1 to 2 deg"):
        Place.finer(np.array([3.0, 2, 0]), np.array([1.0, 2]), 4)
    with pytest.raises(UserError, match=r"longitudes are not evenly spaced \(one value"):
        Place.finer(np.array([3.0, 2]), np.array([1.0]), 4)


def test_in_check_mode_the_pixels_are_the_input_s_own():
    made = Place.cut(np.arange(33.0), np.arange(41.0), (32, 40))
    assert (made.latitude[-1], made.longitude[-1]) == (31, 39)


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
    assert forecasts.unlike(RAIN, TRAINED, given, 4, 55.0) == []
    assert forecasts.unlike(RAIN, TRAINED, given, 4, 0.0) == []  # a dry day
    assert forecasts.unlike(RAIN, {}, {}, 4, float("nan")) == []


def test_another_resolution_another_accumulation_and_another_unit_are_each_said():
    said = forecasts.unlike(RAIN, TRAINED, {"grid_degrees": 0.4}, 4, 20.0)
    assert len(said) == 1
    assert (
        "cells of 0.4 degrees; the model learnt to refine cells of 1 degrees into 0.25" in said[0]
    )
    assert "makes these into 0.1" in said[0]
    said = forecasts.unlike(RAIN, TRAINED, {"accumulation_hours": 6.0}, 4, 20.0)
    assert "rain of 6 h, the training data of 24 h" in said[0]
    metres = forecasts.unlike(RAIN, TRAINED, {}, 4, 0.02)  # of 20 mm, as if they were mm
    assert "0.02 mm, that of the training tracks 40 mm: more than 100 times smaller" in metres[0]
    assert "larger" in forecasts.unlike(RAIN, TRAINED, {}, 4, 2e4)[0]
