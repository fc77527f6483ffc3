"""A codebook: every vector becomes the nearest of a few learnt ones.

Van den Oord et al. 2017, "Neural discrete representation learning": codes follow the vectors by
moving averages (their appendix A.1), and gradients pass straight through.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models._ranks import ranks, sum_everywhere

SMOOTHING = 1e-5  # Laplace's, of the counts; as published
REPRIEVE = 2.0  # thresholds a revived code's count starts from: 69 batches at a decay of 0.99
AT_ONCE = 2**16  # vectors whose distances are held at a time: 128 MiB for 512 codes


class Codebook(nn.Module):
    """codes vectors of one width, all of them buffers: no optimizer moves them, learning does.

    As published, codes and sums begin as unrelated random numbers, and the sum of a code that the
    first vectors do not choose is divided by almost nothing: it is flung 100,000 times as far away,
    and in thousands of batches sinks to 0. With revive_below, any code whose count falls to that
    share of the mean count becomes a vector of the batch, the likelier one that is far from its
    code: what is rare and badly told, rain in a dry field, gets codes. So most codes begin, too.
    """

    codes: Tensor  # (codes, width)
    sums: Tensor  # (codes, width), of the vectors that chose each code, a moving average
    counts: Tensor  # (codes), how many did, a moving average per batch

    def __init__(
        self, codes: int, width: int, decay: float = 0.99, revive_below: float = 0.0
    ) -> None:
        super().__init__()
        self.decay, self.revive_below = decay, revive_below
        self.register_buffer("codes", torch.randn(codes, width))
        start = torch.zeros if revive_below else torch.randn
        self.register_buffer("sums", start(codes, width))
        self.register_buffer("counts", torch.zeros(codes))

    def forward(self, z: Tensor, learn: bool) -> tuple[Tensor, Tensor, Tensor]:
        """(N, width, h, w) -> the nearest codes, likewise; how far they are; how many are in use.

        The codes come in z's dtype, with z's gradient; the rest is computed in the codebook's own.
        How far: mean squared difference, of which z has a gradient. How many: the perplexity, from
        1 to all codes, which it is if all are chosen equally often.
        learn: the codes follow these vectors, on all ranks together.
        """
        with torch.autocast(z.device.type, enabled=False):
            channels_last = z.to(self.codes.dtype).movedim(1, -1)
            vectors = channels_last.flatten(0, -2)  # (N h w, width)
            with torch.no_grad():
                choice = self.nearest(vectors)
                chosen = self.codes[choice]
                used = torch.zeros_like(self.counts)
                used.index_add_(0, choice, used.new_ones(len(choice)))
                if learn:
                    sum_everywhere(used)
                    self._follow(vectors, choice, used)
                    if self.revive_below:
                        self._revive(vectors, (vectors - chosen).square().sum(1))
                perplexity = torch.special.entr(used / used.sum()).sum().exp()
            distance = (vectors - chosen).square().mean()
            passed = chosen + (vectors - vectors.detach())  # the value of one, the slope of other
            return passed.view_as(channels_last).movedim(-1, 1).to(z.dtype), distance, perplexity

    def nearest(self, vectors: Tensor) -> Tensor:
        """(M, width) -> (M), the index of each one's nearest code; the first among equals."""
        halves = self.codes.square().sum(1) / 2  # |v - c|² / 2 without what all codes share
        parts = vectors.split(AT_ONCE)
        return torch.cat([(halves - part @ self.codes.T).argmin(1) for part in parts])

    def _follow(self, vectors: Tensor, choice: Tensor, used: Tensor) -> None:
        """Move every code towards the mean of the vectors that chose it; used: how many did."""
        sums = torch.zeros_like(self.sums).index_add_(0, choice, vectors)
        sum_everywhere(sums)
        self.sums.lerp_(sums, 1 - self.decay)
        self.counts.lerp_(used, 1 - self.decay)
        total = self.counts.sum()
        self.counts.add_(SMOOTHING).mul_(total / (total + len(self.counts) * SMOOTHING))
        self.codes.copy_(self.sums / self.counts[:, None])

    def _revive(self, vectors: Tensor, far: Tensor) -> None:
        """Put codes that are hardly used where vectors are; far: (M), how badly each is told."""
        # Weighted, without replacement: the largest log(u) / weight, Efraimidis and Spirakis 2006
        keys = torch.rand_like(far).log() / far.clamp(min=1e-30)
        taken = keys.topk(min(len(self.codes), len(keys))).indices
        drawn = vectors[taken]  # the first of them first
        if ranks() > 1:
            dist.broadcast(drawn, src=0)
        threshold = self.revive_below * self.counts.mean()
        dead = self.counts <= threshold
        drawn = drawn[(dead.cumsum(0) - 1) % len(drawn)]  # (K, width): one for each dead code
        count = REPRIEVE * threshold
        self.codes.copy_(torch.where(dead[:, None], drawn, self.codes))
        self.sums.copy_(torch.where(dead[:, None], drawn * count, self.sums))
        self.counts.copy_(torch.where(dead, count, self.counts))
