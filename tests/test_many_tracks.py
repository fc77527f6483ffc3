"""A release has 1,100 typhoons: nothing may cost more for each when there are more of them."""

import itertools
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline import convert as converting
from pipeline import store
from pipeline.convert import ConvertSettings
from pipeline.loader import Loader
from pipeline.split import split
from pipeline.verify import verify

HOURS = 3
calls: Counter[str] = Counter()
counting = False


def count(event: str, args: tuple) -> None:
    if counting and event in ("open", "os.listdir", "os.scandir", "os.rename", "os.remove"):
        calls[event] += 1


sys.addaudithook(count)  # for good: an audit hook cannot be taken away


def tree(root: Path, tracks: int) -> Path:
    """A raw tree of that many typhoons, each of three tiny frames."""
    pixels = np.random.default_rng(0).uniform(200, 300, (HOURS, 16, 16))
    for season, number in itertools.islice(
        itertools.product(range(1979, 2023), range(1, 31)), tracks
    ):
        folder = root / "image" / f"{season}{number:02}"
        folder.mkdir(parents=True)
        for hour in range(HOURS):
            name = f"{season}0701{hour:02}-{folder.name}-GMS1-1.h5"
            with h5py.File(folder / name, "w") as file:
                file.create_dataset("Infrared", data=pixels[hour], chunks=(16, 16), compression=1)
    return root


def work(home: Path, tracks: int) -> dict[str, Counter[str]]:
    """What each stage asks of the disk."""
    global counting
    raw, target = tree(home / f"raw{tracks}", tracks), home / f"S{tracks}.zarr"

    def load() -> None:
        loader = Loader(list(store.open_store(target)), window=3, patch=8, batch=8, threads=0)
        assert sum(len(batch) for batch in loader.epoch(0)) == tracks // 8 * 8

    stages = {
        "convert": lambda: converting.convert(
            raw, target, ConvertSettings(), manifests=home, workers=1
        ),
        "again": lambda: converting.convert(
            raw, target, ConvertSettings(), manifests=home, workers=1
        ),
        "split": lambda: split(target, home / "split.json", eval_fraction=0.1),
        "load": load,
        "verify": lambda: verify(target, workers=1),
    }
    found = {}
    for name, stage in stages.items():
        calls.clear()
        counting = True
        stage()
        counting = False
        found[name] = Counter(calls)
    return found


def grows(home: Path, few: int, many: int) -> None:
    work(home / "warm", 8)  # imports and compilation open files too
    less, more = work(home, few), work(home, many)
    for stage, counted in less.items():
        for event, times in counted.items():
            per_track = (more[stage][event] - times) / (many - few)
            assert per_track <= times / few + 0.5, (
                f"{stage}: {event} {times} -> {more[stage][event]}"
            )


def test_nothing_grows_faster_than_the_number_of_tracks(tmp_path):
    grows(tmp_path, 8, 16)


@pytest.mark.slow
def test_a_release_of_1100_tracks(tmp_path):
    grows(tmp_path, 275, 1100)
    opened = store.open_store(tmp_path / "S1100.zarr")
    assert len(opened.ids) == 1100
    assert len(opened.triplets()[0]) == 1100
