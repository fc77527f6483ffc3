"""Scores of rain: events by intensity, the wet area, extremes, and what stands in scores.json."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import metrics
from pipeline.metrics import Contingency, Distribution, FractionsSkill, Rain
from pipeline.scorecard import BINS, DRIEST, WETTEST, Card, Judge, Yardstick

LIMITS = (0.1, 1.0, 5.0)
HOURLY = Yardstick(0.0, 40.0, "mm", pixel=0.25, pixel_units="deg", hours=1.0)
CHANNEL = {"name": "tp", "units": "mm", "valid_min": 0.0, "valid_max": 500.0, "observed_max": 40.0}


def rain(seed: int = 0, n: int = 4, size: int = 24) -> torch.Tensor:
    """(n, 1, size, size) mm: half of it dry, the rest long-tailed."""
    some = torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(seed))
    return (some * 1.5).exp() * (some > 0)


def judged(answers: torch.Tensor, truth: torch.Tensor, yardstick: Yardstick = HOURLY) -> Card:
    judge = Judge(yardstick, ["model"])
    for number, (answer, true) in enumerate(zip(answers, truth, strict=True)):
        judge.frame({"model": answer}, true, follows=number > 0)
    return judge.cards[0]["model"]


def test_the_events_are_those_of_the_general_scores():
    prediction, truth = rain(1), rain(0)
    truth[0, 0, :3] = torch.nan
    found = Rain.of(prediction, truth, LIMITS).scores()
    for name, limit in zip(("light", "moderate", "heavy"), LIMITS, strict=True):
        csi = Contingency.of(prediction, truth, limit).scores()["csi"]
        fss = FractionsSkill.of(prediction, truth, limit, 5).scores()["fss"]
        assert found[f"csi_{name}"] == csi
        assert found[f"fss_{name}"] == fss
        assert 0 < csi < fss < 1


def test_wet_area_is_counted_image_by_image_in_per_cent():
    truth = torch.zeros(2, 10, 10)
    truth[0, :2] = 1.0  # 20 %
    prediction = torch.zeros(2, 10, 10)
    prediction[0, :5] = 0.1  # 50 %: 0.1 mm is wet
    prediction[1, 5:] = 0.09  # and less is dry
    found = Rain.of(prediction, truth, LIMITS).scores()
    assert found["wet_area_error"] == pytest.approx(15)
    assert found["wet_area_bias"] == pytest.approx(15)
    truth[1, :] = 0.2
    found = Rain.of(prediction, truth, LIMITS).scores()
    assert found["wet_area_error"] == pytest.approx((30 + 100) / 2)
    assert found["wet_area_bias"] == pytest.approx((30 - 100) / 2)


def test_no_heavy_rain_anywhere_is_undefined_not_zero():
    light = torch.full((1, 8, 8), 0.3)
    found = Rain.of(light, light, LIMITS).scores()
    assert found["csi_light"] == 1
    assert math.isnan(found["csi_heavy"])
    assert math.isnan(found["fss_heavy"])


def test_sums_of_other_thresholds_do_not_add():
    a, b = rain(0), rain(1)
    with pytest.raises(ValueError, match=r"Rains of (light|moderate|heavy) \S+ and \S+ do not add"):
        Rain.of(a, b, LIMITS) + Rain.of(a, b, (0.2, 2.0, 10.0))


@pytest.mark.parametrize(
    ("hours", "light"),
    [
        (1, 0.1),
        (0.17, 0.1),
        (2, 0.1),
        (3, 0.2),
        (6, 0.2),
        (8, 0.2),
        (9, 0.5),
        (12, 0.5),
        (24, 1),
        (744, 10),
    ],
)
def test_thresholds_are_those_of_the_accumulation(hours, light):
    limits = metrics.thresholds(hours)
    assert limits[0] == light
    assert list(limits) == sorted(limits)
    assert Yardstick(0, 1, "mm", 1, "deg", hours).thresholds["light"] == light


def test_the_longer_it_rains_the_more_is_heavy_rain():
    limits = np.array([metrics.thresholds(hours) for hours in (1, 6, 12, 24, 720)])
    assert (np.diff(limits, axis=0) > 0).all()


def test_quantiles_of_rain_are_exact_to_a_bin_from_drizzle_to_cloudburst():
    rng = np.random.default_rng(0)
    truth = torch.tensor(rng.gamma(0.15, 4.0, (50, 60, 60)))
    truth[truth < 0.01] = 0
    made = Distribution.of(truth, truth, 0.0, WETTEST, BINS, first=DRIEST)
    asked = (0.3, 0.6, 0.9, 0.95, 0.99, 0.999)
    expected = np.quantile(truth.numpy(), asked, method="inverted_cdf")
    np.testing.assert_allclose(made.quantiles(asked)[0], expected, rtol=0.03, atol=DRIEST)
    wide = Distribution.of(truth, truth, 0.0, WETTEST, BINS).quantiles(asked)[0]
    assert abs(wide[2] - expected[2]) > 0.3  # bins of one width would not do


def test_rain_beyond_the_histogram_counts_at_its_ends():
    x = torch.tensor([0.0, 1e-9, 2e4])
    made = Distribution.of(x, x, 0.0, WETTEST, BINS, first=DRIEST)
    assert made.truth[[0, -1]].tolist() == [2, 1]
    edges = made.edges()
    assert (edges[0], edges[1], edges[-1]) == pytest.approx((0, DRIEST, WETTEST))
    again = Distribution.of_plain(json.loads(json.dumps(made.plain())))
    assert again == made


PERFECT = {
    "rmse": 0, "mae": 0, "bias": 0, "ssim": 1, "log_spectral_distance": 0,
    "effective_resolution": 0.5, "temporal_std_ratio": 1, "wet_area_error": 0, "wet_area_bias": 0,
    "csi_light": 1, "csi_moderate": 1, "csi_heavy": 1, "fss_light": 1, "fss_moderate": 1,
    "fss_heavy": 1, "quantile_error_0.95": 0, "quantile_error_0.99": 0, "quantile_error_0.999": 0,
}  # fmt: skip


def test_a_perfect_prediction_of_rain_scores_perfectly():
    scores = judged(rain(), rain()).scores(HOURLY)
    assert math.isnan(scores.pop("psnr"))
    assert scores == pytest.approx(PERFECT)


def test_blur_hides_extremes_and_drizzles_everywhere():
    truth = rain(n=6, size=32)
    blurred = torch.nn.functional.avg_pool2d(truth, 5, 1, 2, False, False)
    scores = judged(blurred, truth).scores(HOURLY)
    assert scores["quantile_error_0.999"] < -1
    assert scores["wet_area_bias"] > 10
    assert scores["log_spectral_distance"] > 3
    assert scores["temporal_std_ratio"] < 0.8


def test_motion_profiles_and_cold_cloud_are_not_for_rain_on_a_map():
    card = judged(rain(), rain(1))
    assert not {"Motion", "RadialProfile", "ColdClouds"} & card.parts.keys()
    assert not [name for name in card.scores(HOURLY) if name not in metrics.ABOUT]


def test_extremes_survive_in_the_sums_that_are_kept():
    one, other = judged(rain(0), rain(1)), judged(rain(2), rain(3))
    kept = [Card.of_plain(json.loads(json.dumps(c.without_curves().plain()))) for c in (one, other)]
    whole = (kept[0] + kept[1]).scores(HOURLY)
    assert whole == pytest.approx((one + other).scores(HOURLY))
    assert not math.isnan(whole["quantile_error_0.99"])


def test_missing_pixels_do_not_count_in_any_score_of_rain():
    holed = rain()
    holed[1, :, 4:8, 4:8] = torch.nan
    wild = rain()
    wild[1, :, 4:8, 4:8] = 30.0
    expected = judged(rain(), holed).scores(HOURLY)
    assert judged(wild, holed).scores(HOURLY) == pytest.approx(expected, nan_ok=True)


def test_the_yardstick_of_rain_says_its_range_pixel_and_hours():
    made = Yardstick.of([CHANNEL], {"grid_degrees": 0.25, "accumulation_hours": 1})
    assert made == HOURLY
    assert made.peak == 40.0  # what was seen in training, not the 500 mm that are valid
    assert Yardstick.of([CHANNEL], {"grid_degrees": 1.0}, pixels=0.01).pixel == 0.01
    assert Yardstick.of([{**CHANNEL, "units": "K"}], {"accumulation_hours": 6}).hours is None
    assert metrics.units("mm", ["rmse", "effective_resolution", "wet_area_error"], "deg") == {
        "rmse": "mm",
        "effective_resolution": "deg",
        "wet_area_error": "%",
    }


def test_rain_of_unknown_hours_is_of_one_step_of_the_tracks():
    task = SimpleNamespace(side=lambda: 2.0)
    trained = SimpleNamespace(data=SimpleNamespace(attrs={}), targets=[CHANNEL], task=task)
    tracks = [SimpleNamespace(times=np.arange(n) * 12 * 3600) for n in (1, 5)]
    made = Yardstick.of_trained(trained, {"grid_degrees": 0.25}, tracks)
    assert (made.hours, made.pixel) == (12.0, 0.5)
    assert made.thresholds == {"light": 0.5, "moderate": 5.0, "heavy": 15.0}
    stated = Yardstick.of_trained(trained, {"accumulation_hours": 1.0}, tracks)
    assert stated.hours == 1.0
    trained.data.attrs["accumulation_hours"] = 24.0  # of the training's store, where this is silent
    assert Yardstick.of_trained(trained, {}, tracks).hours == 24.0
