"""What training runs on: devices and precision, several processes, averaged weights."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from torch import Tensor, nn

from pipeline import checkpoint
from pipeline.errors import UsageError, UserError
from pipeline.settings import TrainSettings

R = TypeVar("R")
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def make_fabric(t: TrainSettings) -> Fabric:
    """The devices of a training in one precision; starts the other processes where it has several.

    Under torchrun or SLURM those are there already, and this is one of them. Raises UserError for
    what this machine has not.
    """
    device = checkpoint.usable_device(t.device)
    if t.precision == "fp16" and device.type == "cpu":
        raise UserError("training.precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    others = started()
    devices, nodes = others or (t.devices, 1)
    try:
        refuse_devices(t, device, devices)
    except UserError as error:
        if others and int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))):
            raise SystemExit(error.code) from None  # the first of them says it
        raise
    for name in ("lightning.fabric", "lightning_fabric"):  # they announce precision and processes
        logging.getLogger(name).setLevel(logging.WARNING)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # a training's crops are all of one size
        torch.set_float32_matmul_precision("high")  # TF32, as in convolutions by default
    several = devices * nodes > 1
    fabric = Fabric(
        accelerator=device.type,
        devices=devices if device.index is None else [device.index],
        num_nodes=nodes,
        strategy="ddp" if several else "auto",
        precision=PRECISIONS[t.precision],  # type: ignore[arg-type]  # a plain str is a Literal
        # In a SLURM job without srun, too, the other processes are ours to start
        plugins=[] if others else [LightningEnvironment()],
    )
    if several:
        fabric.launch()
    if fabric.global_rank and not others:
        Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    return fabric


def end_with_parent(parent: int) -> None:
    """However the process that started this one ends: nobody may wait for it for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def started() -> tuple[int, int] | None:
    """Processes per machine, and machines, where torchrun or SLURM has started several."""
    known = os.environ
    if TorchElasticEnvironment.detect():
        here = int(known["LOCAL_WORLD_SIZE"])
        return here, int(known["WORLD_SIZE"]) // here
    tasks = int(known.get("SLURM_STEP_NUM_TASKS", 1))  # of srun; a batch script itself is one
    if SLURMEnvironment.detect() and tasks > 1:
        nodes = int(known.get("SLURM_STEP_NUM_NODES", 1))
        return tasks // nodes, nodes
    return None


def refuse_devices(t: TrainSettings, device: torch.device, devices: int) -> None:
    """Raises UserError for a number of devices that cannot be, UsageError for two that differ."""
    if t.devices not in (1, devices):
        raise UsageError(
            f"training.devices is {t.devices}, but torchrun or SLURM started {devices} processes "
            "here; leave it out"
        )
    if devices > 1 and device.index is not None:
        raise UsageError(
            f"training.device {t.device} is one GPU, and training.devices is {devices}; "
            "use cuda, and choose GPUs with CUDA_VISIBLE_DEVICES"
        )
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise UserError(
            f"training.devices is {devices}, and this machine has {torch.cuda.device_count()} GPU; "
            "use fewer"
        )


def lost_another(fabric: Fabric, error: RuntimeError) -> bool:
    """Whether it says that another process does not answer any more."""
    told = str(error)
    return fabric.world_size > 1 and (
        isinstance(error, dist.DistError) or "gloo" in told or "NCCL" in told
    )


def parted(fabric: Fabric) -> None:
    """Let go of the other processes at the end."""
    if fabric.world_size > 1 and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """Where one process raises a UserError, the others end, too, without a word.

    If all raise, the first one speaks for all. What is inside must not wait for other processes.
    """
    failed: UserError | None = None
    try:
        yield
    except UserError as error:
        failed = error
    if fabric.world_size == 1:
        if failed:
            raise failed
        return
    found: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(found, failed is not None)
    if not any(found):
        return
    if failed and fabric.global_rank == found.index(True):
        raise failed
    raise SystemExit(1)


def by_first(fabric: Fabric, work: Callable[[], R]) -> R:
    """What the first process makes of it, for all; where it fails the others end without a word."""
    if fabric.world_size == 1:
        return work()
    told: list[Any] = [None, False]
    failed: Exception | None = None
    if fabric.is_global_zero:
        try:
            told[0] = work()
        except Exception as error:  # whatever it is: the others wait to hear of it
            failed, told[1] = error, True
    dist.broadcast_object_list(told)
    if failed:
        raise failed
    if told[1]:
        raise SystemExit(1)
    return told[0]


def agreed(fabric: Fabric, asked: bool) -> bool:
    """Whether any of the processes was asked."""
    if fabric.world_size == 1:
        return asked
    flag = torch.tensor(float(asked), device=fabric.device)
    dist.all_reduce(flag)
    return bool(flag > 0)


def mean_of_all(fabric: Fabric, values: Tensor) -> Tensor:
    """Their mean over all processes, in place."""
    if fabric.world_size > 1:
        dist.all_reduce(values)
        values /= fabric.world_size
    return values


def share_gradients(fabric: Fabric, player: nn.Module) -> None:
    """Make a player's gradients their mean over all processes, in one exchange.

    What a wrapper of one forward and one backward pass does cannot serve several players that are
    asked in turn; and these networks are small enough that nothing is gained by beginning earlier.
    """
    if fabric.world_size == 1:
        return
    gradients = [p.grad for p in player.parameters() if p.grad is not None]
    if not gradients:
        return
    joined = mean_of_all(fabric, torch.cat([g.reshape(-1) for g in gradients]))
    parts = joined.split([g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])


def of_all(fabric: Fabric, model: Any) -> Any:
    """The model on its device, its kernels with channels last.

    Measured on a CPU, steps of 8 crops of 128: TempoGAN 1.09 times as fast so (arch eddy 1.3),
    SRGAN 1.12, gSTA 1.15, PastNet 0.96, ST-RainNet 0.94; GPUs have their fast kernels for it.
    With several GPUs batch norm is of the whole batch; without a GPU each process has its own.
    """
    model.to(memory_format=torch.channels_last)
    if fabric.device.type == "cuda" and fabric.world_size > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return fabric.to_device(model)


class Average:
    """Exponential moving average of a model's weights and buffers.

    The decay grows with the steps towards its final value, as in TensorFlow's
    ExponentialMovingAverage, so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.count = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        kept = min(self.decay, self.count / (10 + self.count))
        self.count += 1
        new, old = model.state_dict(), self.module.state_dict()
        smooth = [name for name, value in old.items() if value.is_floating_point()]
        torch._foreach_lerp_([old[n] for n in smooth], [new[n] for n in smooth], 1 - kept)
        for name in old.keys() - set(smooth):
            old[name].copy_(new[name])


def random_state(fabric: Fabric) -> list[dict[str, Any]]:
    """Of the generators that a training on this device draws from, by process."""
    device = fabric.device
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    own = {"torch": torch.get_rng_state(), "cuda": cuda}
    if fabric.world_size == 1:
        return [own]
    states: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(states, own)
    return states


def set_random_state(fabric: Fabric, states: Any, seed: int) -> None:
    """As they were; a process that was not there then begins with a seed of its own."""
    if isinstance(states, dict):  # from before there were several processes
        states = [states]
    if fabric.global_rank >= len(states):
        torch.manual_seed(seed + fabric.global_rank)
        return
    own = states[fabric.global_rank]
    torch.set_rng_state(own["torch"])
    if own["cuda"] is not None and fabric.device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda"], fabric.device)
