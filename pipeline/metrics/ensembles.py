"""Ensembles: are the members close to the truth, and as far apart as they are from it."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.metrics.base import Sums, array, ratio, seen_in, setting


@dataclass(frozen=True, eq=False)
class Ensemble(Sums):
    """CRPS, spread and skill, and how the truth ranks among the members."""

    absolute: float = 0.0  # units: |member - truth|, summed over members and pixels
    pairs: float = 0.0  # units: |member - member|, each pair once
    deviation: float = 0.0  # units squared: of members from their mean
    squared: float = 0.0  # units squared: of the mean from the truth
    pixels: int = 0
    ranks: np.ndarray | None = None  # pixels with 0 ... M members below the truth
    members: int | None = setting()
    fair: bool | None = setting()

    @classmethod
    def of(cls, members: Tensor, truth: Tensor, fair: bool = False, seed: int = 0) -> Ensemble:
        """Of members (M, ..., H, W) and truth (..., H, W), physical units.

        Raises as Errors.of does.

        fair: the CRPS that an ensemble of M expects of one without limit (Ferro 2014,
        doi:10.1002/qj.2270). seed: of the draws that break ties between truth and members in the
        ranks; they depend on it and on the image alone, not on what is scored beside it.
        """
        M = len(members)
        seen = seen_in(members, torch.stack([truth] * M)).all(dim=0)
        y = torch.where(seen, truth.double(), 0.0)
        x = members.to(torch.float64, copy=True).masked_fill_(~seen, 0.0)
        mean = x.mean(dim=0)
        rank = ranks(x, y, seed)[seen]
        # Member by member: whole arrays of differences would cost ten times as long.
        return cls(
            absolute=sum(float((member - y).abs().sum()) for member in x),
            pairs=float(F.pdist(x.flatten(1), p=1).sum()),
            deviation=sum(float((member - mean).square().sum()) for member in x),
            squared=float((mean - y).square().sum()),
            pixels=int(seen.sum()),
            ranks=array(torch.bincount(rank, minlength=M + 1)),
            members=M,
            fair=fair,
        )

    def scores(self) -> dict[str, float]:
        """crps, spread, skill (RMSE of the mean; all three physical units), spread_skill_ratio.

        crps = mean |x - y| - mean |x - x'| / 2 (Gneiting and Raftery 2007,
        doi:10.1198/016214506000001437), of x' other than x where fair. The ratio is 1 for members
        that the truth could be one of, whatever their number (Fortin et al. 2014,
        doi:10.1175/JHM-D-14-0008.1).
        """
        M = self.members or 0
        apart = ratio(self.pairs, self.pixels * M * (M - 1 if self.fair else M))
        spread = math.sqrt(ratio(self.deviation, self.pixels * (M - 1)))
        skill = math.sqrt(ratio(self.squared, self.pixels))
        return {
            "crps": ratio(self.absolute, self.pixels * M) - apart,
            "spread": spread,
            "skill": skill,
            "spread_skill_ratio": ratio(spread * math.sqrt(1 + ratio(1, M)), skill),
        }


def ranks(members: Tensor, truth: Tensor, seed: int) -> Tensor:
    """(..., H, W) int64: members below the truth, and of those equal to it a random number."""
    below = torch.zeros(truth.shape, dtype=torch.int64, device=truth.device)
    equal = torch.zeros_like(below)
    for member in members:
        below += member < truth
        equal += member == truth
    for image, ties, rank in zip(
        *(x.reshape(-1, *truth.shape[-2:]) for x in (truth, equal, below)), strict=True
    ):
        if ties.any():
            random = np.random.default_rng((seed, zlib.crc32(array(image).tobytes())))
            drawn = torch.from_numpy(random.random(ties.shape)).to(ties.device)
            rank += (drawn * (ties + 1)).long()
    return below
