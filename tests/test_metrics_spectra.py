"""Spectra: against a slow loop, and of what is known."""

import math

import numpy as np
import pytest
import torch

from pipeline.metrics import Spectra, power


def noise(seed: int = 0, shape: tuple[int, ...] = (3, 32, 32)) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(260, 20, shape), dtype=torch.float32)


def slowly(image: np.ndarray) -> np.ndarray:
    """Ring by ring, in the words of the definition."""
    n = len(image)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    image = (image - image.mean()) * np.outer(hann, hann)
    full = np.abs(np.fft.fftshift(np.fft.fft2(image))) ** 2 / image.size
    middle = n // 2
    rings: list[list[float]] = [[] for _ in range((n + 1) // 2)]
    for row in range(n):
        for column in range(n):
            ring = round(math.hypot(row - middle, column - middle))
            if ring < len(rings):
                rings[ring].append(full[row, column])
    return np.array([np.mean(ring) for ring in rings])


@pytest.mark.parametrize("n", [16, 17, 32])
def test_power_is_that_of_a_slow_loop(n):
    images = noise(shape=(2, n, n))
    expected = np.stack([slowly(image) for image in images.double().numpy()])
    np.testing.assert_allclose(power(images).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("size", [(64, 64), (48, 64), (64, 40)])
@pytest.mark.parametrize("along", [0, 1])
def test_a_wave_has_its_power_at_its_wavelength(size, along):
    """Of 8 pixels, whichever way it runs, in frames that are not square too."""
    place = torch.arange(size[along], dtype=torch.float64)
    wave = torch.sin(2 * torch.pi * place / 8).unsqueeze(1 - along).expand(size)
    wavelength, truth, _ = Spectra.of(wave[None], wave[None]).curve(pixel=5.0)
    assert wavelength[truth.argmax()] == pytest.approx(40.0)
    assert np.all(np.diff(wavelength) < 0)
    assert truth[wavelength < 20].max() < 1e-3 * truth.max()


@pytest.mark.parametrize("gain", [0.5, 0.9, 2.0])
def test_the_distance_of_a_weaker_signal_is_its_loss_in_decibel(gain):
    truth = noise()
    mean = truth.double().mean(dim=(-2, -1), keepdim=True)
    found = Spectra.of(mean + gain * (truth - mean), truth).scores(pixel=5.0)
    assert found["log_spectral_distance"] == pytest.approx(abs(20 * math.log10(gain)), rel=1e-6)
    lost = gain**2 < 0.5
    assert found["effective_resolution"] == (32 * 5.0 if lost else 10.0)


def test_resolution_is_that_of_the_first_ring_without_half_of_the_power():
    truth = torch.ones(1, 16, dtype=torch.float64)
    prediction = truth.clone()
    prediction[0, 8:] = 0.49
    prediction[0, 5] = 0.51
    sums = Spectra.of_power(prediction, truth, (32, 32))
    assert sums.effective_resolution(5.0) == 32 / 8 * 5.0
    expected = 10 * np.log10(prediction[0, 1:].numpy())
    assert sums.scores()["log_spectral_distance"] == pytest.approx(np.sqrt((expected**2).mean()))


def test_the_mean_spectra_are_compared_not_the_images_spectra():
    truth = torch.tensor([[1.0, 1.0, 4.0], [1.0, 3.0, 4.0]])
    prediction = torch.tensor([[1.0, 3.0, 4.0], [1.0, 1.0, 4.0]])
    assert Spectra.of_power(prediction, truth, (6, 6)).scores()["log_spectral_distance"] == 0


def test_images_with_a_missing_pixel_are_left_out():
    truth, prediction = noise(), noise(1)
    truth[1, 3, 3] = torch.nan
    sums = Spectra.of(prediction, truth)
    assert sums.images == {"32x32": 2}
    assert sums == Spectra.of(prediction[[0, 2]], truth[[0, 2]])


def test_power_of_the_truth_is_shared():
    truth = noise()
    kept = power(truth)
    shared = Spectra.of_power(power(noise(1)), kept, (32, 32))
    assert shared == Spectra.of(noise(1), truth)


def test_frames_of_several_sizes_weigh_by_their_images():
    small, large = noise(shape=(3, 16, 16)), noise(shape=(1, 32, 32))
    tenth = [(x - x.mean((1, 2), keepdim=True)) * 10**-0.5 for x in (small, large)]  # 10 dB less
    sums = Spectra.of(tenth[0], small) + Spectra.of(large, large)
    found = sums.scores()
    assert found["log_spectral_distance"] == pytest.approx(math.sqrt(3 / 4 * 100), rel=1e-5)
    assert found["effective_resolution"] == pytest.approx((3 * 16 + 1 * 2) / 4)
    assert len(sums.curve()[0]) == 7  # of the size of most images; ring 0 has no wavelength
    wavelength, truth, prediction = sums.curve((32, 32), pixel=2.0)
    assert wavelength[0] == 64.0
    np.testing.assert_array_equal(truth, prediction)


def test_a_prediction_without_detail_is_infinitely_far_and_two_empty_frames_are_not_comparable():
    flat = torch.full((1, 16, 16), 270.0)
    assert Spectra.of(flat, noise(shape=(1, 16, 16))).scores()["log_spectral_distance"] == math.inf
    assert all(math.isnan(value) for value in Spectra.of(flat, flat).scores().values())
    assert [len(each) for each in Spectra().curve()] == [0, 0, 0]
