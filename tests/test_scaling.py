"""Scaling: fixed numbers per channel, there and back."""

import json
import math
from dataclasses import replace

import pytest
import torch

from models import Geometry
from pipeline import metrics, scaling
from pipeline.errors import UserError
from pipeline.manifest import Statistics
from pipeline.scaling import Scaling

CHANNELS = [
    {"name": "infrared", "units": "K", "valid_min": 150.0, "valid_max": 330.0},
    {"name": "vapour", "units": "g kg-1", "valid_min": 0.0, "valid_max": 10.0},
]
RAIN = [{"name": "tp", "units": "mm", "valid_min": 0.0, "valid_max": 500.0}]
WET = Statistics(count=[9], mean=[0.5], std=[2.0], min=[0.0], max=[40.0])
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
    torch.testing.assert_close(back, x, rtol=1e-6, atol=5e-5, equal_nan=True)
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


@pytest.mark.parametrize(("low", "high"), [(-1e9, 1e9), (0.0, 1e9), (-1e9, 100.0)])
def test_no_range_is_known(low, high):
    """Of a NetCDF variable whose units are none that eddy knows."""
    ozone = {"name": "o3", "units": "DU", "valid_min": low, "valid_max": high}
    own = FLAT.model_copy(update={"min": [210.0]})
    said = (
        rf"^channel o3 \[DU\] has no known valid range, and over {low:g} to {high:g} nothing can "
        "be learnt: leave scaling.kind at auto, or convert with --valid-min and --valid-max$"
    )
    with pytest.raises(UserError, match=said.replace("+", r"\+")):
        scaling.fit("range", [ozone], own)
    for kind in ("auto", "standard", "weather"):
        assert scaling.fit(kind, [ozone], own).kinds == ("standard",)
    known = {**ozone, "valid_min": 100.0, "valid_max": 600.0}
    assert scaling.fit("auto", [known], own).scale == (250.0,)


def test_an_unknown_kind():
    with pytest.raises(UserError, match="no scaling 'minmax'; the scalings are auto, range"):
        scaling.fit("minmax", CHANNELS, STATISTICS)


@pytest.mark.parametrize("channels", [CHANNELS, [CHANNELS[0], *RAIN]])
@pytest.mark.parametrize("kind", ["auto", "standard"])
def test_a_scaling_is_plain_data(kind, channels):
    fitted = scaling.fit(kind, channels, STATISTICS)
    assert Scaling.of(json.loads(json.dumps(fitted.plain()))) == fitted


def test_a_checkpoint_of_before_there_were_kinds_per_channel_still_loads():
    plain = {"kind": "range", "centre": [240.0], "scale": [90.0], "neutral": [0.3]}
    found = Scaling.of(plain)
    assert (found.kinds, found.centre, found.lowest) == (("range",), (240.0,), ())
    assert float(found.restore(torch.full((1, 1, 1), -3.0))) == -30  # and has no bound


def rain(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 1, -1)


def test_rain_is_scaled_by_log1p_and_the_training_maximum():
    fitted = scaling.fit("auto", RAIN, WET)
    assert fitted.kinds == ("log1p",)
    scaled = fitted.normalise(rain(0, 3, 40, 80, torch.nan))[0, 0]
    expected = torch.log1p(torch.tensor([0, 3, 40, 80, torch.nan])) / math.log(41)
    torch.testing.assert_close(scaled, expected, equal_nan=True)
    assert scaled[0] == 0
    assert scaled[3] > 1  # nothing is clipped from above


def test_rain_comes_back_and_is_never_negative():
    for kind in ("auto", "range", "standard"):
        fitted = scaling.fit(kind, RAIN, WET)
        mm = rain(0, 0.001, 0.1, 5, 39.9, 200)
        torch.testing.assert_close(fitted.restore(fitted.normalise(mm)), mm, rtol=1e-5, atol=4e-5)
        below = fitted.normalise(rain(0)) - rain(0.01, 0.3, 7)
        assert fitted.restore(below).tolist() == [[[0, 0, 0]]]
        assert fitted.restore(rain(torch.nan)).isnan().all()


def test_what_cannot_be_rain_is_none_on_the_way_in():
    """Bicubic coarsening undershoots; of less than -1 mm there is no log1p."""
    assert scaling.fit("auto", RAIN, WET).normalise(rain(-0.5, -3)).tolist() == [[[0, 0]]]


def test_each_channel_has_a_kind_of_its_own():
    fitted = scaling.fit("auto", [CHANNELS[0], *RAIN], STATISTICS)
    assert fitted.kinds == ("range", "log1p")
    x = torch.tensor([[150.0, 330], [0, 3]]).view(2, 1, 2)
    torch.testing.assert_close(fitted.normalise(x), torch.tensor([[[-1.0, 1]], [[0, 1]]]))
    torch.testing.assert_close(fitted.restore(fitted.normalise(x)), x)
    down = fitted.restore(torch.full((2, 1, 1), -9.0))
    assert down.flatten().tolist() == [-570.0, 0.0]  # only rain has a bound


def test_a_missing_pixel_of_rain_takes_the_training_mean_in_mm():
    fitted = scaling.fit("auto", RAIN, WET)
    x = rain(torch.nan, 2)
    torch.testing.assert_close(fitted.filled(x), rain(0.5, 2))
    torch.testing.assert_close(fitted.restore(fitted.model_input(x)), rain(0.5, 2))


@pytest.mark.parametrize(
    ("kind", "channels", "unit_range", "means", "floor"),
    [
        ("auto", CHANNELS, True, True, None),
        ("standard", CHANNELS, False, True, None),
        ("auto", RAIN, False, False, 0.0),
        ("range", RAIN, True, True, -1.0),
        ("standard", RAIN, False, True, -0.25),
        ("auto", [CHANNELS[0], *RAIN], False, False, None),
    ],
)
def test_what_a_model_may_know_of_its_values(kind, channels, unit_range, means, floor):
    statistics = STATISTICS if len(channels) == 2 else WET
    bare = Geometry(x=(1, 1, 4, 4), y=(1, 1, 16, 16), block_means=True)
    told = scaling.fit(kind, channels, statistics).geometry(bare)
    assert (told.unit_range, told.block_means, told.floor) == (unit_range, means, floor)
    assert (told.x, told.y) == (bare.x, bare.y)
    unknown = replace(bare, block_means=False)
    assert not scaling.fit(kind, channels, statistics).geometry(unknown).block_means


def test_what_log1p_cannot_scale():
    below = WET.model_copy(update={"min": [-0.1]})
    with pytest.raises(UserError, match=r"tp reaches -0.1 mm .* use scaling.kind: range"):
        scaling.fit("log1p", RAIN, below)
    dry = WET.model_copy(update={"max": [0.0]})
    with pytest.raises(UserError, match="tp is 0 everywhere in the training tracks"):
        scaling.fit("auto", RAIN, dry)


def test_rain_is_scored_over_what_was_seen_in_training_not_over_what_is_valid():
    made = scaling.scored([CHANNELS[0], *RAIN], STATISTICS)
    assert [metrics.span(channel) for channel in made] == [(150, 330), (0, 3)]
    assert "observed_max" not in RAIN[0]
