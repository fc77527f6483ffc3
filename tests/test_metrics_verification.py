"""Events: against the scores package and scipy, and by hand."""

import math

import numpy as np
import pytest
import scores.categorical
import scores.spatial
import torch
import xarray as xr
from scipy.ndimage import uniform_filter

from pipeline.metrics import Contingency, FractionsSkill, boxes


def rain(seed: int = 0, shape: tuple[int, ...] = (3, 24, 30)) -> torch.Tensor:
    """Mostly little, sometimes much."""
    return torch.tensor(np.random.default_rng(seed).gamma(0.5, 4, shape), dtype=torch.float32)


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("threshold", [0.5, 5.0])
def test_the_table_s_scores_are_those_of_another_package(threshold, below):
    prediction, truth = rain(1) + 0.3 * rain(), rain()
    truth[0, :5] = torch.nan
    events = [
        (xr.DataArray(x.numpy()) < threshold if below else xr.DataArray(x.numpy()) >= threshold)
        for x in (prediction, truth)
    ]
    seen = xr.DataArray(~truth.isnan().numpy())
    other = scores.categorical.BinaryContingencyManager(
        *(event.astype(float).where(seen) for event in events)
    )
    found = Contingency.of(prediction, truth, threshold, below)
    counts = {name: int(value) for name, value in other.get_counts().items()}
    assert (found.hits, found.misses, found.false_alarms, found.correct_negatives) == (
        counts["tp_count"],
        counts["fn_count"],
        counts["fp_count"],
        counts["tn_count"],
    )
    expected = {
        "csi": other.critical_success_index(),
        "pod": other.probability_of_detection(),
        "far": other.false_alarm_ratio(),
        "frequency_bias": other.frequency_bias(),
        "ets": other.equitable_threat_score(),
        "hss": other.heidke_skill_score(),
    }
    assert found.scores() == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-12)


def test_a_value_at_the_threshold_is_an_event_and_not_below_it():
    at = torch.tensor([[220.0]])
    assert Contingency.of(at, at, 220).hits == 1
    assert Contingency.of(at, at, 220, below=True).correct_negatives == 1


def test_counts_are_added_before_anything_is_divided():
    many, few = torch.tensor([[1.0, 1, 1, 1]]), torch.tensor([[1.0, 0, 0, 0]])
    whole = Contingency.of(many, many, 1) + Contingency.of(1 - few, few, 1)
    assert whole.scores()["csi"] == 4 / (4 + 1 + 3)  # the mean of both would be 1 / 2


def test_what_cannot_be_divided_is_nan():
    dry = torch.zeros(4, 4)
    found = Contingency.of(dry, dry, 1).scores()
    assert all(math.isnan(value) for value in found.values())
    missed = Contingency.of(dry, dry + 1, 1).scores()
    assert (missed["pod"], missed["csi"]) == (0, 0)
    assert math.isnan(missed["far"])


@pytest.mark.parametrize("scale", [1, 2, 3, 6, 9, 61])
def test_boxes_are_scipy_s(scale):
    field = rain()
    found = boxes(field, 2.0, scale)
    for image, box in zip(field.numpy(), found.numpy(), strict=True):
        expected = uniform_filter((image >= 2.0).astype(float), scale, mode="constant", cval=0)
        np.testing.assert_allclose(box / scale**2, expected, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 5, 7])
def test_skill_is_that_of_another_package(scale):
    """Dry at the edges, where that package counts a row and a column of boxes more."""
    prediction, truth = (
        torch.nn.functional.pad(x[:, 8:-8, 8:-8], (8, 8, 8, 8))
        for x in (rain(1) + 0.5 * rain(), rain())
    )
    expected = scores.spatial.fss_2d(
        *(xr.DataArray(x.numpy(), dims=["t", "y", "x"]) for x in (prediction, truth)),
        event_threshold=4.0,
        threshold_operator=np.greater_equal,
        window_size=(scale, scale),
        spatial_dims=("y", "x"),
        zero_padding=True,
    )
    found = FractionsSkill.of(prediction, truth, 4.0, scale).scores()["fss"]
    assert found == pytest.approx(float(expected), rel=1e-9)


def test_skill_is_that_of_the_definition():
    """1 - sum (Sf - So)² / (sum Sf² + sum So²) over all fields, S by scipy, even scales too."""
    prediction, truth = rain(1), rain()
    for scale in (1, 2, 5, 8):
        a, b = (
            np.stack(
                [
                    uniform_filter((image < 1.0).astype(float), scale, mode="constant", cval=0)
                    for image in x.numpy()
                ]
            )
            for x in (prediction, truth)
        )
        expected = 1 - np.square(a - b).sum() / (np.square(a).sum() + np.square(b).sum())
        found = FractionsSkill.of(prediction, truth, 1.0, scale, below=True)
        assert found.scores()["fss"] == pytest.approx(expected, rel=1e-12)


def test_a_displacement_within_the_box_is_forgiven_in_part():
    truth = torch.zeros(32, 32)
    truth[10:14, 10:14] = 1
    found = [
        FractionsSkill.of(truth.roll(4, dims=1), truth, 1, n).scores()["fss"] for n in (1, 5, 15)
    ]
    assert found[0] == 0
    assert found[0] < found[1] < found[2] < 1


def test_boxes_of_the_truth_are_shared():
    truth, prediction = rain(), rain(1)
    truth[1, 3:9] = torch.nan
    kept = boxes(truth, 2.0, 5)
    shared = FractionsSkill.of_boxes(boxes(prediction, 2.0, 5, seen=~truth.isnan()), kept, 2.0, 5)
    assert shared == FractionsSkill.of(prediction, truth, 2.0, 5)


def test_no_events_no_skill_and_no_boxes_without_pixels():
    assert math.isnan(FractionsSkill.of(rain(), rain(), 1e6, 3).scores()["fss"])
    with pytest.raises(ValueError, match="scale is 0 pixels; at least 1 is needed"):
        FractionsSkill.of(rain(), rain(), 1, 0)
