"""Scaling: fixed numbers per channel, there and back."""

import json

import pytest
import torch

from pipeline import scaling
from pipeline.errors import UserError
from pipeline.manifest import Statistics
from pipeline.scaling import Scaling

CHANNELS = [
    {"name": "infrared", "valid_min": 150.0, "valid_max": 330.0},
    {"name": "vapour", "valid_min": 0.0, "valid_max": 10.0},
]
STATISTICS = Statistics(
    count=[10, 10], mean=[270.0, 2.0], std=[20.0, 0.5], min=[190.0, 1.0], max=[300.0, 3.0]
)
FLAT = Statistics(count=[9], mean=[270.0], std=[3e-6], min=[270.0], max=[270.0])


def frames(seed: int = 0) -> torch.Tensor:
    x = torch.rand(2, 3, 2, 5, 7, generator=torch.Generator().manual_seed(seed))
    return x * torch.tensor([180.0, 10.0]).view(2, 1, 1) + torch.tensor([150.0, 0]).view(2, 1, 1)


@pytest.mark.parametrize("kind", scaling.KINDS)
def test_restore_undoes_normalise(kind):
    fitted = scaling.fit(kind, CHANNELS, STATISTICS)
    x = frames()
    x[0, 0, 0, 0, 0] = torch.nan
    back = fitted.restore(fitted.normalise(x))
    torch.testing.assert_close(back, x, rtol=0, atol=5e-5, equal_nan=True)
    assert fitted.normalise(x).dtype == torch.float32


def test_range_takes_the_valid_range_to_minus_one_and_one():
    fitted = scaling.fit("range", CHANNELS, STATISTICS)
    ends = torch.tensor([[150.0, 240, 330], [0, 5, 10]]).view(2, 1, 3)
    assert fitted.normalise(ends).view(2, 3).tolist() == [[-1, 0, 1]] * 2
    beyond = torch.full((2, 1, 1), 400.0)
    assert (fitted.normalise(beyond) > 1).all()  # nothing is clipped


def test_standard_takes_mean_and_deviation_to_zero_and_one():
    fitted = scaling.fit("standard", CHANNELS, STATISTICS)
    values = torch.tensor([[270.0, 290], [2, 2.5]]).view(2, 1, 2)
    assert fitted.normalise(values).view(2, 2).tolist() == [[0, 1]] * 2


@pytest.mark.parametrize("kind", scaling.KINDS)
def test_a_missing_pixel_takes_the_training_mean(kind):
    fitted = scaling.fit(kind, CHANNELS, STATISTICS)
    x = fitted.normalise(frames())
    x[..., 0, 0] = torch.nan
    filled = fitted.fill(x)
    assert not filled.isnan().any()
    assert torch.equal(filled[..., 1:, 1:], x[..., 1:, 1:])
    mean = fitted.restore(filled)[..., 0, 0]
    torch.testing.assert_close(mean, torch.tensor([270.0, 2.0]).expand_as(mean))


def test_the_same_kelvin_is_the_same_value_in_every_frame():
    fitted = scaling.fit("range", CHANNELS[:1], FLAT)
    cold, warm = torch.full((1, 4, 4), 200.0), torch.full((1, 4, 4), 300.0)
    cold[0, 0, 0] = warm[0, 0, 0] = 250
    assert fitted.normalise(cold)[0, 0, 0] == fitted.normalise(warm)[0, 0, 0]


@pytest.mark.parametrize("value", [271.3, 0.0])
def test_a_constant_channel_cannot_be_standardised(value):
    """Its deviation, from sums, is a rounding error, not always 0."""
    flat = FLAT.model_copy(update={"mean": [value], "min": [value], "max": [value]})
    said = r"infrared is constant in the training tracks; use scaling.kind: range"
    with pytest.raises(UserError, match=said):
        scaling.fit("standard", CHANNELS[:1], flat)
    assert scaling.fit("range", CHANNELS[:1], flat).scale == (90.0,)


def test_an_unknown_kind():
    with pytest.raises(UserError, match="no scaling 'minmax'; the scalings are range, standard"):
        scaling.fit("minmax", CHANNELS, STATISTICS)


def test_a_scaling_is_plain_data():
    fitted = scaling.fit("standard", CHANNELS, STATISTICS)
    assert Scaling.of(json.loads(json.dumps(fitted.plain()))) == fitted
