"""What holds for every score: they add, are kept exactly, and know a good prediction from a bad."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline import metrics
from pipeline.metrics import (
    ABOUT,
    ColdClouds,
    Contingency,
    Distribution,
    Ensemble,
    Errors,
    FractionsSkill,
    FrameErrors,
    Motion,
    RadialProfile,
    Rain,
    Spectra,
    Sums,
    Variability,
)

LOW, HIGH = 150.0, 330.0  # kelvin
Of = Callable[[torch.Tensor, torch.Tensor], Sums]


def motion(prediction, truth):
    before, after = (metrics.filled(prediction[:, t], truth[:, t]) for t in (0, 1))
    return Motion.of(
        metrics.flow(before, after, LOW, HIGH),
        metrics.flow(truth[:, 0], truth[:, 1], LOW, HIGH),
    )


# Of windows (n, 3, H, W), three frames each.
KINDS: dict[type[Sums], Of] = {
    Errors: lambda p, t: Errors.of(p, t, HIGH - LOW),
    FrameErrors: lambda p, t: FrameErrors.of(p, t, LOW, HIGH),
    Spectra: Spectra.of,
    ColdClouds: ColdClouds.of,
    Motion: motion,
    Variability: lambda p, t: Variability.of(p.movedim(1, 0), t.movedim(1, 0)),
    Contingency: lambda p, t: Contingency.of(p, t, 235, below=True),
    FractionsSkill: lambda p, t: FractionsSkill.of(p, t, 235, 5, below=True),
    Distribution: lambda p, t: Distribution.of(p, t, LOW, HIGH),
    RadialProfile: RadialProfile.of,
    Rain: lambda p, t: Rain.of(p, t, (220.0, 235.0, 270.0)),
    Ensemble: lambda p, t: Ensemble.of(torch.stack([p, p, p]), t),
}
ALL = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def windows(seed: int = 0, n: int = 4, size: tuple[int, int] = (32, 40)) -> torch.Tensor:
    """(n, 3, H, W) float32: clouds that drift two pixels a frame and change a little, kelvin."""
    rng = np.random.default_rng(seed)
    rough = torch.tensor(rng.normal(250, 30, (n, 1, 9, 10)), dtype=torch.float32)
    field = F.interpolate(rough, (size[0], size[1] + 4), mode="bicubic")[:, 0]
    fine = torch.tensor(rng.normal(0, 1, (n, 3, *size)), dtype=torch.float32)
    return torch.stack([field[..., 2 * t : 2 * t + size[1]] for t in range(3)], dim=1) + fine


def spoilt(truth: torch.Tensor) -> torch.Tensor:
    """Blurred, displaced and 2 K too warm; the displacement differs between the frames."""
    blurred = F.avg_pool2d(truth, 5, stride=1, padding=2, count_include_pad=False) + 2
    return torch.stack([blurred[:, t].roll(2 + t, dims=-1) for t in range(3)], dim=1)


def holes(truth: torch.Tensor) -> torch.Tensor:
    holed = truth.clone()
    holed[1, 0, 4:9, :20] = torch.nan
    holed[2, :, 20:, 30:] = torch.nan
    return holed


def assert_same(a, b, rel=1e-12):
    """Counts exactly, the rest as nearly as sums in another order are."""
    if isinstance(a, dict):
        assert set(a) == set(b)
        for key in a:
            assert_same(a[key], b[key], 1e-6 if key.startswith("ssim") else rel)  # float32 inside
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y, rel)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=rel, abs=1e-9, nan_ok=True)
    else:
        assert a == b


@ALL
def test_a_perfect_prediction_has_perfect_scores(kind):
    found = KINDS[kind](windows(), windows()).scores()
    best = {"lower": 0, "zero": 0, "higher": 1, "one": 1, "none": 0}
    for name, value in found.items():
        if name in ("psnr", "psnr_clipped", "spread_skill_ratio"):  # a division by no error
            assert math.isnan(value)
        else:
            expected = 2 if name == "effective_resolution" else best[ABOUT[name].better]
            assert value == pytest.approx(expected, abs=1e-9), name


@ALL
def test_a_spoilt_prediction_has_worse_scores(kind):
    truth = windows()
    perfect = KINDS[kind](truth, truth).scores()
    for name, value in KINDS[kind](spoilt(truth), truth).scores().items():
        if name in ("spread", "spread_skill_ratio"):  # of members that are all the same
            assert value == 0
            continue
        before = 200.0 if name.startswith("psnr") else perfect[name]
        worse = {
            "lower": value > before,
            "higher": value < before,
            "zero": abs(value) > 1e-3,
            "one": abs(value - 1) > 1e-3,
        }
        assert worse[ABOUT[name].better], name


@ALL
@pytest.mark.parametrize("parts", [[[0], [1, 2, 3]], [[2, 3], [0, 1]], [[3], [1], [0], [2]]])
def test_any_cut_into_parts_adds_up_to_the_whole(kind, parts):
    truth = holes(windows())
    prediction = spoilt(windows())
    added = kind()
    for part in parts:
        added += KINDS[kind](prediction[part], truth[part])
    whole = KINDS[kind](prediction, truth)
    assert_same(added.plain(), whole.plain())
    assert_same(added.scores(), whole.scores())


@ALL
def test_nothing_adds_nothing(kind):
    made = KINDS[kind](spoilt(windows()), windows())
    assert made + kind() == made == kind() + made
    assert made + made != made


@ALL
def test_what_is_kept_as_json_comes_back_exactly(kind):
    made = KINDS[kind](spoilt(windows()), holes(windows()))
    for sums in (made, kind()):
        back = kind.of_plain(json.loads(json.dumps(sums.plain(), allow_nan=False)))
        assert back == sums
        assert back + sums == sums + sums
        assert repr(back.scores()) == repr(sums.scores())
        assert {type(value) for value in sums.scores().values()} == {float}


@ALL
def test_where_all_is_missing_every_score_is_nan(kind):
    nothing = torch.full((2, 3, 32, 40), torch.nan)
    for sums in (kind(), KINDS[kind](windows(n=2), nothing), KINDS[kind](nothing, nothing)):
        assert all(math.isnan(value) for value in sums.scores().values())


@ALL
def test_what_is_predicted_where_truth_is_missing_does_not_matter(kind):
    truth, prediction = holes(windows()), spoilt(windows())
    expected = KINDS[kind](prediction, truth)
    for value in (torch.nan, 100.0, 1e4):
        assert KINDS[kind](torch.where(truth.isnan(), value, prediction), truth) == expected


@pytest.mark.gpu
@ALL
def test_the_gpu_finds_the_same(kind):
    truth, prediction = holes(windows()), spoilt(windows())
    expected = KINDS[kind](prediction, truth).scores()
    assert_same(KINDS[kind](prediction.cuda(), truth.cuda()).scores(), expected, rel=1e-6)


@ALL
def test_a_hole_in_the_prediction_is_loud(kind):
    prediction = windows()
    prediction[0, 0, 5, 5] = torch.nan
    with pytest.raises(ValueError, match="prediction is NaN where truth is not"):
        KINDS[kind](prediction, windows())


@ALL
def test_shapes_must_agree(kind):
    if kind is Motion:
        flows = torch.zeros(2, 32, 39), torch.zeros(2, 32, 40)
        with pytest.raises(ValueError, match=r"prediction is \(2, 32, 39\), truth \(2, 32, 40\)"):
            Motion.of(*flows)
        return
    with pytest.raises(ValueError, match=r"39\), truth .*40\)"):
        KINDS[kind](windows()[..., 1:], windows())


def test_sums_of_different_things_do_not_add():
    truth = windows()
    for a, b, told in [
        (Contingency.of(truth, truth, 220), Contingency.of(truth, truth, 235), "threshold 220"),
        (Contingency.of(truth, truth, 220), Contingency.of(truth, truth, 220, True), "below"),
        (FractionsSkill.of(truth, truth, 220, 3), FractionsSkill.of(truth, truth, 220, 5), "scale"),
        (Distribution.of(truth, truth, 150, 330), Distribution.of(truth, truth, 150, 320), "high"),
        (
            Distribution.of(truth, truth, 150, 330),
            Distribution.of(truth, truth, 150, 330, bins=18),
            "shapes",
        ),
        (RadialProfile.of(truth, truth), RadialProfile.of(truth, truth, width=2), "width"),
        (Ensemble.of(truth, truth[0]), Ensemble.of(truth[:2], truth[0]), "members"),
        (Ensemble.of(truth, truth[0]), Ensemble.of(truth, truth[0], fair=True), "fair"),
    ]:
        with pytest.raises(ValueError, match=f"{told}.* do not add"):
            a + b
    with pytest.raises(TypeError):
        Contingency() + Errors()


def test_sums_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="sums of Motion are distance, pixels; found prediction"):
        Motion.of_plain(Variability().plain())


def test_every_score_is_described():
    made = {kind: KINDS[kind](windows(), windows()) for kind in KINDS}
    names = {name for sums in made.values() for name in sums.scores()}
    assert names | {"csi_220", "fss_220"} == set(ABOUT)
    told = metrics.units("mm", ABOUT, length="m")
    assert (told["crps"], told["effective_resolution"], told["tof"]) == ("mm", "m", "px")
    assert metrics.units("K") == {"rmse": "K", "mae": "K", "bias": "K", "psnr": "dB", "ssim": "1"}
