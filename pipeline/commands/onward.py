"""What to type next, once there is a store or a split: words that work on that data."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.screen import again, note

if TYPE_CHECKING:
    from pipeline.manifest import Split
    from pipeline.store import Track

ENDINGS = re.compile(r"\.(tar|tgz|nc|nc4|json|zip)\b.*$|-idx\d.*$", re.IGNORECASE)  # of sources
LENIENT = (0.05, 0.2, 1)  # of --max-missing, tried in this order
STRETCHES = ("season", "month", "week", "day")  # of --track-by


def to_convert(path: Path) -> list[object]:
    """What follows a look at raw files: they become a store of that name."""
    name = ENDINGS.sub("", path.resolve().name)
    return ["convert", path, Path("data") / f"{name}.zarr"]


def to_split(path: Path, *, converted: bool = False) -> list[object]:
    """What follows a finished store: a split that leaves something to train on in every part.

    Where none does, a note says why, and the words help that. converted: by what was just typed.
    """
    from pipeline import split as stage
    from pipeline import store

    opened = store.open_store(path)
    window, judged = windows_of(setting_of(opened.channels))
    if found := stage.proposed(
        opened, partial(windows, window, None), partial(windows, judged, None)
    ):
        return ["split", path, *found]
    once_more = again if converted else partial(from_source, path)
    fit = [track.id for track in opened if windows(window, None, track)]
    what = {1: "a sound frame", 3: "a triplet, three sound frames in a row"}.get(
        window, f"{window} sound frames in a row"
    )
    only = f"only track {fit[0]} holds {what}" if fit else f"no track holds {what}"
    told = f"{path}: {only}, and training needs other tracks than those that it is judged on"
    for most in LENIENT:
        if stage.proposed(opened, partial(windows, window, most), partial(windows, judged, most)):
            note(f"{told}; with --max-missing {most:g} fewer frames would be flagged")
            words = [word for word in once_more("--max-missing") if word != "--replace"]
            return [*words, "--max-missing", f"{most:g}", "--replace"]
    if len(opened.ids) == 1 and next(iter(opened)).grid is not None:
        if stretch := stretch_of(next(iter(opened)), window):
            note(f"{told}; cut into several with --track-by {stretch}, in a store of their own")
            other = path.with_name(f"{path.stem}-{stretch}{path.suffix}")
            return [*elsewhere(once_more("--track-by"), path, other), "--track-by", stretch]
        note(f"{told}; convert more, of other dates")
        return from_source(path)
    note(f"{told}; convert more tracks into it")
    words = [wider(word) for word in again("--ids")]
    return [*words] if converted and words != again() else from_source(path)


def wider(word: str) -> str:
    """Of a raw typhoon's folder in a tree that tree; any other word as it is."""
    folder = Path(word)
    if folder.parent.name == "image" and any(folder.glob("*.h5")):
        return str(folder.parent.parent)
    return word


def from_source(path: Path, *_: str) -> list[Any]:
    """A conversion whose source has yet to be said."""
    return ["convert", "SOURCE", path]


def elsewhere(words: Sequence[object], path: Path, other: Path) -> list[object]:
    """A conversion's words with another store; where they name none, it comes last."""
    changed = [other if Path(str(word)) == path else word for word in words]
    if other in changed:
        return changed
    return [*words, *(["data/WP"] if len(words) == 1 else []), other]


def windows(length: int, most: float | None, track: Track) -> int:
    """How many windows of so many frames a track has, or would have with that --max-missing."""
    if most is None:
        return len(track.windows(length))
    from pipeline.store import BLANK
    from pipeline.windows import starts

    sound = ((track.flag & BLANK) == 0) & (track.values("missing_fraction") <= most)
    return len(starts(track.times, sound, length))


def stretch_of(track: Track, window: int) -> str:
    """The longest stretch of time that cuts a track into two or more with windows; "" if none."""
    import numpy as np

    from pipeline.sources.stretches import track_of
    from pipeline.windows import starts

    for stretch in STRETCHES:
        names = np.array([track_of(int(time), "", stretch) for time in track.times])
        parts = [names == name for name in np.unique(names)]
        sound = track.flag == 0
        if sum(len(starts(track.times[p], sound[p], window)) > 0 for p in parts) > 1:
            return stretch
    return ""


def to_train(path: Path, split: Split, file: Path | None) -> list[object]:
    """What follows a split of the store or raw tree at `path`: settings that suit its channels.

    file: of the split; None where a training finds it by itself. Of a split that leaves nothing to
    train on, or nothing to judge, a better one.
    """
    channels, shape = about(path)
    name = setting_of(channels)
    if (path / "zarr.json").is_file() and not serves(path, split, name):
        return to_split(path)
    words: list[object] = ["train", name, "--store", path, *(["--split", file] if file else [])]
    if name == "CONFIG":
        return words
    rain = [channel["name"] for channel in channels if channel["units"] == "mm"]
    if rain and len(channels) > 1:
        words += ["--set", f"task.targets=[{','.join(rain)}]"]
    patch, side = said_by(name).get("training", {}).get("patch_size"), min(shape[-2:])
    if patch and side < patch:  # which must hold whole coarse pixels
        words += ["--set", f"training.patch_size={side // 4 * 4}"]
    return words


def serves(path: Path, split: Split, name: str) -> bool:
    """Whether a split of a store leaves those settings windows to train on and to be judged on."""
    from pipeline import store

    opened = store.open_store(path)
    return all(
        any(windows(length, None, opened.track(id)) for id in ids)
        for length, ids in zip(windows_of(name), (split.train, split.eval), strict=True)
    )


def about(path: Path) -> tuple[Sequence[Mapping[str, Any]], tuple[int, ...]]:
    """The channels of a store or raw tree, and the shape (C, H, W) of a frame."""
    from pipeline import sources, store

    if (path / "zarr.json").is_file():
        opened = store.open_store(path)
        return opened.channels, next(iter(opened)).shape
    release = sources.scan(path)
    shape_of = sources.find(release.format).frame_shape
    return [vars(channel) for channel in release.channels], shape_of(release.tracks[0].frames[0])


def setting_of(channels: Sequence[Mapping[str, Any]]) -> str:
    """The name of eddy's own settings for these channels, on this machine; or CONFIG."""
    units = {channel["units"] for channel in channels}
    end = "" if has_gpu() else "_cpu"
    if "mm" in units:
        return f"st_rainnet{end}" if len(channels) > 1 else "srgan_precipitation"
    if channels[0]["units"] == "K":
        return f"tempogan{end}"
    if channels[0]["long_name"] == "grey of the digits, 0 to 1":
        return f"moving_mnist{end}"
    return "CONFIG"


def windows_of(name: str) -> tuple[int, int]:
    """Frames of a window that a training learns from, and of one that it is judged on.

    A forecast is judged on its whole window, all else frame by frame. A triplet is learnt from
    where the settings do not say.
    """
    said = said_by(name)
    task = said.get("task", {})
    if "past" in task and "future" in task:
        return (task["past"] + task["future"],) * 2
    return said.get("training", {}).get("sequence_length", 3), 1


def said_by(name: str) -> dict[str, Any]:
    """What eddy's own settings of that name say; nothing of CONFIG."""
    from pipeline import settings_file, shipped

    return {} if name == "CONFIG" else settings_file.read(shipped.files()[name])


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU to train on; found without torch, which takes seconds."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    elsewhere = sys.platform == "win32" or Path("/dev/dxg").exists()  # the second: WSL
    return elsewhere and shutil.which("nvidia-smi") is not None
