"""Radially averaged power spectra: what scales a prediction has lost or made up."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.metrics.base import Sums, array, per_index, ratio, seen_in

RESOLVED = 0.5  # of the truth's power: below it a wavelength counts as lost


@dataclass(frozen=True, eq=False)
class Spectra(Sums):
    """Mean spectra of the images of each frame size (`"HxW"`), of prediction and truth.

    Images with any pixel missing in the truth are left out.
    """

    prediction: dict[str, np.ndarray] = field(default_factory=dict)  # units squared, per ring
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, prediction: Tensor, truth: Tensor) -> Spectra:
        """Both (..., H, W), physical units; each (H, W) is one image. Raises as Errors.of does."""
        seen_in(prediction, truth)
        H, W = truth.shape[-2:]
        return cls.of_power(power(prediction), power(truth), (H, W))

    @classmethod
    def of_power(cls, prediction: Tensor, truth: Tensor, size: tuple[int, int]) -> Spectra:
        """What `power` gave of either's images of this size (H, W): the truth's may be shared.

        Raises ValueError for a prediction with a missing pixel where the truth has none.
        """
        whole = seen_in(prediction, truth).all(dim=1)
        images, key = int(whole.sum()), f"{size[0]}x{size[1]}"
        if not images:
            return cls()
        return cls(
            prediction={key: array(prediction[whole].sum(dim=0))},
            truth={key: array(truth[whole].sum(dim=0))},
            images={key: images},
        )

    def scores(self, pixel: float = 1.0) -> dict[str, float]:
        """log_spectral_distance (dB) and effective_resolution (units of `pixel`).

        The distance is the RMS over the rings of 10 log10 of the ratio of the mean spectra, ring 0
        left out; a prediction that lacks a wavelength altogether is infinitely far. Of several
        frame sizes, each weighs as many as its images.
        """
        squares = {}
        for size in self.images:
            with np.errstate(divide="ignore"):  # of no power
                decibel = 10 * np.log10(self.ratios(size))
            squares[size] = mean(np.square(decibel[~np.isnan(decibel)]))
        return {
            "log_spectral_distance": math.sqrt(self.over_sizes(squares)),
            "effective_resolution": self.effective_resolution(pixel),
        }

    def effective_resolution(self, pixel: float = 1.0) -> float:
        """The longest wavelength with less than half of the truth's power, in units of `pixel`.

        Two pixels, the shortest that there is, where all have more.
        """
        found = {}
        for size in self.images:
            ratios = self.ratios(size)
            lost = np.flatnonzero(ratios < RESOLVED)
            resolved = longest(size) / (int(lost[0]) + 1) if len(lost) else 2.0
            found[size] = math.nan if np.isnan(ratios).all() else resolved * pixel
        return self.over_sizes(found)

    def over_sizes(self, values: dict[str, float]) -> float:
        """Their mean, each size weighing as many as its images; one without a value, nothing."""
        known = {size: value for size, value in values.items() if not math.isnan(value)}
        total = sum(self.images[size] * value for size, value in known.items())
        return ratio(total, sum(self.images[size] for size in known))

    def ratios(self, size: str) -> np.ndarray:
        """Prediction / truth of rings 1, 2, ...; NaN where neither has any power."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.prediction[size][1:] / self.truth[size][1:]

    def curve(
        self, size: tuple[int, int] | None = None, pixel: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Wavelength (units of `pixel`, falling), truth's and prediction's power (units squared).

        size: (H, W) of the frames; without it, that of the most images. Empty where nothing counts.
        """
        if not self.images:
            return np.empty(0), np.empty(0), np.empty(0)
        key = f"{size[0]}x{size[1]}" if size else max(self.images, key=lambda k: self.images[k])
        truth, prediction = (sums[key][1:] for sums in (self.truth, self.prediction))
        wavelength = longest(key) * pixel / np.arange(1, len(truth) + 1)
        return wavelength, truth / self.images[key], prediction / self.images[key]


def mean(values: np.ndarray) -> float:
    return ratio(float(values.sum()), len(values))


def longest(size: str) -> int:
    """Pixels: ring k has this wavelength / k."""
    return max(map(int, size.split("x")))


def power(images: Tensor) -> Tensor:
    """(..., H, W), each (H, W) one image -> (n, rings) float64: the mean power of each ring.

    The mean is taken off and a Hann window laid over, as no image is periodic; then |FFT|² / N,
    averaged over rings of a whole wave number, 0 to half of the longer side. NaN for an image with
    a missing pixel. As rapsd of pysteps (Pulkkinen et al. 2019, doi:10.5194/gmd-12-4185-2019) for
    square images; for others a ring is a circle of one wavelength here, not of one index.
    """
    H, W = images.shape[-2:]
    window, ring, weight, pixels = rings(H, W, images.device)
    images = images.reshape(-1, H, W).double()
    spectrum = torch.fft.rfft2((images - images.mean(dim=(1, 2), keepdim=True)) * window)
    square = (spectrum.real.square() + spectrum.imag.square()) * weight
    each = [per_index(image, ring, len(pixels) + 1) for image in square]
    sums = torch.stack(each) if each else square.new_zeros(0, len(pixels) + 1)
    return sums[:, :-1] / (pixels * (H * W))


@functools.lru_cache(maxsize=8)
def rings(H: int, W: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The window (H, W); ring and weight of each of rfft2's (H, W // 2 + 1); pixels per ring.

    The weight is 2 where rfft2 leaves out the mirrored half, else 1; the last ring + 1 is the
    corners, which are of no ring.
    """
    long = max(H, W)
    count = (long + 1) // 2
    y = torch.fft.fftfreq(H, d=1 / long, dtype=torch.float64, device=device)
    x = torch.fft.rfftfreq(W, d=1 / long, dtype=torch.float64, device=device)
    ring = torch.hypot(y[:, None], x).round().long().clamp(max=count)
    weight = torch.full((H, W // 2 + 1), 2.0, dtype=torch.float64, device=device)
    weight[:, 0] = 1
    if W % 2 == 0:
        weight[:, -1] = 1
    hann = [torch.hann_window(n, dtype=torch.float64, device=device) for n in (H, W)]
    pixels = per_index(weight, ring, count + 1)[:-1]
    return hann[0][:, None] * hann[1], ring, weight, pixels
