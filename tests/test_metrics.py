"""Scores have known answers, agree with others' code, and add up."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from scores import continuous
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import (
    peak_signal_noise_ratio as peak_signal_noise_ratio_of_torch,
)
from torchmetrics.functional.image import structural_similarity_index_measure

from pipeline.metrics import Errors

PEAK = 180.0  # kelvin


def images(seed: int = 0, shape=(4, 40, 52)) -> torch.Tensor:
    """Smooth fields around 270 K, as clouds are."""
    rng = np.random.default_rng(seed)
    rough = torch.tensor(rng.normal(270, 25, (*shape[:-2], 9, 12))).flatten(0, -3)[:, None]
    fine = torch.nn.functional.interpolate(rough, shape[-2:], mode="bicubic")
    return fine.reshape(shape).float()


def noisy(truth: torch.Tensor, seed: int = 1, kelvin: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return truth + kelvin * torch.randn(truth.shape, generator=generator)


def scores(prediction, truth):
    return Errors.of(prediction, truth, PEAK).scores()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_constant_error_of_2_kelvin(sign):
    truth = images().round()
    found = scores(truth + 2 * sign, truth)
    assert found["rmse"] == pytest.approx(2)
    assert found["mae"] == pytest.approx(2)
    assert found["bias"] == pytest.approx(2 * sign)
    assert found["psnr"] == pytest.approx(20 * math.log10(PEAK / 2))


def test_a_perfect_prediction():
    found = scores(images(), images())
    assert (found["rmse"], found["mae"], found["bias"]) == (0, 0, 0)
    assert found["ssim"] == pytest.approx(1, abs=1e-12)
    assert math.isnan(found["psnr"])  # infinite, and so left out ...
    truth = images()
    half = truth.clone()
    half[:2] += 2
    assert scores(half, truth)["psnr"] == pytest.approx(20 * math.log10(PEAK / 2))  # ... here too


def test_nothing_scored_is_nan_not_0():
    nothing = torch.full((2, 16, 16), torch.nan)
    for found in (Errors().scores(), scores(images(shape=(2, 16, 16)), nothing)):
        assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("cuts", [[1, 2], [2], [1, 1, 3]])
def test_chunks_add_up_to_the_whole(cuts):
    truth = images()
    truth[1, :20, :9] = torch.nan
    prediction = noisy(truth.nan_to_num(250))
    whole = Errors.of(prediction, truth, PEAK)
    edges = [0, *np.clip(np.cumsum(cuts), 0, 4), 4]
    parts = Errors()
    for a, b in pairwise(edges):
        parts = parts + Errors.of(prediction[a:b], truth[a:b], PEAK)
    assert parts.pixels == whole.pixels
    assert parts.scores() == pytest.approx(whole.scores(), rel=1e-6)


def test_leading_dimensions_do_not_matter():
    truth, prediction = images(), noisy(images())
    folded = [x.view(2, 2, 1, 40, 52) for x in (prediction, truth)]
    assert scores(*folded) == pytest.approx(scores(prediction, truth), rel=1e-12)


def test_missing_truth_does_not_count():
    truth = images()
    prediction = noisy(truth)
    truth[..., 30:, :] = torch.nan
    wild = prediction.clone()
    wild[..., 30:, :] = 1e9
    blank = prediction.clone()
    blank[..., 30:, :] = torch.nan
    found = scores(prediction, truth)
    assert scores(wild, truth) == found == scores(blank, truth)
    seen = [x[..., :30, :] for x in (prediction, truth)]
    assert found == pytest.approx(scores(*seen), rel=1e-6)  # windows that reach a hole are left out


def test_a_hole_in_the_prediction_is_loud():
    prediction = images()
    prediction[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="prediction is NaN where truth is not"):
        scores(prediction, images())


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"prediction is \(4, 40, 51\), truth \(4, 40, 52\)"):
        scores(images()[..., 1:], images())


@pytest.mark.parametrize("kelvin", [0.1, 3.0, 30.0])
def test_ssim_is_scikit_image_s(kelvin):
    truth = images()
    prediction = noisy(truth, kelvin=kelvin)
    expected = np.mean(
        [
            structural_similarity(
                a.double().numpy(),
                b.double().numpy(),
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=PEAK,
            )
            for a, b in zip(prediction, truth, strict=True)
        ]
    )
    assert scores(prediction, truth)["ssim"] == pytest.approx(expected, abs=1e-6)


def test_ssim_is_torchmetrics():
    truth, prediction = images(), noisy(images(), kelvin=10)
    _, each = structural_similarity_index_measure(
        prediction[:, None].double(),
        truth[:, None].double(),
        data_range=PEAK,
        return_full_image=True,
    )
    expected = float(each[..., 5:-5, 5:-5].mean())  # it mirrors the border, where we have no window
    assert scores(prediction, truth)["ssim"] == pytest.approx(expected, abs=1e-4)


def test_psnr_is_the_mean_over_images():
    truth, prediction = images(), noisy(images())
    prediction[0] += 20
    expected = np.mean(
        [
            peak_signal_noise_ratio(b.double().numpy(), a.double().numpy(), data_range=PEAK)
            for a, b in zip(prediction, truth, strict=True)
        ]
    )
    assert scores(prediction, truth)["psnr"] == pytest.approx(expected, rel=1e-9)


def test_psnr_is_torchmetrics():
    truth, prediction = images(), noisy(images())
    expected = peak_signal_noise_ratio_of_torch(
        prediction.double(), truth.double(), data_range=PEAK, dim=(-2, -1)
    )
    assert scores(prediction, truth)["psnr"] == pytest.approx(
        float(expected), rel=1e-7
    )  # its range is float32


def test_errors_are_those_of_another_package():
    truth = images()
    truth[1, :20, :9] = torch.nan
    prediction = noisy(images())
    a, b = (xr.DataArray(x.double().numpy()) for x in (prediction, truth))
    found = scores(prediction, truth)
    assert found["rmse"] == pytest.approx(float(continuous.rmse(a, b)), rel=1e-12)
    assert found["mae"] == pytest.approx(float(continuous.mae(a, b)), rel=1e-12)
    assert found["bias"] == pytest.approx(float(continuous.additive_bias(a, b)), rel=1e-12)


def test_images_too_small_for_a_window_have_no_ssim():
    small = images(shape=(2, 10, 30))
    assert math.isnan(scores(small + 1, small)["ssim"])
    assert scores(small + 1, small)["rmse"] == pytest.approx(1)
    assert not math.isnan(scores(*[images(shape=(2, 11, 11))] * 2)["ssim"])


@pytest.mark.gpu
def test_the_gpu_gives_the_same_scores():
    """Convolutions on a GPU round to 10 bits by default, which SSIM's variances do not bear."""
    truth, prediction = images(), noisy(images())
    expected = scores(prediction, truth)
    assert scores(prediction.cuda(), truth.cuda()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("damage", ["3", [1, "2"], [[1, 2], [3]], {"a": "x"}, [None], [{"a": 1}]])
def test_sums_of_anything_but_numbers_are_refused(damage: object) -> None:
    kept = Errors().plain()
    assert Errors.of_plain(kept) == Errors()
    with pytest.raises(ValueError, match=r"."):
        Errors.of_plain({**kept, next(iter(kept)): damage})
