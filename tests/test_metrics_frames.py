"""The errors of whole frames, as published of Moving MNIST: by others' code and by hand."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from pipeline.metrics import ABOUT, FrameErrors


def frames(seed: int = 0, shape=(2, 3, 2, 24, 20)) -> torch.Tensor:
    """(B, T, C, H, W): mostly 0, some bright; as digits are."""
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.random(shape) * (rng.random(shape) < 0.3), dtype=torch.float32)


def answer(seed: int = 1) -> torch.Tensor:
    """Near it, and out of 0..1 in places."""
    noise = np.random.default_rng(seed).normal(0, 0.2, frames().shape)
    return frames() + torch.tensor(noise, dtype=torch.float32)


def test_known_answers():
    truth = torch.full((5, 2, 10, 10), 0.25)
    found = FrameErrors.of(truth + 0.5, truth, 0, 1).scores()
    assert found["mse_sum"] == pytest.approx(2 * 100 * 0.25)  # summed over channels and pixels
    assert found["mae_sum"] == pytest.approx(2 * 100 * 0.5)
    assert found["psnr_clipped"] == pytest.approx(10 * math.log10(1 / 0.25))


def test_errors_are_summed_over_a_frame_and_their_mean_is_over_batch_and_time():
    p, t = answer().double().numpy(), frames().double().numpy()
    found = FrameErrors.of(answer(), frames(), 0, 1).scores()
    assert found["mse_sum"] == pytest.approx(np.mean((p - t) ** 2, axis=(0, 1)).sum(), rel=1e-12)
    assert found["mae_sum"] == pytest.approx(np.mean(abs(p - t), axis=(0, 1)).sum(), rel=1e-12)


def test_psnr_and_ssim_are_of_clipped_values_and_frame_by_frame():
    p, t = (x.double().numpy().reshape(6, 2, 24, 20) for x in (answer().clamp(0, 1), frames()))
    assert abs(answer().numpy().reshape(p.shape) - p).max() > 0.2  # or clipping would do nothing
    found = FrameErrors.of(answer(), frames(), 0, 1).scores()
    psnr = [-10 * math.log10(np.mean((a - b) ** 2)) for a, b in zip(p, t, strict=True)]
    assert found["psnr_clipped"] == pytest.approx(np.mean(psnr), rel=1e-12)
    ssim = [
        structural_similarity(a, b, data_range=2, channel_axis=0) for a, b in zip(p, t, strict=True)
    ]
    assert found["ssim_clipped"] == pytest.approx(np.mean(ssim), rel=1e-9)


def test_a_frame_with_a_hole_does_not_count():
    truth = frames()
    truth[0, 1, 1, 5, 5] = torch.nan
    rest = [x.reshape(6, 2, 24, 20)[[0, 2, 3, 4, 5]] for x in (answer(), frames())]
    assert FrameErrors.of(answer(), truth, 0, 1) == FrameErrors.of(*rest, 0, 1)
    assert FrameErrors.of(answer(), truth, 0, 1).frames == 5


def test_frames_too_small_for_a_window_have_no_ssim():
    small = torch.zeros(1, 1, 6, 30)
    found = FrameErrors.of(small + 0.5, small, 0, 1).scores()
    assert math.isnan(found["ssim_clipped"])
    assert found["mse_sum"] == pytest.approx(45)  # 6 x 30 x 0.25
    assert FrameErrors.of(*[torch.zeros(1, 1, 7, 7)] * 2, 0, 1).scores()["ssim_clipped"] == 1


def test_no_one_takes_them_for_errors_of_a_pixel():
    for name in ("mse_sum", "mae_sum"):
        assert "summed over a frame" in ABOUT[name].long_name
    for name in ("rmse", "mae"):
        assert "sum" not in ABOUT[name].long_name
