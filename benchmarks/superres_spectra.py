"""How much of the truth's power do runs have at each scale, and what does it cost?

Of runs that `cli evaluate` has scored, and of the baselines beside them: RMSE, SSIM, the power
over the truth's in three bands of wavenumbers (cycles per frame; radially averaged under a Hann
window), and the optical-flow distance (`-` where no frame follows another):

    python benchmarks/superres_spectra.py RUN [RUN ...] [--on test]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from pipeline import score_files
from pipeline.metrics import Errors, Motion, Spectra
from pipeline.scorecard import Card

# Of frames of 512 pixels coarsened four times; x says nothing directly beyond 64
BANDS = ((64, 96), (96, 160), (160, 256))
BASELINES = ("bicubic", "bicubic_means")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders that are scored")
    parser.add_argument("--on", choices=("eval", "test"), default="eval")
    asked = parser.parse_args()
    of = {run: score_files.read_sums(run, asked.on)[1] for run in asked.runs}
    tracks = list(dict.fromkeys(id for cards in of.values() for id in cards))
    for id in [*tracks, *(["all"] if len(tracks) > 1 else [])]:
        bands = " | ".join(f"{low}-{high}" for low, high in BANDS)
        print(f"\n| {id} | RMSE [K] | SSIM | {bands} | tOF [px] |")
        print("|---" * (4 + len(BANDS)) + "|")
        for row in BASELINES:
            print(told(row, card_of(of[asked.runs[0]], id, row)))
        for run, cards in of.items():
            print(told(run.name, card_of(cards, id, "model")))


def card_of(cards: dict[str, dict[str, Card]], id: str, row: str) -> Card:
    """Of one track, or the sums of all."""
    return sum((cards[each][row] for each in cards if id in (each, "all")), Card())


def told(name: str, card: Card) -> str:
    """One row of the table."""
    errors, spectra = card.part(Errors).scores(), card.part(Spectra)
    tof = card.part(Motion).scores()["tof"]
    values = [f"{errors['rmse']:.3f}", f"{errors['ssim']:.3f}"]
    values += [f"{share(spectra, band):.2f}" for band in BANDS]
    return " | ".join([f"| {name}", *values, "-" if math.isnan(tof) else f"{tof:.3f}"]) + " |"


def share(spectra: Spectra, band: Sequence[int]) -> float:
    """Power of the prediction over the truth's in rings low to high - 1."""
    (size,) = spectra.images  # one frame size
    low, high = band
    return float(spectra.prediction[size][low:high].sum() / spectra.truth[size][low:high].sum())


if __name__ == "__main__":
    main()
