"""Several models out of one training: its checkpoints, and of each the averaged and raw weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import checkpoint, tiling
from pipeline.answers import MODEL, Answers, Posed
from pipeline.checkpoint import Checkpoint
from pipeline.errors import UserError


@dataclass(frozen=True)
class Member:
    """One set of weights."""

    name: str  # best, last, epoch-0010; "best raw" for weights that are not averaged
    trained: Checkpoint
    digest: str  # of the weights


def members(run: Path, which: str, count: int) -> list[Member]:
    """That many different sets of weights: `which` first, then best, last and the newest epochs.

    Averaged weights come before raw ones. Raises UserError where the run holds fewer.
    """
    found: dict[str, Member] = {}
    for member in every(run, which):
        found.setdefault(member.digest, member)
        if len(found) == count:
            return list(found.values())
    names = ", ".join(member.name for member in found.values())
    way = f"ask for --ensemble {len(found)}, or " if len(found) > 1 else ""
    raise UserError(
        f"{run}: an ensemble of {count} needs that many different weights, and the run holds "
        f"{len(found)} ({names}); {way}train with --set training.checkpoint_every_epochs=1, which "
        "keeps every epoch's"
    )


def every(run: Path, which: str) -> Iterator[Member]:
    """All weights of a run; those of one step may come twice."""
    epochs = sorted((path.stem for path in run.glob("checkpoints/epoch-*.ckpt")), reverse=True)
    names = list(dict.fromkeys([which, "best", "last", *epochs]))
    there = [n for n in names if n == which or (run / "checkpoints" / f"{n}.ckpt").is_file()]
    for raw in (False, True):
        for name in there:
            trained = checkpoint.load(checkpoint.in_run(run, name))
            if raw and trained.averaged is None:
                continue
            weights = trained.weights if raw else trained.averaged or trained.weights
            # without the optimizers: twice the weights' memory
            lean = replace(trained, weights=weights, averaged=None, training={})
            yield Member(f"{name} raw" if raw else name, lean, digest(weights))


def digest(weights: dict[str, Any]) -> str:
    made = hashlib.sha256()
    for name, values in sorted(weights.items()):
        made.update(name.encode())
        made.update(values.cpu().contiguous().numpy().tobytes())
    return made.hexdigest()


@dataclass(frozen=True)
class Spread:
    """What an ensemble says; each (1, T, C, H, W), physical units."""

    mean: Tensor
    deviation: Tensor  # standard deviation of the members, of count - 1
    members: Tensor | None  # (M, 1, T, C, H, W)


class Crew:
    """The members, asked one after the other."""

    def __init__(
        self,
        first: Answers,
        others: Sequence[Member],
        device: str,
        tile: int = tiling.TILE,
        steps: int | None = None,
    ) -> None:
        """first: the answers of the first member, which is asked by others too."""
        self.answers = [first, *(Answers(other.trained, device, tile, steps) for other in others)]

    @torch.inference_mode()
    def of(self, posed: Posed, first: Tensor, *, keep: bool) -> Spread:
        """first: the first member's answer. keep: the members, too; else one is in memory."""
        mean, squares, members = first.clone(), torch.zeros_like(first), [first]
        for count, answers in enumerate(self.answers[1:], 2):
            answer = answers.of(MODEL, posed)
            # Welford 1962, doi:10.1080/00401706.1962.10490022
            before = answer - mean
            mean += before / count
            squares += before * (answer - mean)
            if keep:
                members.append(answer)
        deviation = (squares / (len(self.answers) - 1)).clamp(min=0).sqrt()
        return Spread(mean, deviation, torch.stack(members) if keep else None)
