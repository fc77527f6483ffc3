"""What a run writes while it trains: metrics.jsonl, TensorBoard, and what it ran on."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pipeline import atomic, software
from pipeline.engine import mean_of_all
from pipeline.health import Health, Place


class Log:
    """What each step came to, fetched from the device only when written; the first process writes.

    board: TensorBoard's; None, as file, in the other processes.
    """

    def __init__(self, fabric: Fabric, health: Health, file: Any, board: Any) -> None:
        self.fabric, self.health, self.file, self.board = fabric, health, file, board
        self.clear()

    def clear(self) -> None:
        self.steps: list[tuple[Place, tuple[str, ...], Tensor]] = []
        self.since = time.monotonic()

    def add(self, values: Mapping[str, Tensor], place: Place) -> None:
        """Keep one step's numbers, all scalars; no waiting for the device."""
        self.steps.append((place, tuple(values), torch.stack([v.float() for v in values.values()])))

    def flush(self, step: int, epoch: int, more: Mapping[str, float]) -> dict[str, float]:
        """Write the means since the last flush, and return them. Raises as Health.look does."""
        if not self.steps:
            return {}
        steps = list(self.fetched())
        self.health.look(steps)
        rate = len(steps) / max(time.monotonic() - self.since, 1e-9)
        by_name: dict[str, list[float]] = {}
        for _, values in steps:
            for name, value in values.items():
                if math.isfinite(value):  # of fp16 some gradients may not be
                    by_name.setdefault(name, []).append(value)
        means = {name: sum(values) / len(values) for name, values in by_name.items()}
        if self.file:
            self.health.watch(means, step)
        self.write({**means, **more, "steps_per_second": rate}, step, epoch)
        self.clear()
        return means

    def fetched(self) -> Iterator[tuple[Place, dict[str, float]]]:
        """By step, means over all processes; one wait for each stretch with the same names."""
        for names, stretch in groupby(self.steps, key=lambda one: one[1]):
            places, _, values = zip(*stretch, strict=True)
            rows = mean_of_all(self.fabric, torch.stack(values)).tolist()
            for place, row in zip(places, rows, strict=True):
                yield place, dict(zip(names, row, strict=True))

    def validated(self, scores: Mapping[str, float], step: int, epoch: int) -> None:
        """Write an epoch's validation: RMSE of the model and of each baseline."""
        self.write({f"validation/rmse_{name}": v for name, v in scores.items()}, step, epoch)
        self.clear()

    def sample(self, image: np.ndarray, step: int) -> None:
        """Show a picture, (H, W, 3) uint8, in TensorBoard."""
        if self.board:
            self.board.add_image("samples", image, step, dataformats="HWC")

    def write(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        if not self.file:
            return
        self.file.write(json.dumps({"step": step, "epoch": epoch, **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.board.add_scalar(name, value, step)


@contextmanager
def open_log(run: Path, step: int, fabric: Fabric, health: Health) -> Iterator[Log]:
    """The run's logs, without what was written after `step` by a training that was killed."""
    if not fabric.is_global_zero:
        yield Log(fabric, health, None, None)
        return
    device = fabric.device
    atomic.write_json(
        run / "about.json",
        {
            "software": software(),
            "git_commit": git_commit(),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "devices": fabric.world_size,
        },
    )
    path = run / "metrics.jsonl"
    kept = [line for line in read_log(run) if line["step"] <= step]
    board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
    with atomic.replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    with path.open("a") as file:
        try:
            yield Log(fabric, health, file, board)
        finally:
            board.close()


def read_about(run: Path) -> dict[str, Any]:
    """What a run was trained with, as far as its about.json says so."""
    try:
        found = json.loads((run / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


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
