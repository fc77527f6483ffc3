"""How near is the loader to memcpy, how far from reading the H5 files? Ratios of one run.

All contestants deliver shuffled batches of 16 triplets in one process; all but memcpy turn and
mirror them too, unless a row says otherwise.

    python benchmarks/loader.py [--tree data/WP] [--json FILE] [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import itertools
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import zarr
from _common import (
    MIB,
    Report,
    Tree,
    cache_bytes,
    cold_rounds,
    cut,
    evict,
    fresh_processes,
    in_turns,
    make_tree,
    options,
    pictures,
    quiet,
    status,
    working_folder,
)
from torch.utils.data import DataLoader, Dataset, RandomSampler, default_collate

from pipeline import store, store_writer
from pipeline.convert import ConvertSettings, convert
from pipeline.loader import Loader
from pipeline.store import Track

WINDOW, BATCH = 3, 16
LENGTH = 150  # frames of a track
EPOCH = 190_000  # samples: about what the release has
POOL = 8  # times the processor's cache: what memcpy copies from
STEP_MS = 5.0
SMALL_TRACKS, OPENING_SECONDS = 1100, 2.0
GROWTH_MIB = 16.0  # of an epoch; Python's own housekeeping stays far below

Batches = Iterator[Any]


@dataclass(frozen=True)
class Data:
    """The same frames, raw and converted. Windows share no frame: each crop's bytes are its own."""

    tree: Tree
    plain: Path
    packed: Path
    home: Path
    size: int  # pixels

    def tracks(self, packed: bool = False) -> list[Track]:
        return list(store.open_store(self.packed if packed else self.plain))

    @functools.cached_property
    def windows(self) -> list[tuple[int, int]]:
        """Track and first frame of every triplet."""
        return [(n, int(t)) for n, track in enumerate(self.tracks()) for t in track.windows(WINDOW)]


def make_data(args: argparse.Namespace, home: Path, report: Report) -> Data:
    files = pictures(args, home, report)
    lengths = cut(args.frames, min(LENGTH, args.frames))
    tree = make_tree(home / "tree", files, lengths, run=WINDOW)
    with quiet():
        for codec in store.CODECS:
            settings = ConvertSettings(codec=codec, max_missing=1)  # what is missing is loaded too
            convert(tree.path, home / codec, settings, manifests=home / "manifests")
    data = Data(tree, home / "none", home / "zstd", home, 0)
    size = min(min(track.shape[1:]) for track in data.tracks())
    return Data(tree, home / "none", home / "zstd", home, size)


# ---- one slice of a contestant's time


def rate(batches: Batches, seconds: float) -> float:
    """Triplets per second, over about so many seconds."""
    count, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        count += len(next(batches))
    return count / passed


def rates(contestants: dict[str, Batches], args: argparse.Namespace) -> dict[str, list[float]]:
    slices = {name: partial(rate, each, args.seconds) for name, each in contestants.items()}
    return in_turns(slices, args.rounds)


# ---- ours


def loader(tracks: Sequence[Track], patch: int, samples: int = EPOCH, **how: Any) -> Loader:
    """With epochs of at least so many samples: as many as the release's, from any store."""
    windows = sum(len(track.windows(WINDOW)) for track in tracks)
    crops = -(-samples // windows)
    return Loader(tracks, window=WINDOW, patch=patch, batch=BATCH, crops_per_window=crops, **how)


def epochs(made: Loader) -> Batches:
    return itertools.chain.from_iterable(map(made.epoch, itertools.count()))


def eddy(data: Data, patch: int, packed: bool = False, **how: Any) -> Batches:
    return epochs(loader(data.tracks(packed), patch, **how))


# ---- references


def memcpy(data: Data, patch: int) -> Batches:
    """Batches that already lie whole in memory, copied into one buffer in random order."""
    room = np.empty((BATCH, WINDOW, 1, patch, patch), np.float32)
    most = max(len(data.windows) * WINDOW * data.size**2 * 4, POOL * cache_bytes())
    pool = np.ones((-(-most // room.nbytes), *room.shape), np.float32)
    rng = np.random.default_rng(0)
    while True:
        for number in rng.permutation(len(pool)):
            np.copyto(room, pool[number])
            yield room


class Triplets(Dataset):
    """The usual data set: cut(track, first frame, top, left) at a random place, then turned."""

    def __init__(
        self, data: Data, patch: int, cut: Callable[[int, int, int, int], Any], turned: bool = True
    ) -> None:
        self.windows, self.last, self.cut = data.windows, data.size - patch, cut
        self.turned = turned
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.windows)

    def started(self, number: int) -> Any:
        top, left = self.rng.integers(0, self.last + 1, 2).tolist()
        return self.cut(*self.windows[number], top, left)

    def finished(self, frames: Any) -> np.ndarray:
        turns = int(self.rng.integers(0, 8)) if self.turned else 0
        return turned(np.asarray(frames), turns)

    def __getitem__(self, number: int) -> np.ndarray:
        return self.finished(self.started(number))


class Promised(Triplets):
    """For a cut that only begins to read: all of a batch are begun, then awaited."""

    def __getitems__(self, numbers: list[int]) -> list[np.ndarray]:
        begun = [self.started(number) for number in numbers]
        return [self.finished(promise.result()) for promise in begun]


def turned(frames: np.ndarray, turns: int) -> np.ndarray:
    frames = np.rot90(frames, turns % 4, axes=(-2, -1))
    frames = frames[..., ::-1] if turns >= 4 else frames
    return np.require(frames, requirements=("C", "W"))  # torch takes no other


def batches_of(triplets: Triplets) -> Batches:
    sampler = RandomSampler(triplets, replacement=True, num_samples=EPOCH)
    batches = DataLoader(triplets, BATCH, sampler=sampler, drop_last=True)
    return itertools.chain.from_iterable(itertools.repeat(batches))


def h5_files(data: Data, patch: int) -> Batches:
    """Three files opened, read whole, cut, stacked."""
    files = data.tree.files

    def cut(track: int, first: int, top: int, left: int) -> np.ndarray:
        frames = []
        for file in files[track][first : first + WINDOW]:
            with h5py.File(file) as opened:
                image = next(iter(opened.values()))[:].astype(np.float32)
            frames.append(image[None, top : top + patch, left : left + patch])
        return np.stack(frames)

    return batches_of(Triplets(data, patch, cut))


def sliced(data: Data, patch: int, arrays: Sequence[Any], kind: type[Triplets]) -> Batches:
    """Crops out of arrays (T, C, H, W) that are sliced like numpy's."""

    def cut(track: int, first: int, top: int, left: int) -> Any:
        where = slice(top, top + patch), slice(left, left + patch)
        return arrays[track][first : first + WINDOW, :, *where]

    return batches_of(kind(data, patch, cut))


def zarr_arrays(folder: Path) -> list[Any]:
    return [zarr.open_array(folder / id / "frames", mode="r") for id in ids_of(folder)]


def ids_of(folder: Path) -> list[str]:
    return sorted(p.parent.name for p in folder.glob("[!.]*/frames"))


def zarr_python(data: Data, patch: int, folder: Path) -> Batches:
    return sliced(data, patch, zarr_arrays(folder), Triplets)


def write_by_default(data: Data, folder: Path) -> Path:
    """The same frames as zarr-python stores them where nothing is said."""
    group = zarr.create_group(folder)
    for track in data.tracks():
        frames = np.asarray(track.frames)
        made = group.create_group(track.id).create_array("frames", shape=frames.shape, dtype="f4")
        made[...] = frames
    return folder


# ---- peers: each by itself; ImportError where it is not installed


def zarrs(data: Data, patch: int) -> Batches:
    import_module("zarrs")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        arrays = zarr_arrays(data.plain)
    return sliced(data, patch, arrays, Triplets)


def tensorstore(data: Data, patch: int) -> Batches:
    ts = import_module("tensorstore")

    class Begun:
        """Slicing begins to read."""

        def __init__(self, array: Any) -> None:
            self.array = array

        def __getitem__(self, where: Any) -> Any:
            return self.array[where].read()

    def opened(id: str) -> Any:
        place = {"driver": "file", "path": str(data.plain / id / "frames")}
        return Begun(ts.open({"driver": "zarr3", "kvstore": place}, open=True).result())

    return sliced(data, patch, [opened(id) for id in ids_of(data.plain)], Promised)


def samples(data: Data, side: int) -> Iterator[np.ndarray]:
    """(T, C, side, side): every triplet in squares of that side, side by side."""
    tracks = data.tracks()
    places = range(0, data.size - side + 1, side)
    for (track, first), top, left in itertools.product(data.windows, places, places):
        window = tracks[track].frames[first : first + WINDOW]
        yield np.ascontiguousarray(window[:, :, top : top + side, left : left + side])


class Finish:
    """What is done to a stored sample: a crop where it is larger, then a turn."""

    def __init__(self, patch: int) -> None:
        self.patch, self.rng = patch, np.random.default_rng(0)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        top, left = self.rng.integers(0, frames.shape[-1] - self.patch + 1, 2).tolist()
        crop = frames[..., top : top + self.patch, left : left + self.patch]
        return turned(crop, int(self.rng.integers(0, 8)))


def collated(finish: Finish, samples: list[dict[str, np.ndarray]]) -> Any:
    return default_collate([finish(sample["frames"]) for sample in samples])


def mosaicml_streaming(data: Data, patch: int, side: int) -> Batches:
    # Its ready-made picture data sets are not used here, and need a torchvision that fits torch.
    sys.modules.setdefault("streaming.vision", types.ModuleType("streaming.vision"))
    streaming = import_module("streaming")
    folder = data.home / f"mds-{side}"
    columns = {"frames": f"ndarray:float32:{WINDOW},1,{side},{side}"}
    with streaming.MDSWriter(out=str(folder), columns=columns) as out:
        for sample in samples(data, side):
            out.write({"frames": sample})

    dataset = streaming.StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    batches: Any = DataLoader(dataset, BATCH, collate_fn=partial(collated, Finish(patch)))
    return itertools.chain.from_iterable(itertools.repeat(batches))


def litdata(data: Data, patch: int, side: int, batch_decode: Any = "auto") -> Batches:
    """By default some 80 neighbours are unpacked with each sample, in vain if all are shuffled."""
    lit = import_module("litdata")
    folder = data.home / f"litdata-{side}"
    if not folder.exists():
        parts = partial(one_part, data, side)
        how: dict[str, Any] = {"inputs": [0], "chunk_bytes": "64MB", "num_workers": 1}
        with quiet():
            lit.optimize(fn=parts, output_dir=str(folder), **how)
    dataset = lit.StreamingDataset(str(folder), shuffle=True, batch_decode=batch_decode)
    how = {"batch_size": BATCH, "num_workers": 0, "collate_fn": partial(collated, Finish(patch))}
    batches = lit.StreamingDataLoader(dataset, **how)
    return itertools.chain.from_iterable(itertools.repeat(batches))


def one_part(data: Data, side: int, _: int) -> Iterator[dict[str, np.ndarray]]:
    """All samples, for the process that litdata writes with."""
    for sample in samples(data, side):
        yield {"frames": sample}


def webdataset(data: Data, patch: int, side: int) -> Batches:
    wds = import_module("webdataset")
    folder = data.home / f"webdataset-{side}"
    folder.mkdir()
    with wds.ShardWriter(str(folder / "%04d.tar"), maxsize=64 * MIB, verbose=0) as out:
        for number, sample in enumerate(samples(data, side)):
            out.write({"__key__": f"{number:08}", "frames.npy": sample})
    files = sorted(map(str, folder.glob("*.tar")))
    dataset = (
        wds.WebDataset(files, shardshuffle=len(files))
        .shuffle(256)
        .decode()
        .to_tuple("frames.npy")
        .map_tuple(Finish(patch))
        .batched(BATCH)
    )
    batches = wds.WebLoader(dataset, batch_size=None)
    return (batch[0] for batch in itertools.chain.from_iterable(itertools.repeat(batches)))


ON_OUR_STORE = {"zarrs": zarrs, "tensorstore": tensorstore}
OTHER_FORMATS: dict[str, Callable[..., Batches]] = {
    "mosaicml-streaming": mosaicml_streaming,
    "litdata": litdata,
    "litdata one by one": partial(litdata, batch_decode=0),
    "webdataset": webdataset,
}
TARGETS = {"mosaicml-streaming": 5.0, "litdata": 8.0, "litdata one by one": 8.0}


def joined(
    report: Report, contestants: dict[str, Batches], name: str, make: Callable[[], Batches]
) -> None:
    """Add a peer, if it is installed and runs."""
    try:
        batches = make()
        next(batches)
    except ImportError as error:
        report.skip(name, f"not installed ({error})")
    except Exception as error:  # a peer's own trouble must not cost the other rows
        told = (str(error).strip() or repr(error)).splitlines()[-1]
        report.skip(name, f"{type(error).__name__}: {told}")
    else:
        contestants[name] = batches


# ---- what is compared

H5_TARGETS = {128: 500.0, "whole": 70.0}
MEMCPY_TARGETS = {128: 0.45, 64: 0.40}


def warm(data: Data, patch: int, args: argparse.Namespace, report: Report) -> None:
    ours = {
        "eddy": eddy(data, patch),
        "eddy, north up": eddy(data, patch, augment=False),
        "eddy, no thread": eddy(data, patch, threads=0),
    }
    others = {"memcpy": memcpy(data, patch), "H5 files": h5_files(data, patch)}
    others["zarr-python"] = zarr_python(data, patch, data.plain)
    for name, make in ON_OUR_STORE.items():
        joined(report, others, name, partial(make, data, patch))
    found = rates(ours | others, args)
    what = f"{patch} crops" if patch < data.size else f"whole frames of {patch}"
    key: Any = patch if patch < data.size else "whole"
    targets = {"H5 files": H5_TARGETS.get(key), "memcpy": MEMCPY_TARGETS.get(key)}
    for name in others:
        target = targets.get(name) if data.size == 512 else None
        report.compare(what, found["eddy"], name, found[name], target=target)
    for name in list(ours)[1:]:
        report.compare(f"{what}{name[4:]}", found[name], "eddy", found["eddy"])


def other_formats(data: Data, args: argparse.Namespace, report: Report) -> None:
    """Samples cut to size before they were stored, which a peer reads fastest; then whole ones."""
    patch = min(128, data.size)
    for side in sorted({patch, data.size}):
        for name in OTHER_FORMATS:
            beside(data, patch, side, name, args, report)
            gc.collect()  # its threads and files go before the next one comes


def beside(
    data: Data, patch: int, side: int, name: str, args: argparse.Namespace, report: Report
) -> None:
    """One peer and eddy by turns: alone, since some peers work on between their turns."""
    contestants: dict[str, Batches] = {}
    joined(report, contestants, name, partial(OTHER_FORMATS[name], data, patch, side))
    if not contestants:
        return
    found = rates({"eddy": eddy(data, patch)} | contestants, args)
    its = f"{name}, {'cut before' if side == patch else 'whole, cut now'}"
    target = TARGETS.get(name) if data.size == 512 else None
    report.compare(f"{patch} crops", found["eddy"], its, found[name], target=target)


def compressed(data: Data, args: argparse.Namespace, report: Report) -> None:
    patch = min(128, data.size)
    default = write_by_default(data, data.home / "by-default")
    contestants = {
        "eddy": eddy(data, patch, packed=True),
        "zarr-python, same store": zarr_python(data, patch, data.packed),
        "zarr-python, its own defaults": zarr_python(data, patch, default),
        "H5 files": h5_files(data, patch),
    }
    found = rates(contestants, args)
    targets = {"zarr-python, same store": 5.0} if data.size == 512 else {}
    for name in list(contestants)[1:]:
        what, target = f"{patch} crops, --codec zstd", targets.get(name)
        report.compare(what, found["eddy"], name, found[name], target=target)


def cold(data: Data, args: argparse.Namespace, report: Report) -> None:
    """Each slice begins with nothing in memory, and reads no frame twice."""
    patch = min(128, data.size)
    shards = sorted(data.plain.glob("*/frames/c/0/0/0/0"))

    def ours(read_ahead: Any) -> float:
        gc.collect()  # a map that is still open would keep its file in memory
        evict(shards, args.cold)
        made = loader(data.tracks(), patch, samples=1, read_ahead=read_ahead)
        return rate_of(iter(made.epoch(0)), len(made))

    def h5() -> float:
        evict(data.tree.all_files, args.cold)
        return rate_of(h5_files(data, patch), 2)

    slices: dict[str, Callable[[], float]] = {
        read_ahead: partial(ours, read_ahead) for read_ahead in ("auto", "on", "off")
    }
    found = cold_rounds(report, "cold", slices | {"h5": h5}, args.rounds)
    if found is None:
        return
    target = 15 if data.size == 512 else None
    what, files = f"{patch} crops, cold", "H5 files, cold"
    report.compare(f"{what}, read-ahead auto", found["auto"], files, found["h5"], target=target)
    report.compare(f"{what}, read-ahead on", found["on"], files, found["h5"], target=target)
    off = "no read-ahead, cold"
    report.compare(f"{what}, read-ahead on", found["on"], off, found["off"])


def rate_of(batches: Batches, count: int) -> float:
    """Triplets per second of so many batches, the first included."""
    begun = time.perf_counter()
    got = sum(len(next(batches)) for _ in range(count))
    return got / (time.perf_counter() - begun)


def overlap(data: Data, args: argparse.Namespace, report: Report) -> None:
    """A step of CPU work of one thread, alone and with a batch before each."""
    patch = min(128, data.size)
    work = step_of(STEP_MS)
    count = max(5, int(1000 * args.seconds / STEP_MS))
    batches = eddy(data, patch)

    def alone() -> float:
        begun = time.perf_counter()
        for _ in range(count):
            work()
        return 1000 * (time.perf_counter() - begun) / count

    def fed() -> float:
        begun = time.perf_counter()
        for _ in range(count):
            next(batches)
            work()
        return 1000 * (time.perf_counter() - begun) / count

    found = in_turns({"fed": fed, "alone": alone}, args.rounds)
    what = f"step with a batch of {patch} crops"
    report.compare(what, found["fed"], "the step alone", found["alone"], unit="ms", better="cost")


def step_of(milliseconds: float) -> Callable[[], None]:
    """Matrix products that take about so long."""
    matrix = torch.rand(256, 256)

    def products(count: int) -> None:
        for _ in range(count):
            torch.mm(matrix, matrix)

    products(50)
    begun = time.perf_counter()
    products(50)
    each = (time.perf_counter() - begun) / 50
    return partial(products, max(1, round(milliseconds / 1000 / each)))


def opening(data: Data, args: argparse.Namespace, report: Report) -> None:
    """A store of many small tracks: opened, mapped, and made into a loader."""
    tracks = 50 if args.quick else SMALL_TRACKS
    path = many_tracks(data, tracks)

    def mapped() -> float:
        begun = time.perf_counter()
        for track in store.open_store(path):
            _ = track.frames
        return time.perf_counter() - begun

    def constructed() -> float:
        begun = time.perf_counter()
        made = loader(list(store.open_store(path)), patch=16, samples=1)
        next(iter(made.epoch(0)))
        return time.perf_counter() - begun

    def through_zarr() -> float:
        begun = time.perf_counter()
        for track in store.open_store(path):
            zarr.open_array(path / track.id / "frames", mode="r")
        return time.perf_counter() - begun

    found = in_turns(
        {"map": mapped, "loader": constructed, "zarr": through_zarr}, min(3, args.rounds)
    )
    limit = OPENING_SECONDS if tracks == SMALL_TRACKS else None
    report.state(f"open and map {tracks} tracks", found["map"], "s", below=limit)
    report.state(f"loader of {tracks} tracks, first batch", found["loader"], "s", below=limit)
    report.state(f"zarr-python opens {tracks} arrays", found["zarr"], "s")


def many_tracks(data: Data, count: int) -> Path:
    """A store of copies of one small track; its root is written as a conversion would."""
    picture = data.home / "small.h5"
    with h5py.File(data.tree.all_files[0]) as old, h5py.File(picture, "w") as new:
        name, image = next(iter(old.items()))
        new.create_dataset(name, data=image[:16, :16])
    tree = make_tree(data.home / "small", [picture], [4])
    path = data.home / "many"
    with quiet():
        convert(tree.path, path, ConvertSettings(), manifests=data.home / "manifests", workers=1)
    attrs = dict(store.open_store(path).attrs)
    (first,) = attrs.pop("tracks")
    ids = [f"{1900 + n // 90}{n % 90 + 1:02}" for n in range(count)]
    store_writer.begin(path)
    for id in ids:
        shutil.copytree(path / first, path / id, dirs_exist_ok=True)
    if first not in ids:
        shutil.rmtree(path / first)
    store_writer.finish(path, ids, attrs)
    return path


def memory(data: Data, args: argparse.Namespace, report: Report) -> None:
    """Memory of the process itself (not of the maps) over an epoch, for two sizes of store."""
    tracks = len(data.tracks())
    crops = 20 * BATCH if args.quick else EPOCH
    peaks: dict[str, list[float]] = {}
    for count in sorted({-(-tracks // 4), tracks}):
        with fresh_processes() as pool:
            before, after = pool.submit(anonymous, data, count, crops).result()
        size = f"{sum(map(len, data.tree.files[:count])) * data.size**2 * 4 / MIB:.0f} MiB"
        grown = [after - before]
        report.state(f"memory gained, store of {size}", grown, "MiB", below=GROWTH_MIB)
        peaks[size] = [after]
    if len(peaks) > 1:
        (small, its), (large, ours) = peaks.items()
        what, reference = f"memory, store of {large}", f"store of {small}"
        report.compare(what, ours, reference, its, unit="MiB", better="cost", target=1.1)


def anonymous(data: Data, tracks: int, crops: int) -> tuple[float, float]:
    """MiB of this process's own, after the first batches and at the end of the epoch."""
    made = loader(data.tracks()[:tracks], min(128, data.size), samples=crops)
    batches = iter(made.epoch(0))
    for _ in itertools.islice(batches, 8 * made.together):  # until as many lie ready as ever will
        pass
    before = status("RssAnon")
    for _ in batches:
        pass
    return before, status("RssAnon")


# ---- the whole


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(str(__doc__), frames=600)
    parser.add_argument("--seconds", type=float, default=0.4, help="of one measurement (0.4)")
    parser.set_defaults(drawn=32)
    args = parser.parse_args(arguments)
    if args.quick:
        args.frames, args.rounds, args.drawn = min(args.frames, 24), 1, 4
        args.seconds = min(args.seconds, 0.05)
    torch.set_num_threads(1)  # as in DataLoader's workers; a second one only spins between batches
    report = Report(f"Loading: triplets per second, batches of {BATCH}, one process")
    with working_folder(args.work) as home, contextlib.ExitStack() as done:
        done.callback(gc.collect)  # closes maps before their files go
        data = make_data(args, home, report)
        held = data.tree.frames * data.size**2 * 4
        if args.quick:
            report.note("quick: too short and too small for its figures to mean anything")
        report.note(
            f"a store of {data.tree.frames} frames in {len(data.tree.files)} tracks; "
            f"{len(data.windows)} triplets, no frame in two of them"
        )
        if held < POOL * cache_bytes():
            report.note("the store is small beside the processor's cache, which flatters all")
        for patch in sorted({p for p in (128, 64) if p < data.size} | {data.size}, reverse=True):
            warm(data, patch, args, report)
        other_formats(data, args, report)
        compressed(data, args, report)
        if args.cold != "no":
            cold(data, args, report)
            report.note(f"cold: files made to leave memory by {args.cold}, seen with mincore")
        overlap(data, args, report)
        opening(data, args, report)
        memory(data, args, report)
    report.show(args)


if __name__ == "__main__":
    main()
