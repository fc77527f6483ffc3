"""What the benchmarks share: raw trees to measure on, fair rounds, a cold cache, a table."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import importlib.metadata
import io
import json
import mmap
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import h5py
import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline import sources
from pipeline.sources import synthetic

T = TypeVar("T")
MIB = 1 << 20
SATELLITES = ("HMW8", "HMW9", "MTS1", "MTS2")  # drawn storms; all of 10 bits or more
COLD = 0.02  # of the pages may still be in memory
WIDTH = 150  # columns of a table that goes into a file
LIBRARIES = (
    "numpy",
    "numba",
    "h5py",
    "zarr",
    "deflate",
    "torch",
    "zarrs",
    "tensorstore",
    "mosaicml-streaming",
    "litdata",
    "webdataset",
)


# ---- options and the place to work in


def options(about: str, frames: int, *, cold: bool = True) -> argparse.ArgumentParser:
    """cold: whether what is measured may be measured with nothing in memory, too."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tree", type=Path, help="raw tree whose frames to measure on; default: drawn ones"
    )
    parser.add_argument("--frames", type=int, default=frames, help=f"how many ({frames})")
    parser.add_argument("--size", type=int, default=512, help="of a drawn frame, pixels (512)")
    parser.add_argument("--rounds", type=int, default=5, help="each contestant's measurements (5)")
    if cold:
        parser.add_argument(
            "--cold",
            choices=("fadvise", "drop", "no"),
            default="fadvise",
            help="how files leave the memory: asked for each, or (as root) all of the machine's; "
            "no: measure nothing cold (fadvise)",
        )
    parser.add_argument(
        "--work", type=Path, help="an empty folder on the disk to measure; drawn frames stay there"
    )
    parser.add_argument("--json", type=Path, help="write all figures into this file too")
    parser.add_argument("--markdown", type=Path, help="and as a table for README.md into this one")
    parser.add_argument("--quick", action="store_true", help="little of everything: does it run?")
    return parser


@contextlib.contextmanager
def working_folder(work: Path | None) -> Iterator[Path]:
    """A folder to write into, gone afterwards; within `work` where that is given."""
    if work:
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="eddy-benchmark-", dir=work) as folder:
        yield Path(folder)


# ---- raw trees


def pictures(args: argparse.Namespace, home: Path, report: Report) -> list[Path]:
    """Files of frames of one size to make trees of: of the tree given, or drawn."""
    if args.tree:
        found = frames_of(args.tree, args.frames)
        report.note(f"frames: {len(found)} of {args.tree}")
    else:
        found = drawn((args.work or home) / f"drawn-{args.size}", args.size, args.drawn)
        report.note(f"frames: {len(found)} drawn, {args.size}x{args.size}")
    kilobytes = statistics.fmean(file.stat().st_size for file in found) / 1000
    known = "" if args.size != 512 else "; the release's have about 400 (of all of WP 290)"
    report.note(f"an H5 file has {kilobytes:.0f} kB on average{known}")
    return found


def frames_of(tree: Path, most: int) -> list[Path]:
    """Files of one shape, evenly spread over a tree."""
    release = sources.scan(tree)
    shape = sources.find(release.format).frame_shape
    frames = [raw for track in release.tracks for raw in track.frames]
    by_shape: dict[tuple[int, ...], list[Path]] = {}
    for i in np.linspace(0, len(frames) - 1, min(len(frames), most)).astype(int):
        with contextlib.suppress(sources.FrameError):
            by_shape.setdefault(shape(frames[i]), []).append(frames[i].paths[0])
    if not by_shape:
        sys.exit(f"{tree}: not one readable frame")
    return max(by_shape.values(), key=len)


def drawn(folder: Path, size: int, count: int) -> list[Path]:
    """At least that many drawn frames, a few hours each of several storms; drawn once."""
    hours = -(-count // len(SATELLITES))
    marked = folder / f"{hours}-hours"
    if not marked.exists():
        shutil.rmtree(folder, ignore_errors=True)
        with fresh_processes(os.cpu_count() or 1) as pool:
            list(pool.map(functools.partial(draw_storm, folder, size, hours), SATELLITES))
        marked.touch()
    return sorted(folder.glob("*/image/*/*.h5"))


def draw_storm(folder: Path, size: int, hours: int, satellite: str) -> None:
    number = SATELLITES.index(satellite) + 1
    storm = synthetic.Storm(f"2021{number:02}", hours=hours, satellite=satellite)
    synthetic.write_tree(folder / satellite, [storm], size=size)


@dataclass(frozen=True)
class Tree:
    """A raw tree made for a measurement."""

    path: Path
    files: tuple[tuple[Path, ...], ...]  # of each track, in time order

    @property
    def frames(self) -> int:
        return sum(map(len, self.files))

    @property
    def all_files(self) -> list[Path]:
        return [file for track in self.files for file in track]


def make_tree(
    path: Path,
    pictures: Sequence[Path],
    lengths: Sequence[int],
    *,
    run: int | None = None,
    linked: bool = False,
) -> Tree:
    """Copies of pictures under the names of so many typhoons of so many hours, best track too.

    run: an hour is left out after so many, so that each run is a window that shares no frame with
    another. linked: names of the same few files, for what is not timed file by file.
    """
    begun, tracks, copied = datetime(2021, 1, 1, tzinfo=UTC), [], 0
    for number, length in enumerate(lengths):
        id = f"{1990 + number // 60}{number % 60 + 1:02}"
        folder, files, rows = path / "image" / id, [], []
        folder.mkdir(parents=True)
        for i in range(length):
            time = begun + timedelta(hours=i + (i // run if run else 0))
            files.append(folder / f"{time:%Y%m%d%H}-{id}-HMW8-1.h5")
            same_file(pictures[copied % len(pictures)], files[-1], linked)
            rows.append(f"{time.year},{time.month},{time.day},{time.hour},5,20.5,135.2,965,75,0")
            copied += 1
        table = path / "metadata" / f"{id}.csv"
        table.parent.mkdir(exist_ok=True)
        head = "year,month,day,hour,grade,lat,lng,pressure,wind,intp"
        table.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
        tracks.append(tuple(files))
    return Tree(path, tuple(tracks))


def same_file(old: Path, new: Path, linked: bool) -> None:
    if linked:
        new.symlink_to(old.absolute())
    else:
        shutil.copyfile(old, new)


def cut(total: int, most: int) -> list[int]:
    """`total` frames as tracks of nearly equal length, none longer than `most`."""
    count = -(-total // most)
    return [len(part) for part in np.array_split(np.arange(total), count)]


# ---- measuring


def in_turns(
    contestants: Mapping[str, Callable[[], T]], rounds: int, warm: bool = True
) -> dict[str, list[T]]:
    """What each contestant measures in each round: A B C, C B A, A B C ...

    So that whatever slows the machine for a while slows all. warm: a round before that is not
    counted.
    """
    figures: dict[str, list[T]] = {name: [] for name in contestants}
    for round in range(-1 if warm else 0, rounds):
        for name in list(contestants)[:: 1 if round % 2 else -1]:
            figure = contestants[name]()
            if round >= 0:
                figures[name].append(figure)
    return figures


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress that goes to standard error."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def fresh_processes(count: int = 1) -> ProcessPoolExecutor:
    """Processes that start with nothing of this one's memory."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


def status(name: str) -> float:
    """A line of /proc/self/status that is in kB, as MiB: VmHWM, RssAnon ..."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(name + ":"))
    return int(line.split()[1]) / 1024


# ---- a cold cache


class StillWarmError(RuntimeError):
    """The system would not let go of files that were to be cold."""


def evict(files: Iterable[Path], way: str) -> None:
    """Have the system forget files, none of which may be mapped. Raises StillWarmError."""
    files = list(files)
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())  # what is not on the disk yet is never let go
            if way == "fadvise":
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if way == "drop":
        Path("/proc/sys/vm/drop_caches").write_text("1", encoding="ascii")
    left = statistics.fmean(map(share_in_memory, files))
    if left > COLD:
        raise StillWarmError(f"{left:.0%} of the files stayed in memory")


def share_in_memory(file: Path) -> float:
    """Which part of a file's pages the system holds in memory."""
    size = file.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    seen = (ctypes.c_ubyte * pages)()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), size, mmap.MAP_PRIVATE) as view:
        start = ctypes.addressof(first := ctypes.c_char.from_buffer(view))
        failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), seen)
        del first  # else the map could not be closed
    return 1.0 if failed else sum(page & 1 for page in seen) / pages


def cold_rounds(
    report: Report, what: str, contestants: Mapping[str, Callable[[], T]], rounds: int
) -> dict[str, list[T]] | None:
    """in_turns for contestants that evict what they read; where impossible None, and a sentence."""
    try:
        return in_turns(contestants, rounds, warm=False)
    except (StillWarmError, OSError) as error:
        report.skip(what, str(error))
        return None


# ---- the table

Better = Literal["rate", "time", "cost"]


@dataclass(frozen=True)
class Row:
    """One figure beside its reference's, both of this run."""

    what: str
    figure: float
    low: float  # of all rounds
    high: float
    unit: str
    reference: str = ""
    its_figure: float | None = None
    ratio: float | None = None
    target: str = "-"
    reached: bool | None = None


@dataclass
class Report:
    """Rows, and sentences on what they are and what is not there."""

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    load: float = field(default_factory=lambda: os.getloadavg()[0])  # of others, at the start
    beside: dict[str, str] = field(default_factory=dict)  # what figures depend on beyond machine_of

    def compare(
        self,
        what: str,
        ours: Sequence[float],
        reference: str,
        theirs: Sequence[float],
        *,
        unit: str = "/s",
        better: Better = "rate",
        target: float | None = None,
    ) -> None:
        """Medians of all rounds, and the median of each round's own ratio.

        better: rate: ours/theirs, at least the target; time: theirs/ours, at least; cost:
        ours/theirs, at most.
        """
        over = np.divide(theirs, ours) if better == "time" else np.divide(ours, theirs)
        ratio = float(np.median(over))
        wanted, reached = "-", None
        if target is not None:
            wanted = f"<= {target:g}" if better == "cost" else f">= {target:g}"
            reached = ratio <= target if better == "cost" else ratio >= target
        its_figure = statistics.median(theirs)
        found = statistics.median(ours), min(ours), max(ours)
        self.rows.append(Row(what, *found, unit, reference, its_figure, ratio, wanted, reached))

    def state(
        self, what: str, figures: Sequence[float], unit: str, below: float | None = None
    ) -> None:
        """A figure with no reference; it may have a limit."""
        figure = statistics.median(figures)
        target = "-" if below is None else f"< {below:g} {unit}"
        reached = None if below is None else figure < below
        row = Row(what, figure, min(figures), max(figures), unit, target=target, reached=reached)
        self.rows.append(row)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def skip(self, what: str, why: str) -> None:
        self.skipped[what] = why

    def show(self, args: argparse.Namespace) -> None:
        """Print everything; write it to --json too."""
        machine = machine_of(Path(args.work or tempfile.gettempdir()), self.load) | self.beside
        console = Console()
        if not console.is_terminal:
            console = Console(width=WIDTH)
        console.print(f"\n{self.title}", style="bold", highlight=False)
        for name, value in machine.items():
            console.print(f"  {name}: {value}", highlight=False, markup=False)
        console.print(table_of(self.rows))
        for sentence in self.notes:
            console.print(f"- {sentence}", highlight=False, markup=False)
        for what, why in self.skipped.items():
            console.print(f"- skipped: {what}: {why}", highlight=False, markup=False)
        if args.json:
            whole = {
                "title": self.title,
                "machine": machine,
                "options": {key: str(value) for key, value in vars(args).items()},
                "rows": [asdict(row) for row in self.rows],
                "notes": self.notes,
                "skipped": self.skipped,
            }
            args.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        if args.markdown:
            args.markdown.write_text(self.markdown(machine), encoding="utf-8")

    def markdown(self, machine: dict[str, str]) -> str:
        """Machine, rows and sentences."""
        lines = [f"{name}: {value}  " for name, value in machine.items()]
        lines += ["", f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
        lines += [f"| {' | '.join(text.strip() for text in cells(row))} |" for row in self.rows]
        lines += ["", *(f"- {sentence}" for sentence in self.notes)]
        lines += [f"- skipped: {what}: {why}" for what, why in self.skipped.items()]
        return "\n".join(lines) + "\n"


HEADS = (
    "what",
    "figure",
    "rounds from .. to",
    "reference",
    "its figure",
    "ratio",
    "target",
    "reached",
)


def table_of(rows: Sequence[Row]) -> Table:
    table = Table(pad_edge=False)
    for head in HEADS:
        left = head in ("what", "reference", "reached")
        table.add_column(head, justify="left" if left else "right")
    for row in rows:
        table.add_row(*cells(row))
    return table


def cells(row: Row) -> tuple[str, ...]:
    """A row's text, as in HEADS."""
    return (
        row.what,
        f"{short(row.figure)} {row.unit}",
        f"{short(row.low)} .. {short(row.high)}",
        row.reference,
        "" if row.its_figure is None else f"{short(row.its_figure)} {row.unit}",
        "" if row.ratio is None else f"{short(row.ratio)} x",
        row.target,
        {True: "yes", False: "NO", None: "-"}[row.reached],
    )


def short(number: float) -> str:
    """Three digits that count."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.{0 if number == 0 else max(0, 2 - int(np.floor(np.log10(abs(number)))))}f}"


def machine_of(folder: Path, load: float) -> dict[str, str]:
    """What the figures depend on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "CPU": f"{processor()}, {cores} cores, last-level cache {cache_bytes() / MIB:.0f} MiB",
        "system": f"{platform.system()} {platform.release()}, {memory():.0f} GiB of memory, "
        f"work on {disk_of(folder)}",
        "software": ", ".join(
            [f"Python {platform.python_version()}", *filter(None, map(version, LIBRARIES))]
        ),
        "date": f"{datetime.now(UTC):%Y-%m-%d}, load at the start {load:.1f}",
    }


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cache_bytes() -> int:
    """Of the largest cache that a core has; 32 MiB where the system does not tell."""
    sizes = [
        int(file.read_text(encoding="ascii").strip().rstrip("K")) * 1024
        for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max(sizes, default=32 * MIB)


def memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def disk_of(folder: Path) -> str:
    """The file system a folder lies on."""
    with contextlib.suppress(OSError):
        mounts = [line.split() for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
        over = [m for m in mounts if folder.resolve().is_relative_to(m[1])]
        return max(over, key=lambda m: len(m[1]))[2]
    return "an unknown file system"


def version(library: str) -> str | None:
    try:
        return f"{library} {importlib.metadata.version(library)}"
    except importlib.metadata.PackageNotFoundError:
        return None


def pixels_of(file: Path) -> Any:
    """The one image of an H5 file, as h5py gives it."""
    with h5py.File(file) as opened:
        return next(data for data in opened.values() if data.ndim == 2)[:]
