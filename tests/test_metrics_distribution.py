"""Quantiles, and what they may be compared with."""

import math

import numpy as np
import pytest
import torch

from pipeline.metrics import PROBABILITIES, Distribution, matched_by_date

BIN = (330 - 150) / 1800  # kelvin


def normal(seed: int, mean: float = 250.0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(mean, 15, (2, 100, 150))).float()


def test_quantiles_are_numpy_s_to_a_bin():
    truth, prediction = normal(0), normal(1, 255)
    truth[0, :40] = torch.nan
    seen = ~truth.isnan()
    asked = (0.001, 0.01, 0.25, 0.5, 0.9, 0.999)
    found = Distribution.of(prediction, truth, 150, 330).quantiles(asked)
    for values, each in zip((truth[seen], prediction[seen]), found, strict=True):
        expected = np.quantile(values.numpy(), asked, method="inverted_cdf")
        np.testing.assert_allclose(each, expected, atol=BIN)


def test_a_warm_bias_is_the_error_of_every_quantile():
    truth = normal(0)
    found = Distribution.of(truth + 20 * BIN, truth, 150, 330).scores()
    assert next(iter(found)) == "quantile_error_0.001"
    assert all(value == pytest.approx(2, abs=1e-2) for value in found.values())


def test_a_histogram_does_not_see_where_things_are():
    truth = normal(0)
    assert all(v == 0 for v in Distribution.of(truth.flip(1), truth, 150, 330).scores().values())


def test_values_beyond_the_range_count_at_its_ends():
    x = torch.tensor([100.0, 160.0, 400.0])
    made = Distribution.of(x, x, 150, 330, bins=18)
    assert made.truth.tolist() == [1, 1, *[0] * 15, 1]
    assert Distribution.of(torch.tensor([330.0]), torch.tensor([150.0]), 150, 330).scores()[
        "quantile_error_0.5"
    ] == pytest.approx(180 - BIN)


def test_quantiles_between_the_humps_and_at_the_ends():
    x = torch.tensor([155.0, 155.0, 325.0, 325.0])  # bins of 10 K
    made = Distribution.of(x, x, 150, 330, bins=18)
    found = made.quantiles([0, 0.25, 0.5, 0.75, 1])[0]
    assert found == pytest.approx([150, 155, 160, 325, 330])


def test_the_probabilities_asked_reach_into_both_tails():
    assert PROBABILITIES[0] == pytest.approx(1e-4)
    assert PROBABILITIES[-1] == pytest.approx(1 - 1e-4)
    assert np.all(np.diff(PROBABILITIES) > 0)
    np.testing.assert_allclose(PROBABILITIES, 1 - PROBABILITIES[::-1])
    assert math.isnan(Distribution().quantiles()[0][3])


def days(*numbers: int, hour: int = 0) -> np.ndarray:
    return np.array([f"2022-08-{n:02d}T{hour:02d}:00" for n in numbers], dtype="datetime64[ns]")


def test_only_the_same_dates_are_compared_whatever_their_order():
    a, b = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[30.0], [10.0], [50.0], [40.0]])
    dates, of_a, of_b = matched_by_date(days(1, 2, 3), a, days(3, 1, 5, 4), b)
    assert dates.tolist() == days(1, 3).astype("datetime64[s]").tolist()
    assert of_a.tolist() == [[1], [3]]
    assert of_b.tolist() == [[10], [30]]


def test_a_date_may_be_a_day():
    a = torch.arange(2.0)
    assert len(matched_by_date(days(1, 2), a, days(1, 2, hour=12), a)[0]) == 0
    assert len(matched_by_date(days(1, 2), a, days(1, 2, hour=12), a, unit="D")[0]) == 2


def test_times_that_do_not_name_the_rows_are_refused():
    a = torch.arange(2.0)
    with pytest.raises(ValueError, match="the second has 2022-08-01T00:00:00 more than once"):
        matched_by_date(days(1, 2), a, days(1, 1), a)
    with pytest.raises(ValueError, match="the first has 3 times for 2 rows"):
        matched_by_date(days(1, 2, 3), a, days(1, 2), a)
