"""The first hour, timed: clone to first picture; raw tree to first training step.

As a newcomer has it: `git clone`, `make demo` into an environment of its own, and then the README's
commands on a raw tree, each a process of its own, whose start counts. One round: an installation
takes minutes.

    python benchmarks/first_hour.py [--tree data/WP] [--pip-cache empty] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from _common import Report, cut, frames_of, make_tree, options, working_folder

from pipeline import sources
from pipeline.sources import synthetic

ROOT = Path(__file__).parents[1]
PICTURES = (".png", ".mp4", ".gif", ".html")  # eddy's pages hold theirs
WP_FRAMES = 192_956  # of Digital Typhoon V2, basin WP
MEAN_TRACK = 173  # its frames per typhoon
MORE = 8 * MEAN_TRACK  # frames of a second, larger tree: what a frame takes beside the start
STORMS = 3  # of a drawn tree
CONFIG = "configs/tempogan_cpu.yaml"
POLL = 0.05  # seconds
DEMO_LIMIT, COMMAND_LIMIT = 3600.0, 1800.0  # seconds
# What would bring another Python's packages into the new environment
FOREIGN = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "MAKEFLAGS", "MAKELEVEL")


# ---- watching a command


@dataclass
class Watched:
    """What a command did, and when: seconds since it started."""

    seconds: dict[str, float] = field(default_factory=dict)  # of each event
    ended: float = 0.0
    code: int = 0
    lines: list[tuple[float, str]] = field(default_factory=list)  # that it printed


def watched(
    words: Sequence[str | Path],
    home: Path,
    events: Mapping[str, Callable[[], object]] | None = None,
    *,
    stop: bool = False,
    limit: float = COMMAND_LIMIT,
) -> Watched:
    """Run it in `home` until it ends; with stop, until all events have been, then as by Ctrl-C.

    Ends this script with its last lines where it fails, or is not done within the limit.
    """
    seen, begun = Watched(), time.monotonic()
    process = subprocess.Popen(
        list(map(str, words)),
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that its own processes end with it
    )

    assert process.stdout  # a pipe
    said = process.stdout

    def read() -> None:
        for line in said:
            seen.lines.append((time.monotonic() - begun, line.rstrip()))

    def look() -> None:
        for name, happened in (events or {}).items():
            if name not in seen.seconds and happened():
                seen.seconds[name] = time.monotonic() - begun

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while process.poll() is None and time.monotonic() - begun < limit:
            look()
            if stop and events and len(seen.seconds) == len(events):
                os.killpg(process.pid, signal.SIGINT)
                process.wait(COMMAND_LIMIT)
                break
            time.sleep(POLL)
        late = process.poll() is None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        seen.code = process.wait()
        seen.ended = time.monotonic() - begun
        reader.join()
        said.close()
    look()
    stopped = stop and seen.code in (130, -signal.SIGINT)
    if late or (seen.code and not stopped):
        last = "\n".join(line for _, line in seen.lines[-20:])
        why = f"not done in {limit:.0f} s" if late else f"exit code {seen.code}"
        sys.exit(f"{' '.join(map(str, words))}: {why}\n{last}")
    return seen


def first_picture(folder: Path) -> Path | None:
    """One that is whole: eddy's files appear under their names when they are."""
    walk = os.walk(folder)  # which does not mind folders that are renamed meanwhile
    found = (Path(at, name) for at, _, names in walk for name in names if name.endswith(PICTURES))
    return min(found, key=lambda file: file.stat().st_mtime, default=None)


def first_step(run: Path) -> int | None:
    """Which step the first line of its log is of; None: there is none yet."""
    log = run / "metrics.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    return int(json.loads(lines[0])["step"]) if lines and lines[0].endswith("\n") else None


def bytes_in(folder: Path) -> int:
    """Of its files; what links lead to does not count."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(file.stat().st_size for file in files)


# ---- clone to first picture


def from_clone(args: argparse.Namespace, home: Path, report: Report) -> Path:
    """Clone, `make demo`; returns the clone."""
    for name in FOREIGN:
        os.environ.pop(name, None)
    report.note(pip_note(args, home))
    clone = home / "eddy"
    cloned = watched(["git", "clone", "--quiet", args.repository, clone], home)
    told(report, "git clone", cloned.ended)
    events = {
        "installed": (clone / ".venv/.installed").exists,
        "picture": lambda: first_picture(clone / "demo"),
    }
    make = ["make", "demo", f"PYTHON={args.python}"]
    demo = watched(make, clone, events, limit=DEMO_LIMIT)
    told(report, "make demo: environment installed", demo.seconds["installed"])
    for when, line in demo.lines:
        if line.startswith("$ cli "):
            told(report, f"make demo: cli {line.split()[2]} begins", when)
    told(report, "make demo: first picture", demo.seconds["picture"])
    told(report, "make demo: done", demo.ended)
    told(report, "clone to first picture", cloned.ended + demo.seconds["picture"])
    told(report, "clone to the demo's end", cloned.ended + demo.ended)
    report.state("the environment", [bytes_in(clone / ".venv") / 1e9], "GB")
    picture = first_picture(clone / "demo")
    assert picture  # or there would be no time of it
    report.note(f"the first picture is {picture.relative_to(clone)}")
    if any("Using the torch that is installed" in line for _, line in demo.lines):
        report.note("the torch of the machine was used")
    return clone


def pip_note(args: argparse.Namespace, home: Path) -> str:
    """Says what the installation can draw on; makes pip's cache an empty one where asked."""
    if args.pip_cache == "empty":
        os.environ["PIP_CACHE_DIR"] = str(home / "pip")
    pip = [args.python, "-m", "pip"]
    cache = subprocess.run([*pip, "cache", "dir"], capture_output=True, text=True)
    found = Path(cache.stdout.strip() or home / "pip")
    held = bytes_in(found) / 1e6 if found.exists() else 0
    places = subprocess.run([*pip, "config", "list"], capture_output=True, text=True)
    elsewhere = any(word in places.stdout for word in ("index-url", "find-links", "no-index"))
    where = "PyPI and what pip is set up to look into besides" if elsewhere else "PyPI"
    return f"pip: a cache of {held:.0f} MB at the start; packages of {where}"


# ---- raw tree to first training step


def from_tree(args: argparse.Namespace, home: Path, clone: Path, report: Report) -> None:
    """The README's commands, from a look at the tree to a training's first picture."""
    cli = clone / ".venv/bin/cli" if clone != ROOT else Path(sys.executable).with_name("cli")
    tree = args.tree.absolute() if args.tree else drawn_tree(args, home)
    tracks = {track.id: len(track.frames) for track in sources.scan(tree).tracks}
    held_out = min((id for id, n in tracks.items() if n >= 3), key=lambda id: tracks[id])
    count = sum(tracks.values())
    report.note(f"tree: {count} frames of {args.tree or 'drawn storms'}, {len(tracks)} typhoons")
    work = reader(home / "work", tree, clone)

    took = {}
    for name, words in {
        "inspect --quick": ["inspect", "data/WP", "--quick"],
        "convert": ["convert", "data/WP", "data/WP.zarr", "--max-missing", args.max_missing],
        "split": ["split", "data/WP.zarr", "--eval-ids", held_out],
    }.items():
        took[name] = watched([cli, *words], work).ended
        told(report, f"cli {name}", took[name])
    run = work / "runs/first"
    events = {
        "step": lambda: first_step(run),
        "drawn": (run / "samples/epoch-0000.png").exists,  # what goes in, before step 1
        "picture": (run / "samples/epoch-0001.png").exists,
    }
    train = watched([cli, "train", CONFIG, "--run", "runs/first"], work, events, stop=True)
    told(report, f"cli train: step {first_step(run)} is logged", train.seconds["step"])
    told(report, "cli train: first picture, before its first step", train.seconds["drawn"])
    told(report, "cli train: first picture after an epoch", train.seconds["picture"])
    before = sum(took.values())
    told(report, "raw tree to first logged steps", before + train.seconds["step"])
    told(report, "raw tree to first picture of the model", before + train.seconds["picture"])
    if not args.quick:
        project(cli, tree, count, took["convert"], home, clone, report)


def drawn_tree(args: argparse.Namespace, home: Path) -> Path:
    hours = -(-args.frames // STORMS)
    storms = [synthetic.Storm(f"20210{n + 1}", hours=hours) for n in range(STORMS)]
    synthetic.write_tree(home / "drawn", storms, size=args.size)
    return home / "drawn"


def reader(work: Path, tree: Path, clone: Path) -> Path:
    """A folder as the README's reader has it: data/WP, configs."""
    (work / "data").mkdir(parents=True)
    (work / "data/WP").symlink_to(tree)
    shutil.copytree(clone / "configs", work / "configs")
    return work


def project(
    cli: Path,
    tree: Path,
    count: int,
    took: float,
    home: Path,
    clone: Path,
    report: Report,
) -> None:
    """What all of WP would take, by what further frames took: no such tree has been timed."""
    files = frames_of(tree, count)
    more = make_tree(home / "more", files, cut(count + MORE, MEAN_TRACK), linked=True)
    work = reader(home / "whole", more.path, clone)
    larger = watched([cli, "convert", "data/WP", "data/WP.zarr"], work).ended
    each = further(took, count, larger, more.frames)
    report.state("cli convert, each further frame", [1000 * each], "ms")
    size = bytes_in(work / "data/WP.zarr") / more.frames
    of_all = f"PROJECTED for {WP_FRAMES:,} frames"
    report.state(f"{of_all}: convert", [WP_FRAMES * each / 60], "min")
    report.state(f"{of_all}: the store", [WP_FRAMES * size / 1e9], "GB")
    report.note(
        f"projected: the time and disk of a frame, as {more.frames} took them that were in memory, "
        "times all of V2's WP. A disk that writes or reads more slowly than that sets the time"
    )


def further(small: float, few: int, large: float, many: int) -> float:
    """Seconds of one further frame, of what two trees took: without the start."""
    return max(0.0, (large - small) / (many - few))


# ---- the whole


def told(report: Report, what: str, seconds: float) -> None:
    report.state(what, [seconds], "s")
    print(f"{what}: {seconds:.1f} s", file=sys.stderr, flush=True)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options(__doc__ or "", 80, cold=False)
    add = parser.add_argument
    add("--repository", default=str(ROOT), help="what is cloned; default: this one, as committed")
    add("--python", default=getattr(sys, "_base_executable", sys.executable), help="for make")
    add("--pip-cache", choices=("keep", "empty"), default="keep", help="for the installation")
    add("--max-missing", default="0.01", help="of a frame, for `cli convert` (0.01, as its own)")
    add("--only", choices=("demo", "tree"), help="tree: with the environment that runs this")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parsed(arguments)
    report = Report("The first hour")
    with working_folder(args.work) as folder:
        home = folder.resolve()
        clone = ROOT if args.only == "tree" else from_clone(args, home, report)
        if args.only != "demo":
            from_tree(args, home, clone, report)
    report.show(args)


if __name__ == "__main__":
    main()
