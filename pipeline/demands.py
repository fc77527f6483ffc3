"""What a training demands of its tracks and channels, beyond what its loader does."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import checkpoint, tasks
from pipeline.errors import UsageError, UserError, few
from pipeline.progress import say
from pipeline.settings import TrainSettings
from pipeline.sources.grids import Grid
from pipeline.store import Track
from pipeline.tasks import ForecastSettings
from pipeline.windows import usual_step

# Channels that are components of vectors: u, v10, 10u, u_500, ua, vwnd; and their units.
COMPONENT = re.compile(r"eastward|northward|\b[xy]_wind")
WIND = re.compile(r"\d*[uv](a|as|wnd|wind|grd)?(_?\d+)?")
SPEEDS = ("m s-1", "m s**-1", "m/s", "km h-1", "km/h", "kt", "knots")


def shared_grid(tracks: Sequence[Track], settings: tasks.Settings) -> Grid | None:
    """The one grid of all tracks' frames that the settings name places on; None where they do not.

    Also None where the frames have none. Raises UserError for several.
    """
    if not (isinstance(settings, ForecastSettings) and settings.located):
        return None  # and a release's thousand tracks are not asked
    first = tracks[0].grid
    other = next((t for t in tracks if not tasks.same_grid(first, t.grid)), None)
    if other is None:
        return first
    told = "; ".join(f"{t.id} {t.grid or 'none'}" for t in (tracks[0], other))
    raise UserError(
        f"the tracks have several grids ({told}), and task.area and task.region are places on "
        "one; set those of others aside with `cli split --test-ids`, or convert onto one grid"
    )


def share(t: TrainSettings, devices: int) -> int:
    """Windows of each batch that every one of so many devices has. Raises UserError."""
    if t.batch_size % devices:
        raise UserError(
            f"training.batch_size {t.batch_size} cannot be shared among {devices} devices; "
            "use a multiple of that"
        )
    return t.batch_size // devices


def refuse_shared_cpu(t: TrainSettings) -> None:
    """Raises UsageError for several devices where there is no GPU, unless CPUs were asked for."""
    if t.devices > 1 and t.device == "auto" and checkpoint.usable_device("auto").type == "cpu":
        raise UsageError(
            f"training.devices is {t.devices}, and torch finds no GPU here; leave it (and "
            "--devices) out to train on the CPU, or add --set training.device=cpu for so many "
            "processes that share it"
        )


def refuse_moving(task: tasks.Task, t: TrainSettings) -> None:
    """Raises UserError for crops or turned frames of a task that is of one place."""
    if task.located and (t.patch_size or t.augment):
        raise UserError(
            "task.area and task.region are places, which neither move nor turn: "
            "set training.patch_size to null and training.augment to false"
        )


def refuse_turning(channels: Sequence[Mapping[str, Any]], t: TrainSettings) -> None:
    """Raises UserError for turned frames of winds, whose numbers would point elsewhere."""
    winds = [channel["name"] for channel in channels if is_wind(channel)]
    if winds and t.augment:
        raise UserError(
            f"training.augment turns and mirrors frames, after which the winds {few(winds)} "
            "would point the wrong way; set training.augment to false"
        )


def say_mirrored(task: tasks.Task, tracks: Sequence[Track], t: TrainSettings) -> None:
    """Say that augmentation makes storms spin the other way, or that tracks do so by themselves.

    Only for forecasts, which must know the spin, of tracks whose hemisphere is known: storms'.
    """
    if task.kind != "forecast":
        return
    known = Counter(track.attrs.get("hemisphere") for track in tracks)
    north, south = known["north"], known["south"]
    if t.augment is True and (north or south):
        say(
            "training.augment mirrors half of the samples, in which storms spin as in the other "
            "hemisphere; training.augment=rotations only turns them"
        )
    elif north and south:
        say(
            f"of the training tracks {north} are of the northern hemisphere and {south} of the "
            "southern one, where storms spin the other way: one model learns both"
        )


def is_wind(channel: Mapping[str, Any]) -> bool:
    """Whether it is one component of a vector, by its standard name, or else its name and unit."""
    if COMPONENT.search(str(channel.get("standard_name", ""))):
        return True
    named = WIND.fullmatch(str(channel["name"]).lower())
    return bool(named) and channel.get("units", "") in ("", *SPEEDS)


def one_step(tracks: Sequence[Track], window: int) -> int:
    """The time step of a forecast, in seconds, of the tracks that have windows of that length.

    Raises UserError where they have several.
    """
    by_step: dict[int, list[str]] = {}
    for track in tracks:
        if len(track.windows(window)):
            by_step.setdefault(usual_step(track.times), []).append(track.id)
    if len(by_step) > 1:
        told = "; ".join(
            f"{step / 3600:g} h in {few(ids)}" for step, ids in sorted(by_step.items())
        )
        raise UserError(
            f"the tracks have several time steps ({told}), and a forecast is of one; "
            "set those of the others aside with `cli split --test-ids`, or convert those of one "
            "step alone, with --ids"
        )
    return next(iter(by_step), 0)
