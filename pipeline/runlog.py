"""What a run writes while it trains: metrics.jsonl, TensorBoard, and what it ran on."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pipeline import atomic, software
from pipeline.errors import UserError


class Log:
    """Mean losses between two flushes; fetched from the device only when written."""

    def __init__(self, run: Path, file: Any, board: SummaryWriter) -> None:
        self.run, self.file, self.board = run, file, board
        self.clear()

    def clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.steps, self.since = 0, time.monotonic()

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Count in one step's losses; no waiting for the device."""
        for name, value in parts.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1
        self.steps += 1

    def flush(self, step: int, epoch: int, more: Mapping[str, float]) -> None:
        """Write the means since the last flush. Raises UserError when one is not finite."""
        if not self.steps:
            return
        losses = {f"loss/{n}": float(v) / self.counts[n] for n, v in self.sums.items()}
        if bad := [n for n, v in losses.items() if not math.isfinite(v)]:
            raise not_finite(self.run, ", ".join(bad), step)
        rate = self.steps / max(time.monotonic() - self.since, 1e-9)
        self.write({**losses, **more, "steps_per_second": rate}, step, epoch)
        self.clear()

    def validated(self, scores: Mapping[str, float], step: int, epoch: int) -> None:
        """Write an epoch's validation: RMSE of the model and of each baseline."""
        self.write({f"validation/rmse_{name}": v for name, v in scores.items()}, step, epoch)
        self.clear()

    def write(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        self.file.write(json.dumps({"step": step, "epoch": epoch, **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.board.add_scalar(name, value, step)


def not_finite(run: Path, what: str, step: int) -> UserError:
    return UserError(
        f"{run}: {what} is no longer finite at step {step}; lower training.lr, or go back to fp32; "
        "the checkpoints are from before"
    )


@contextmanager
def open_log(run: Path, step: int, device: torch.device) -> Iterator[Log]:
    """The run's logs, without what was written after `step` by a training that was killed."""
    atomic.write_json(
        run / "about.json",
        {
            "software": software(),
            "git_commit": git_commit(),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        },
    )
    path = run / "metrics.jsonl"
    kept = [line for line in read_log(run) if line["step"] <= step]
    board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)
    with atomic.replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    with path.open("a") as file:
        try:
            yield Log(run, file, board)
        finally:
            board.close()


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one that was cut off by a crash is left out."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def git_commit() -> str | None:
    """Of eddy's own checkout, where it runs from one."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
