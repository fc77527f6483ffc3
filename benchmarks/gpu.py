"""All that needs a GPU, in one call of less than ten minutes; all figures go into one file.

Each part is a process of its own, so that one that fails or takes too long costs no other:
the tests marked gpu; train.py in four ways; copies to the device and the loader that feeds it; all
models at the widths that were published; frames of 512 made 2048.

    python benchmarks/gpu.py [--json gpu.json] [--budget 540] [--work DIR]
    python benchmarks/gpu.py --markdown gpu.json           # the file as a table, nothing measured
    python benchmarks/gpu.py --quick --device cpu          # does it run? Also without a GPU
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from _common import HEADS, MIB, Report, Row, cells, in_turns, machine_of, working_folder
from torch import Tensor
from train import EPOCH, Data, Stretch, gpu_of, make_data, parsed, settings_of

import models
from pipeline import checkpoint, engine, store
from pipeline.answers import MODEL, Answers, shown
from pipeline.errors import UserError
from pipeline.loader import Loader
from pipeline.prefetch import on_device
from pipeline.progress import muted
from pipeline.trainer import Trainer

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"
BUDGET = 540.0  # seconds
LEAST = 15.0  # seconds left, below which no part is begun
UNCOMPILED = {
    "TORCHDYNAMO_DISABLE": "1"
}  # --quick: torch.compile changes nothing, and takes no time
LARGE = 256 * MIB  # bytes of a copy that is limited by the bus alone
TOLD = 15  # last lines of a part that failed

WAYS = {
    "fp32": [],
    "bf16": ["--precision", "bf16"],
    "bf16, graphs": ["--precision", "bf16", "--compile", "graphs"],
    "bf16, compiled": ["--precision", "bf16", "--compile", "on"],  # least missed: the last part
}
# Where a model's own defaults are not those that were published.
PUBLISHED = {
    "srgan": [
        "width=64",
        "n_residual_blocks=16",
        "fine_width=64",
        "kernel=9",
        "discriminator_width=64",
        "discriminator_hidden=1024",
    ],
    "st_rainnet": ["arch=published"],
}


# ---- the parts


@dataclass(frozen=True)
class Part:
    """A process that writes a report of its rows as JSON."""

    name: str
    words: list[str]  # of its command, without --json
    limit: float  # seconds


def parts(args: argparse.Namespace) -> Iterator[Part]:
    """The most telling first: the budget may not be enough for all."""
    same = ["--device", args.device, "--work", str(args.work)]
    same += ["--tree", str(args.tree)] if args.tree else []
    if args.quick:
        same += ["--quick", "--size", "128"]
    short = [*same, "--rounds", "3", "--seconds", "0.6"]
    own, train = str(HERE / "gpu.py"), str(HERE / "train.py")
    *first, last = WAYS

    def training(way: str) -> Part:
        return Part(f"training, {way}", [train, *WAYS[way], *short], 170)

    yield from map(training, first)
    yield Part("tests marked gpu", [own, "--part", "tests", *same], 120)
    yield Part("copies", [own, "--part", "copies", *same], 60)
    yield Part("inference", [own, "--part", "inference", *same], 60)
    for name in models.names():
        wide = [f"--set=model.{word}" for word in PUBLISHED.get(name, ()) if not args.quick]
        alone = ["--model", name, "--arch", "residual", "--no-plain", "--precision", "bf16", *wide]
        yield Part(f"model {name}", [train, *alone, *same, "--rounds", "2", "--seconds", "0.3"], 60)
    yield training(last)


def run(part: Part, file: Path, seconds: float, quick: bool) -> dict[str, Any]:
    """Its report, or why there is none."""
    limit, begun = min(part.limit, seconds), time.monotonic()
    words = [sys.executable, *part.words, "--json", str(file)]
    out, failed = "", ""
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(UNCOMPILED if quick else {})},
        start_new_session=True,  # so that its own processes end with it
    ) as process:
        try:
            out, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            failed = f"not done in {limit:.0f} s"
    if not failed and process.returncode:
        failed = f"exit status {process.returncode}"
    told: dict[str, Any] = {"failed": failed, "seconds": round(time.monotonic() - begun, 1)}
    if failed:
        return told | {"output": out.splitlines()[-TOLD:]}
    return told | json.loads(file.read_text(encoding="utf-8"))


# ---- parts of this script


def tests(args: argparse.Namespace, report: Report) -> None:
    """Of the files that have such tests; without a GPU a file's other tests, so that some run."""
    marked = [p for p in sorted(TESTS.glob("test_*.py")) if "mark.gpu" in p.read_text("utf-8")]
    which, files = ("gpu", marked) if args.device != "cpu" else ("not gpu", marked[-1:])
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "tests.xml"
        words = ["-q", "-p", "no:cacheprovider", "-m", which, f"--junitxml={told}"]
        words += ["--continue-on-collection-errors", *map(str, files)]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words],
            cwd=TESTS.parent,
            capture_output=True,
            text=True,
        )
        if not told.exists():
            sys.exit(f"pytest did not run: {(done.stderr or done.stdout).strip()[-500:]}")
        suites = ElementTree.parse(told).getroot().findall("testsuite")
    counts = {
        key: sum(int(suite.get(key, 0)) for suite in suites)
        for key in ("tests", "failures", "errors", "skipped")
    }
    passed = counts["tests"] - sum(counts[key] for key in ("failures", "errors", "skipped"))
    report.state(f"tests marked {which}, passed of {counts['tests']}", [passed], "")
    for suite in suites:
        for case in suite.iter("testcase"):
            for what in ("failure", "error", "skipped"):
                if (found := case.find(what)) is not None:
                    why = " ".join(str(found.get("message")).split())[:200]
                    report.skip(f"{case.get('classname')} {case.get('name')}", f"{what}: {why}")


def copies(args: argparse.Namespace, report: Report) -> None:
    """To the device: one large block, and batches as the loader makes them."""
    device = checkpoint.usable_device(args.device)
    with working_folder(args.work) as home:
        data = make_data(args, home, report)
        shape = (args.batch, 3, 1, args.patch, args.patch)
        blocks = {"a batch": shape, f"{LARGE // MIB} MiB": (LARGE // 4,)}
        if args.quick:
            blocks.pop(f"{LARGE // MIB} MiB")
        for name, size in blocks.items():
            copied(name, size, device, args, report)
        fed(data, device, args, report)


def copied(
    name: str, size: tuple[int, ...], device: torch.device, args: argparse.Namespace, report: Report
) -> None:
    room = torch.empty(size, device=device)
    plain = torch.zeros(size)
    ways: dict[str, Tensor] = {"as it is": plain}
    if device.type == "cuda":
        ways["pinned"] = plain.pin_memory()
    contestants = {
        way: Stretch(partial(room.copy_, host, non_blocking=True), device, args.seconds)
        for way, host in ways.items()
    }
    found = in_turns(contestants, args.rounds, warm=False)
    rates = {way: [plain.nbytes / 1e9 * rate for rate in found[way]] for way in ways}
    what = f"copy of {name} to the device"
    if "pinned" in rates:
        report.compare(f"{what}, pinned", rates["pinned"], what, rates["as it is"], unit="GB/s")
    else:
        report.state(what, rates["as it is"], "GB/s")
        report.skip(f"{what}, pinned", "no GPU, which alone needs it")


def fed(data: Data, device: torch.device, args: argparse.Namespace, report: Report) -> None:
    """Triplets per second of the loader: on the device, and in the host's memory."""
    tracks = list(store.open_store(data.store))
    crops = -(-EPOCH // args.frames)
    made: dict[str, Iterator[Tensor]] = {}
    for way in ("device", "host"):
        loader = Loader(
            tracks,
            window=3,
            patch=args.patch,
            batch=args.batch,
            crops_per_window=crops,
            pinned=device.type == "cuda" and way == "device",
        )
        batches = itertools.chain.from_iterable(map(loader.epoch, itertools.count()))
        made[way] = on_device(batches, device) if way == "device" else batches
    contestants = {
        way: Stretch(partial(next, batches), device, args.seconds) for way, batches in made.items()
    }
    found = in_turns(contestants, args.rounds, warm=False)
    ours, theirs = ([args.batch * rate for rate in found[way]] for way in ("device", "host"))
    what = f"loader, crops of {args.patch}"
    report.compare(f"{what}, on the device", ours, "in the host's memory", theirs)


def inference(args: argparse.Namespace, report: Report) -> None:
    """Frames made four times as fine, by TempoGAN as it is by default."""
    device = checkpoint.usable_device(args.device)
    with working_folder(args.work) as home, muted():
        data = make_data(args, home, report)
        settings = settings_of(args, "tempogan", [], data)
        trainer = Trainer.of(settings, home / "run", engine.make_fabric(settings.training))
        trainer.save("last")
        answers = Answers(checkpoint.load(home / "run/checkpoints/last.ckpt"), str(device))
        track = next(iter(store.open_store(data.store)))
        frame = track.checked(0, 1)
        side = frame.shape[-1]

        def whole() -> np.ndarray:
            """From the host's memory and back into it."""
            posed = answers.posed(frame, split=False)
            return shown(answers.of(MODEL, posed), posed.hidden)

        there = answers.posed(frame, split=False)
        contestants: dict[str, Callable[[], float]] = {
            "alone": Stretch(partial(answers.of, MODEL, there), device, args.seconds),
            "whole": Stretch(whole, device, args.seconds),
        }
        found = in_turns(contestants, args.rounds, warm=False)
    what = f"frames of {side} made {4 * side}"
    report.compare(f"{what}, from and to the host", found["whole"], "the network", found["alone"])
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / MIB
        report.state(f"{what}, peak memory", [peak], "MiB")


OWN = {"tests": tests, "copies": copies, "inference": inference}


# ---- the whole


def markdown(told: dict[str, Any]) -> str:
    """The table of README.md: the machine, every row of every part, what is missing and why."""
    lines = [f"{name}: {value}  " for name, value in told["machine"].items()]
    lines += ["", f"| part | {' | '.join(HEADS)} |", f"|{'---|' * (1 + len(HEADS))}"]
    notes = []
    for name, part in told["parts"].items():
        for row in part.get("rows", ()):
            lines.append(f"| {name} | {' | '.join(text.strip() for text in cells(Row(**row)))} |")
        if part["failed"]:
            notes.append(f"- {name}: {part['failed']}")
        notes += [f"- {name}: skipped: {a}: {b}" for a, b in part.get("skipped", {}).items()]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def own_part(args: argparse.Namespace) -> None:
    words = ["--device", args.device, "--work", str(args.work), "--json", str(args.json)]
    words += ["--tree", str(args.tree)] if args.tree else []
    words += ["--quick", "--size", str(args.size)] if args.quick else []
    its = parsed([*words, "--rounds", "3", "--seconds", "0.3"])
    report = Report(args.part, beside=gpu_of(checkpoint.usable_device(its.device)))
    OWN[args.part](its, report)
    report.show(its)


def every_part(args: argparse.Namespace) -> None:
    begun = time.monotonic()
    device = checkpoint.usable_device(args.device)
    told: dict[str, Any] = {
        "title": "All that needs a GPU" + (", at toy size: the figures mean nothing" * args.quick),
        "machine": machine_of(args.work, os.getloadavg()[0]) | gpu_of(device),
        "parts": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        wanted = (part for part in parts(args) if (args.only or "") in part.name)
        for number, part in enumerate(wanted):
            left = args.budget - (time.monotonic() - begun)
            if left < LEAST:
                found: dict[str, Any] = {"failed": f"--budget {args.budget:g} s was spent before"}
            else:
                found = run(part, Path(folder) / f"{number}.json", left, args.quick)
            told["parts"][part.name] = found
            told["seconds"] = round(time.monotonic() - begun, 1)
            args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            took = f"{found.get('seconds', 0):.0f} s"
            print(f"{part.name}: {took}{found['failed'] and ', '}{found['failed']}", flush=True)
            for line in found.get("output", ()):
                print(f"    {line}")
    print(f"{args.json}: {told['seconds']:.0f} s in all")
    if any(found["failed"] for found in told["parts"].values()):
        sys.exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--json", type=Path, default=Path("gpu.json"), help="what it writes (gpu.json)")
    add("--markdown", type=Path, metavar="JSON", help="print this file's table, measure nothing")
    add("--budget", type=float, default=BUDGET, help=f"seconds of all parts ({BUDGET:g})")
    add("--tree", type=Path, help="raw tree whose frames to measure on; default: drawn ones")
    add("--work", type=Path, help="a folder to work in; drawn frames stay there")
    add("--device", default="cuda", help="cuda, cuda:1; cpu with --quick (cuda)")
    add("--quick", action="store_true", help="all parts at toy size: do they run?")
    add("--only", metavar="WORD", help="only the parts whose name has it")
    add("--part", choices=sorted(OWN), help="one part alone, of those that are no script")
    add("--size", type=int, default=512, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.markdown:
        print(markdown(json.loads(args.markdown.read_text(encoding="utf-8"))), end="")
        return
    try:
        device = checkpoint.usable_device(args.device)
    except UserError as error:
        sys.exit(str(error))
    if device.type != "cuda" and not args.quick:
        sys.exit("gpu.py measures a GPU, and this is none; --quick --device cpu tries the script")
    with working_folder(args.work) as home:
        args.work = args.work or home
        (own_part if args.part else every_part)(args)


if __name__ == "__main__":
    main()
