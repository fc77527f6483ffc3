"""How near is `cli convert` to what the hardware allows? Ratios to references of the same run.

The references: the naive way (h5py, astype, zarr-python), and the floor: reading the files and
inflating their chunks with libdeflate, their places in the file known, and nothing else.

    python benchmarks/convert.py [--tree data/WP] [--json FILE] [--quick]
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import deflate
import h5py
import numpy as np
import zarr
from _common import (
    MIB,
    Report,
    Tree,
    cold_rounds,
    cut,
    evict,
    fresh_processes,
    in_turns,
    make_tree,
    options,
    pictures,
    pixels_of,
    quiet,
    status,
    working_folder,
)
from zarr.codecs import Crc32cCodec, ZstdCodec

from pipeline import quality, shard, sources
from pipeline.convert import ConvertSettings, convert
from pipeline.store_writer import TrackWriter

LENGTH = 173  # frames of a track: the release's mean
SHORT, LONG = 60, 600  # frames of the two tracks whose memory is compared
GROWTH = 1.1  # of the peak memory, from SHORT to LONG, that counts as none
PROCESSES = 2


@dataclass(frozen=True)
class Cost:
    """Seconds of one piece of work, of the whole process."""

    wall: float
    user: float
    system: float
    stored: int = 0  # bytes on disk

    @property
    def cpu(self) -> float:
        return self.user + self.system


def cost(work: Callable[[], None]) -> Cost:
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    return Cost(wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)


def writing(target: Path, work: Callable[[Path], None]) -> Cost:
    """The cost of work that writes `target`, which is removed again."""
    spent = cost(partial(work, target))
    stored = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    spent = replace(spent, stored=stored)
    shutil.rmtree(target)
    return spent


# ---- ours


def eddy(tree: Tree, target: Path, codec: Any = "none", workers: int = 1) -> None:
    settings = ConvertSettings(codec=codec)
    with quiet():
        manifests = target.parent / "manifests"
        convert(tree.path, target, settings, manifests=manifests, workers=workers)


# ---- the naive way: each track read whole by h5py, cast, written whole by zarr-python


def naive(tree: Tree, target: Path, form: Callable[[tuple[int, ...]], dict[str, Any]]) -> None:
    group = zarr.create_group(target)
    for files in tree.files:
        first = pixels_of(files[0])
        frames = np.empty((len(files), 1, *first.shape), np.float32)
        for i, file in enumerate(files):
            frames[i, 0] = pixels_of(file).astype(np.float32)
        shape = frames.shape
        array = group.create_array(files[0].parent.name, shape=shape, dtype="f4", **form(shape))
        array[...] = frames


def as_eddy_raw(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"chunks": (1, *shape[1:]), "shards": shape, "compressors": [Crc32cCodec()]}


def as_eddy_zstd(shape: tuple[int, ...]) -> dict[str, Any]:
    frame = (shape[1], shape[2], shape[3])
    packed = [ZstdCodec(level=shard.ZSTD_LEVEL, checksum=True)]
    return {"chunks": shard.chunk_shape(frame, "zstd"), "shards": shape, "compressors": packed}


def by_default(_: tuple[int, ...]) -> dict[str, Any]:
    return {}  # zarr-python's own chunks, and zstd


# ---- the floor


@dataclass(frozen=True)
class Packed:
    """Where the chunks of a file lie, and the bytes that each inflates to."""

    places: tuple[tuple[int, int], ...]
    size: int


def packed(file: Path) -> Packed:
    with h5py.File(file) as opened:
        data = next(d for d in opened.values() if d.ndim == 2)
        if data.chunks is None or data.compression != "gzip":
            sys.exit(f"{file}: not in deflated chunks, as the release's are: no floor to measure")
        found = [data.id.get_chunk_info(i) for i in range(data.id.get_num_chunks())]
        size = int(np.prod(data.chunks)) * data.dtype.itemsize
    return Packed(tuple((chunk.byte_offset, chunk.size) for chunk in found), size)


class Floor:
    """Read each file, inflate its chunks; perhaps write as many bytes as its frame has."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.packed = {file: packed(file) for file in tree.all_files}
        self.room = memoryview(bytearray(max(f.stat().st_size for f in tree.all_files)))
        self.frame = np.ones(pixels_of(tree.all_files[0]).shape, np.float32).data.cast("B")

    def inflate(self, file: Path) -> None:
        with file.open("rb", buffering=0) as opened:
            opened.readinto(self.room)
        chunks = self.packed[file]
        for start, length in chunks.places:
            deflate.zlib_decompress(self.room[start : start + length], chunks.size)

    def run(self) -> None:
        for file in self.tree.all_files:
            self.inflate(file)

    def run_and_write(self, folder: Path) -> None:
        folder.mkdir()
        for number, files in enumerate(self.tree.files):
            with (folder / str(number)).open("wb") as out:
                for file in files:
                    self.inflate(file)
                    out.write(self.frame)
                out.flush()
                os.fsync(out.fileno())


# ---- what is compared


def speed(tree: Tree, home: Path, report: Report, rounds: int) -> None:
    """Warm, one process: the issue's three targets."""
    floor = Floor(tree)
    costs = in_turns(
        {
            "naive": partial(writing, home / "naive", partial(naive, tree, form=as_eddy_raw)),
            "eddy": partial(writing, home / "eddy", partial(eddy, tree)),
            "floor": partial(cost, floor.run),
            "and write": partial(writing, home / "plain", floor.run_and_write),
        },
        rounds,
    )
    wall = {name: per_frame(tree, costs[name], "wall") for name in costs}
    user = {name: per_frame(tree, costs[name], "user") for name in costs}
    both = {name: per_frame(tree, costs[name], "cpu") for name in costs}
    ms: dict[str, Any] = {"unit": "ms"}
    naively, floored = "h5py, astype, zarr-python", "read and inflate"
    writing_too = "read, inflate, write, fsync"
    compare = report.compare
    compare("wall", wall["eddy"], naively, wall["naive"], better="time", target=4, **ms)
    compare("user CPU", user["eddy"], floored, user["floor"], better="cost", target=1.5, **ms)
    compare("wall", wall["eddy"], writing_too, wall["and write"], better="cost", target=1.5, **ms)
    compare(
        "user and system CPU", both["eddy"], writing_too, both["and write"], better="cost", **ms
    )
    compare("floor, wall", wall["and write"], floored, wall["floor"], better="cost", **ms)


def per_frame(tree: Tree, costs: Iterable[Cost], kind: str) -> list[float]:
    """Milliseconds."""
    return [1000 * getattr(each, kind) / tree.frames for each in costs]


def steps(tree: Tree, home: Path, report: Report, rounds: int) -> None:
    """Where eddy's time goes, each step timed alone, for one track after the other."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for step, seconds in once_by_steps(tree, home / "steps").items():
            found.setdefault(step, []).append(1000 * seconds / tree.frames)
        shutil.rmtree(home / "steps")
    for step, milliseconds in found.items():
        report.state(f"  step: {step}", milliseconds, "ms")


def once_by_steps(tree: Tree, folder: Path) -> dict[str, float]:
    spent = dict.fromkeys(
        ("read and inflate", "mask and count", "checksum and write", "fsync, rename"),
        0.0,
    )
    release = sources.scan(tree.path)
    source = sources.find(release.format)
    channels = [vars(channel) for channel in release.channels]
    folder.mkdir()
    for raw in release.tracks:
        with TrackWriter(folder, raw.id, source.frame_shape(raw.frames[0]), "none") as writer:
            for frame in raw.frames:
                times = [time.perf_counter()]
                pixels = source.read_frame(frame, into=writer.room())
                times.append(time.perf_counter())
                quality.examine(pixels, channels)
                times.append(time.perf_counter())
                writer.append(pixels)
                times.append(time.perf_counter())
                for step, seconds in zip(spent, np.diff(times), strict=False):
                    spent[step] += float(seconds)
            begun = time.perf_counter()
            writer.commit({}, {}, {})
            spent["fsync, rename"] += time.perf_counter() - begun
    return spent


def compressed(tree: Tree, home: Path, report: Report, rounds: int) -> None:
    ways = {
        "eddy": partial(eddy, tree, codec="zstd"),
        "zarr-python's defaults": partial(naive, tree, form=by_default),
        "zarr-python, same layout": partial(naive, tree, form=as_eddy_zstd),
    }
    costs = in_turns(
        {name: partial(writing, home / f"zstd-{name[-8:]}", way) for name, way in ways.items()},
        rounds,
    )
    ours = per_frame(tree, costs["eddy"], "wall")
    sizes = {name: [each.stored / tree.frames / MIB for each in costs[name]] for name in costs}
    for name in list(ways)[1:]:
        theirs = per_frame(tree, costs[name], "wall")
        report.compare("--codec zstd, wall", ours, name, theirs, unit="ms", better="time")
        report.compare(
            "--codec zstd, on disk", sizes["eddy"], name, sizes[name], unit="MiB", better="cost"
        )
    raw = [file.stat().st_size / MIB for file in tree.all_files]
    plain = [pixels_of(tree.all_files[0]).size * 4 / MIB]
    report.compare(
        "--codec zstd, on disk", sizes["eddy"][:1], "uncompressed", plain, unit="MiB", better="cost"
    )
    mean = [float(np.mean(raw))]
    report.compare(
        "--codec zstd, on disk", sizes["eddy"][:1], "the H5 files", mean, unit="MiB", better="cost"
    )


def from_cold_files(tree: Tree, home: Path, report: Report, rounds: int, way: str) -> None:
    def cold(work: Callable[[Path], None], name: str) -> Cost:
        evict(tree.all_files, way)
        return writing(home / name, work)

    costs = cold_rounds(
        report,
        "cold source",
        {
            "eddy": partial(cold, partial(eddy, tree), "cold-eddy"),
            "naive": partial(cold, partial(naive, tree, form=as_eddy_raw), "cold-naive"),
            "floor": partial(cold, Floor(tree).run_and_write, "cold-floor"),
        },
        rounds,
    )
    if costs is None:
        return
    ours, naively, floored = (per_frame(tree, costs[n], "wall") for n in ("eddy", "naive", "floor"))
    what = "cold source, wall"
    report.compare(what, ours, "h5py, astype, zarr-python", naively, unit="ms", better="time")
    report.compare(what, ours, "read, inflate, write, fsync", floored, unit="ms", better="cost")


def processes(big: Tree, small: Tree, home: Path, report: Report, rounds: int) -> None:
    """Milliseconds per frame beyond those of a small tree: without the start of the processes."""
    counts = (1, PROCESSES)
    runs = {
        (count, tree): partial(writing, home / f"by-{count}", partial(eddy, tree, workers=count))
        for count in counts
        for tree in (small, big)
    }
    costs = in_turns({str(i): run for i, run in enumerate(runs.values())}, rounds, warm=False)
    walls = {key: [c.wall for c in costs[str(i)]] for i, key in enumerate(runs)}
    frames = big.frames - small.frames
    each = {
        count: [
            1000 * (b - s) / frames
            for b, s in zip(walls[count, big], walls[count, small], strict=True)
        ]
        for count in counts
    }
    report.compare(
        f"wall, {PROCESSES} processes",
        each[PROCESSES],
        "1 process",
        each[1],
        unit="ms",
        better="time",
    )
    starting = [b - s for b, s in zip(walls[PROCESSES, small], walls[1, small], strict=True)]
    report.state(f"start of {PROCESSES} processes, once", starting, "s")
    tiny = [1000 * wall / len(small.files) for wall in walls[1, small]]
    report.state(f"a track of {len(small.files[0])} frames, whole", tiny, "ms")


def memory(short: Tree, long: Tree, home: Path, report: Report, rounds: int) -> None:
    peaks = {
        tree: [fresh(peak_of, tree, home / f"memory-{i}-{tree.frames}") for i in range(rounds)]
        for tree in (short, long)
    }
    report.compare(
        f"peak memory, a track of {long.frames}",
        peaks[long],
        f"a track of {short.frames}",
        peaks[short],
        unit="MiB",
        better="cost",
        target=GROWTH,
    )
    report.state("  of that, Python and libraries", [fresh(status, "VmHWM")], "MiB")


def peak_of(tree: Tree, target: Path) -> float:
    """MiB at most in memory, of a process that converts this tree."""
    eddy(tree, target)
    shutil.rmtree(target)
    return status("VmHWM")


def fresh(work: Callable[..., float], *arguments: Any) -> float:
    with fresh_processes() as pool:
        return pool.submit(work, *arguments).result()


# ---- the whole


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(str(__doc__), frames=2 * LENGTH)
    parser.set_defaults(drawn=32)
    args = parser.parse_args(arguments)
    length = LENGTH
    if args.quick:
        args.frames, args.rounds, args.drawn, length = min(args.frames, 16), 1, 4, 8
    few = min(args.rounds, 3)  # of what takes long or varies little
    report = Report("Conversion: per frame; medians of interleaved rounds")
    with working_folder(args.work) as home:
        files = pictures(args, home, report)
        tree = make_tree(home / "tree", files, cut(args.frames, length))
        if args.quick:
            report.note("quick: too short and too small for its figures to mean anything")
        report.note(f"converted: {tree.frames} frames in {len(tree.files)} tracks, copies of those")
        speed(tree, home, report, args.rounds)
        steps(tree, home, report, few)
        compressed(tree, home, report, few)
        if args.cold != "no":
            from_cold_files(tree, home, report, few, args.cold)
            report.note(f"cold: files made to leave memory by {args.cold}, seen with mincore")
        big = make_tree(home / "big", files, [length] * 4 * PROCESSES, linked=True)
        small = make_tree(home / "small", files, [2] * PROCESSES, linked=True)
        processes(big, small, home, report, few)
        long = LONG if not args.quick else 10 * length
        memory(
            make_tree(home / "short", files, [long // 10], linked=True),
            make_tree(home / "long", files, [long], linked=True),
            home,
            report,
            1,
        )
    report.show(args)


if __name__ == "__main__":
    main()
