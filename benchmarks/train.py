"""How fast does eddy train? Beside one batch held on the device, and the loop people write today.

Iterations per second of the whole step, as `cli train` makes it: every player, clipping, averaged
weights, the log. With the real loader and with one batch that is held, whose difference is what is
waited for data; TempoGAN also beside a plain loop on the H5 files (`_plain.py`), and that with a
batch held. FLOPs beside those of a large matrix product.

    python benchmarks/train.py [--model NAME] [--precision bf16] [--compile graphs] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _plain
import torch
from _common import (
    MIB,
    Report,
    Tree,
    cut,
    in_turns,
    make_tree,
    options,
    pictures,
    quiet,
    working_folder,
)
from torch import Tensor

import models
from pipeline import budget, checkpoint, engine, runlog, split
from pipeline import settings as run_settings
from pipeline.convert import ConvertSettings, convert
from pipeline.errors import UserError
from pipeline.prefetch import on_device
from pipeline.progress import muted
from pipeline.runlog import Log
from pipeline.settings import RunSettings
from pipeline.trainer import Trainer

TEMPOGAN = "tempogan"
ARCHS = ("eddy", "residual")  # the specification's, and ours
EPOCH = 190_000  # samples: about what the release has
TRACKS = 3  # of which the last is for evaluation
PLAIN, PLAIN_HELD = "plain loop, H5 files", "plain loop, held"
WAIT_GOAL = 3.0  # percent
CPU_GOAL, GPU_GOAL, GPU_END_GOAL = 1.8, 4.0, 30.0  # times the plain loop
WARM = 10  # steps on a GPU before the first that is timed: cudnn tries, graphs are captured
SIDE = {"cuda": 8192, "cpu": 2048}  # of the matrices whose product is the device's rate
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Adversaries from the first step on: what comes before is over soon.
AT_ONCE = {TEMPOGAN: ["model.warmup_steps=0"], "srgan": ["model.pretrain_steps=0"]}
FORECAST = ["task.coarsen=4", "training.patch_size=null"]  # whole frames, of 128x128 pixels
# --quick: does it run? Where the published widths would take long.
NARROW = {
    TEMPOGAN: ["width=8", "n_residual_blocks=1"],
    "srgan": ["width=8", "n_residual_blocks=1", "discriminator_width=4", "discriminator_hidden=8"],
    "simvp": ["hid_s=8", "hid_t=16", "n_s=2", "n_t=2"],
    "pastnet": ["width=16", "codes=32", "code_width=8", "hid_t=16", "n_t=2", "embed=16", "patch=8"],
    "st_rainnet": ["hidden=[4,4]"],
}


# ---- data


@dataclass(frozen=True)
class Data:
    """The same frames, raw and converted."""

    tree: Tree
    home: Path

    @property
    def store(self) -> Path:
        return self.home / "store"

    @property
    def split(self) -> Path:
        return self.home / "store.split.json"


def make_data(args: argparse.Namespace, home: Path, report: Report) -> Data:
    files = pictures(args, home, report)
    made = Data(make_tree(home / "tree", files, cut(args.frames, -(-args.frames // TRACKS))), home)
    with quiet():
        settings = ConvertSettings(max_missing=1)  # what is missing is loaded too
        manifests = home / "manifests"
        convert(made.tree.path, made.store, settings, manifests=manifests, workers=1)
        split.split(made.store, made.split, eval_ids=[made.tree.files[-1][0].parent.name])
    return made


# ---- ours


def settings_of(
    args: argparse.Namespace, name: str, more: Sequence[str], data: Data
) -> RunSettings:
    """A training of that model as the options say."""
    forecast = models.find(name).TASK == "forecast"
    words = [
        f"model.name={name}",
        *AT_ONCE.get(name, ()),
        *(FORECAST if forecast else [f"training.patch_size={args.patch}"]),
        f"training.batch_size={args.batch}",
        f"training.crops_per_window={-(-EPOCH // args.frames)}",  # epochs as long as the release's
        f"training.precision={args.precision}",
        f"training.compile={args.compile}",
        f"training.device={args.device}",
        "training.lr=1e-4",
        "training.validation_crops=1",
    ]
    if args.quick:
        words += [f"model.{word}" for word in NARROW.get(name, ())]
        words += ["task.past=2", "task.future=2"] if forecast else []
    made, _ = run_settings.load(None, [*words, *more, *args.set])
    return run_settings.located(made, data.store, data.split)


class Ours:
    """One training of eddy, step by step as pipeline.train.fit goes."""

    def __init__(self, trainer: Trainer, log: Log) -> None:
        self.trainer, self.log = trainer, log
        frames = next(iter(trainer.loader.epoch(0))).clone()
        self.frames = next(iter(on_device([frames], trainer.fabric.device)))
        self.batches = self.endless()
        self.waited = 0.0  # seconds for batches of the loader
        self.flops = 0  # of one step

    def endless(self) -> Iterator[Any]:
        at = self.trainer.position
        while True:
            yield from self.trainer.batches(at.epoch, at.batch)
            at.epoch, at.batch = at.epoch + 1, 0

    def on(self, batch: tuple[Tensor, Tensor]) -> None:
        trainer, at = self.trainer, self.trainer.position
        place = trainer.place(1)
        self.log.add(trainer.step([batch]).named(), place)
        if at.step % trainer.settings.training.log_every_steps == 0:
            self.log.flush(at.step, at.epoch, trainer.rates(at.step - 1))

    def from_loader(self) -> None:
        begun = time.perf_counter()
        batch = next(self.batches)
        self.waited += time.perf_counter() - begun
        self.on(batch)

    def held(self) -> None:
        """Made coarse and scaled in every step, as a new one is."""
        self.on(self.trainer.problem.pair(self.frames))


@contextlib.contextmanager
def ours(settings: RunSettings, run: Path, report: Report) -> Iterator[Ours]:
    """Ready to train: FLOPs counted, networks compiled where that is asked."""
    fabric = engine.make_fabric(settings.training)
    trainer = Trainer.of(settings, run, fabric)
    with runlog.open_log(run, 0, fabric, trainer.health) as log:
        made = Ours(trainer, log)
        made.flops = counted(made.held)  # before: compiled code is not looked into
        if note := trainer.compile():
            report.note(f"{run.name}: {note}")
        if fabric.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(fabric.device)  # of the trial of what is compiled
        try:
            yield made
        finally:
            made.batches.close()


def counted(work: Callable[[], None]) -> int:
    """Floating-point operations of convolutions and matrix products; two for each multiply-add."""
    with budget.flops() as counter:
        work()
    return counter.get_total_flops()


# ---- a stretch of steps


class Stretch:
    """Iterations per second over some of them, the device's work included.

    before, after: what is not timed. cpu: of each stretch, the process's own seconds per iteration,
    of all its threads.
    """

    def __init__(
        self,
        step: Callable[[], object],
        device: torch.device,
        seconds: float,
        log_every: int = 1,
        before: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self.step, self.device = step, device
        self.before, self.after = before, after
        self.cpu: list[float] = []
        self.count = 1
        if device.type == "cuda":
            self.count = WARM
            self()
        self.count = max(1, round(seconds * self()))
        if self.count > log_every:  # whole intervals: each has its share of writing the log
            self.count = -(-self.count // log_every) * log_every

    def __call__(self) -> float:
        self.before()
        finish(self.device)
        begun, spent = time.perf_counter(), time.process_time()
        for _ in range(self.count):
            self.step()
        finish(self.device)
        passed = time.perf_counter() - begun
        self.cpu.append((time.process_time() - spent) / self.count)
        self.after()
        return self.count / passed


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def products(kind: str, device: torch.device, side: int) -> Callable[[], object]:
    """A product of large square matrices, in that precision (fp32 on a GPU: TF32, as in eddy)."""
    one = torch.randn(side, side, device=device, dtype=DTYPES[kind])
    other, room = torch.randn_like(one), torch.empty_like(one)
    return partial(torch.mm, one, other, out=room)


# ---- what is compared


def subjects(args: argparse.Namespace) -> dict[str, tuple[str, list[str]]]:
    """By name: a model, and its own settings."""
    if args.model != TEMPOGAN:
        return {args.model: (args.model, [])}
    return {f"{TEMPOGAN} {arch}": (TEMPOGAN, [f"model.arch={arch}"]) for arch in args.arch}


def measure(args: argparse.Namespace, data: Data, report: Report, device: torch.device) -> None:
    flops: dict[str, int] = {}
    contestants: dict[str, Stretch] = {}
    with ExitStack() as inside:
        inside.enter_context(muted())
        files = None
        if args.model == TEMPOGAN and args.plain:
            tracks = data.tree.files[:-1]
            files = _plain.from_files(tracks, args.patch, args.batch, device)
            first = next(files)  # now: its workers begin as copies of this process
        before = memory(device)
        trainings: dict[str, Ours] = {}
        for name, (model, more) in subjects(args).items():
            settings = settings_of(args, model, more, data)
            each = inside.enter_context(ours(settings, data.home / name, report))
            trainings[name], flops[name] = each, each.flops
        for name, each in trainings.items():
            every = each.trainer.settings.training.log_every_steps
            stretch = partial(Stretch, device=device, seconds=args.seconds, log_every=every)
            contestants[f"{name}, loader"] = stretch(each.from_loader)
            contestants[f"{name}, held"] = stretch(each.held)
        if len(trainings) == 1:
            memory_of(report, name, each.trainer, before, device)
        if files:
            loop = _plain.Plain(device)
            flops[PLAIN_HELD] = counted(partial(loop.step, *first))
            contestants |= plain(args, loop, files, first, device)
            operations = flops[PLAIN_HELD] / 1e9
            report.note(f"plain loop: {operations:,.1f} GFLOP per iteration, in float32")
        side = 256 if args.quick else SIDE[device.type]
        kinds = {args.precision, *(["fp32"] if files else [])}
        for kind in sorted(kinds):
            contestants[kind] = Stretch(products(kind, device, side), device, args.seconds)

        for each in trainings.values():
            each.waited = 0.0
        found = in_turns(contestants, args.rounds, warm=False)  # each has had its first steps
        rates = {kind: [2 * side**3 / 1e9 * rate for rate in found[kind]] for kind in kinds}
        tell(args, report, device, found, flops, rates, f"matmul of {side}")
        if files and device.type == "cpu":
            cpu = {what: stretch.cpu[-args.rounds :] for what, stretch in contestants.items()}
            tell_cpu(args, report, list(trainings), cpu)
        for name, each in trainings.items():
            steps = args.rounds * contestants[f"{name}, loader"].count
            report.state(f"{name}, asking for a batch", [1000 * each.waited / steps], "ms")
            report.note(about(name, each))


def plain(
    args: argparse.Namespace,
    loop: _plain.Plain,
    files: Iterator[Any],
    batch: Sequence[Tensor],
    device: torch.device,
) -> dict[str, Stretch]:
    """The plain loop, on files and on a batch that is held."""

    def drained() -> None:
        """What workers made while others had their turn is not this turn's."""
        for _ in range(_plain.AHEAD):
            next(files)

    def step() -> None:
        loop.step(*next(files))

    x, y = (part.to(device) for part in batch)
    return {
        PLAIN: Stretch(step, device, args.seconds, before=drained, after=_plain.settle),
        PLAIN_HELD: Stretch(partial(loop.step, x, y), device, args.seconds),
    }


def about(name: str, of: Ours) -> str:
    trainer, geometry = of.trainer, of.trainer.geometry
    count = sum(p.numel() for p in trainer.model.parameters())
    shapes = " -> ".join("x".join(map(str, shape)) for shape in (geometry.x, geometry.y))
    return (
        f"{name}: {trainer.settings.training.batch_size} windows of {shapes} (T, C, H, W), "
        f"{count:,} parameters, {of.flops / 1e9:,.1f} GFLOP per iteration"
    )


def tell(
    args: argparse.Namespace,
    report: Report,
    device: torch.device,
    found: dict[str, list[float]],
    flops: dict[str, int],
    products: dict[str, list[float]],
    product: str,
) -> None:
    gpu, plainly = device.type == "cuda", PLAIN in found
    names = [name for name in flops if name != PLAIN_HELD]
    goal = None if args.quick else GPU_GOAL if gpu else CPU_GOAL
    end_goal = GPU_END_GOAL if gpu and not args.quick else None
    for name in names:
        loader, held = found[f"{name}, loader"], found[f"{name}, held"]
        report.compare(f"{name}, loader", loader, f"{name}, held", held)
        waits = [100 * (1 - a / b) for a, b in zip(loader, held, strict=True)]
        below = None if args.quick else WAIT_GOAL
        report.state(f"{name}, waits for data", waits, "%", below=below)
        if plainly:
            report.compare(f"{name}, held", held, PLAIN_HELD, found[PLAIN_HELD], target=goal)
            report.compare(f"{name}, loader", loader, PLAIN, found[PLAIN], target=end_goal)
    if plainly:
        report.compare(PLAIN, found[PLAIN], PLAIN_HELD, found[PLAIN_HELD])
    for name, operations in flops.items():
        kind = "fp32" if name == PLAIN_HELD else args.precision
        what = name if name == PLAIN_HELD else f"{name}, held"
        each = [operations / 1e9 * rate for rate in found[what]]
        report.compare(what, each, f"{product}, {kind}", products[kind], unit="GFLOP/s")


def tell_cpu(
    args: argparse.Namespace, report: Report, names: list[str], cpu: dict[str, list[float]]
) -> None:
    """What an iteration costs, whoever else is at work on the machine."""
    for name in names:
        report.compare(
            f"{name}, held, CPU time",
            cpu[f"{name}, held"],
            PLAIN_HELD,
            cpu[PLAIN_HELD],
            unit="s",
            better="time",
            target=None if args.quick else CPU_GOAL,
        )


# ---- memory


def memory(device: torch.device) -> int:
    """Bytes of the tensors on a GPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def memory_of(
    report: Report, name: str, trainer: Trainer, before: int, device: torch.device
) -> None:
    """What one training alone needs, beside what the dry run says of it.

    before: bytes of tensors there that are not its own.
    """
    try:
        said = budget.Budget(budget.Case.of(trainer, trainer.settings)).present
    except (UserError, ValueError, RuntimeError) as error:
        report.skip(f"{name}, the dry run's memory", f"{type(error).__name__}: {error}")
        return
    if device.type != "cuda":
        report.state(f"{name}, tensors by the dry run", [said.tensors / MIB], "MiB")
        report.skip(f"{name}, peak of its tensors", "only a GPU's are counted")
        return
    free, total = torch.cuda.mem_get_info(device)
    pairs = {
        "peak of its tensors": (torch.cuda.max_memory_allocated(device) - before, said.tensors),
        "memory of the GPU": (total - free, said.needs),
    }
    for what, (found, expected) in pairs.items():
        report.compare(
            f"{name}, {what}",
            [found / MIB],
            "the dry run",
            [expected / MIB],
            unit="MiB",
            better="cost",
        )


# ---- the whole


def gpu_of(device: torch.device) -> dict[str, str]:
    """What a GPU's figures depend on."""
    if device.type != "cuda":
        return {"device": f"CPU, {torch.get_num_threads()} threads of torch"}
    about = torch.cuda.get_device_properties(device)
    cudnn = torch.backends.cudnn.version()
    return {
        "device": f"{about.name}, {about.total_memory / 2**30:.0f} GiB, driver {driver()}",
        "CUDA": f"{torch.version.cuda}, cudnn {cudnn}",
    }


def driver() -> str:
    """Of the first GPU; unknown where nobody tells."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20)
        return told.stdout.splitlines()[0].strip()
    return "unknown"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options(str(__doc__), frames=96, cold=False)
    add = parser.add_argument
    add("--model", choices=models.names(), default=TEMPOGAN, help=f"({TEMPOGAN})")
    add("--arch", choices=ARCHS, action="append", help="of tempogan; more than once (both)")
    add("--batch", type=int, default=8, help="windows per iteration (8)")
    add("--patch", type=int, default=128, help="side of a crop, pixels; forecasts: whole (128)")
    add("--precision", choices=sorted(DTYPES), default="fp32", help="of eddy; (fp32)")
    add("--compile", choices=("off", "on", "graphs"), default="off", help="training.compile (off)")
    add("--device", default="auto", help="auto, cpu, cuda (auto)")
    add("--seconds", type=float, default=2.0, help="of one measurement, at least a step (2)")
    add("--no-plain", dest="plain", action="store_false", help="without the plain loop")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of eddy's")
    parser.set_defaults(drawn=32)
    args = parser.parse_args(arguments)
    args.arch = args.arch or list(ARCHS)
    if args.quick:
        args.frames, args.drawn = min(args.frames, 24), 4
        args.rounds, args.seconds = 1, 0.0
        args.batch, args.patch = min(args.batch, 2), min(args.patch, 32)
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parsed(arguments)
    try:
        device = checkpoint.usable_device(args.device)
    except UserError as error:
        sys.exit(str(error))
    asked = f"{args.precision}, training.compile {args.compile}"
    report = Report(f"Training: iterations per second; {asked}", beside=gpu_of(device))
    with working_folder(args.work) as home, ExitStack() as done:
        done.callback(gc.collect)  # closes maps before their files go
        data = make_data(args, home, report)
        if args.quick:
            report.note("quick: too short and too small for its figures to mean anything")
        measure(args, data, report, device)
    report.show(args)


if __name__ == "__main__":
    main()
