"""Run + a new typhoon -> NetCDF, Zarr or GeoTIFFs, pictures, animations.

enhance: the frames as they are, made finer than anything the model has seen (5 km -> 1.25 km).
check: the frames made coarse, restored, and compared with what they were.
One frame is in memory at a time, and of its features one tile's. What is done is kept until all is.

forecast: the frames that come after the last ones. check, of a forecast: beside those that came.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pipeline import checkpoint, ensemble, inputs, metrics, room, software, start, tiling
from pipeline.answers import Answers
from pipeline.checkpoint import Checkpoint
from pipeline.credit import Credit
from pipeline.ensemble import Member
from pipeline.errors import UsageError, UserError
from pipeline.familiarity import Outside
from pipeline.inputs import Footage
from pipeline.interrupts import told_to_stop
from pipeline.lead_scenes import LeadShots
from pipeline.maker import Done, Maker, refuse_stopping
from pipeline.outlook import Outlook
from pipeline.outputs import formats, geotiff, unfinished
from pipeline.outputs.formats import Format
from pipeline.outputs.layout import Layout, minute, stamp
from pipeline.outputs.unfinished import Unfinished
from pipeline.pictures import Palette
from pipeline.product import ENSEMBLE, Mode, Product, about
from pipeline.progress import progress, say
from pipeline.scenes import Shots, sweep
from pipeline.sources.options import NONE, Options
from pipeline.tasks import Forecast

Movie = Literal["mp4", "gif"]
TRAINED_ON = "{} was trained on: its scores say nothing about a new typhoon"


@dataclass(frozen=True)
class Inference:
    """What was written, and in check mode what it is worth."""

    file: Path  # or folder
    format: str  # NetCDF, Zarr or GeoTIFF
    id: str
    frames: int
    shape: tuple[int, int]  # (H, W) of the output
    problems: list[str]  # frames and files left out
    notes: list[str]
    pictures: list[Path]
    animations: list[Path]
    # check: by method, the model first; of an ensemble too, the CRPS; else empty
    scores: dict[str, dict[str, float]]
    units: dict[str, str]  # of the scores
    leads: tuple[dict[str, dict[str, float]], ...] = ()  # of a forecast: by lead time, as scores
    step: int = 0  # of a forecast, seconds
    since: str = ""  # of a forecast: the time that it starts from
    mode: str = ""
    times: tuple[str, str] = ("", "")  # of the first and the last frame
    bytes: int = 0  # of the output without pictures; of a dry run before compression
    checkable: bool = True  # whether a check of the same input has what it is held against


@dataclass(frozen=True)
class Order:
    """What was asked for, and may be made."""

    run: Path
    trained: Checkpoint
    which: str
    footage: Footage
    input: Path
    out: Path
    form: Format
    folder: Path  # of the pictures
    pictures: str
    movies: list[Path]
    palette: Palette
    members: list[Member]
    tile: int
    device: str
    dry_run: bool = False

    def history(self, asked: str) -> dict[str, str]:
        """Attributes that say how an output was made."""
        name, read = self.run.resolve().name, checkpoint.in_run(self.run, self.which)
        asked += f" --ensemble {len(self.members)}" if self.members else ""
        return {
            "checkpoint": f"{name}/{read.relative_to(self.run).as_posix()}",
            "history": f"{software()}: cli infer {name} {self.input.resolve().name} {asked}",
        }

    def credit(self, title: str) -> Credit:
        """For the data that pictures of that title show, and what was trained on."""
        return Credit.of(self.footage.attrs, self.trained.data.attrs, title=title)

    def picked(self, times: np.ndarray) -> list[int]:
        """The frames of an output to draw, all of them being made. Raises UsageError, UserError."""
        numbers = picked(self.pictures, times, range(len(times)))
        if numbers:
            formats.refuse_strangers(self.folder, self.footage.id)
        return numbers


def infer(
    run: Path,
    input: Path,
    out: Path,
    *,
    mode: Mode | None = None,
    at: str | None = None,
    steps: int | None = None,
    format: formats.Name | None = None,
    which: str = "best",
    members: int = 0,
    id: str | None = None,
    options: Options = NONE,
    tile: int = tiling.TILE,
    device: str = "auto",
    pictures: str = "3",
    animations: Sequence[Movie] = ("mp4",),
    palette: Palette = "enhanced",
    dry_run: bool = False,
) -> Inference:
    """Use a run's model on one typhoon or gridded field: raw files or a folder of them, or a store.

    out: a .nc file, a .zarr or a folder of GeoTIFFs; pictures go into the folder beside it that has
    its name, and so are animations named. mode: enhance or check, of a model that forecasts
    forecast or check; without it the first. at: the time to forecast from, YYYYMMDDHH; without it
    the latest that can be. steps: frames to forecast, if not as many as trained. format: where the
    ending of `out` shall not decide. members: how many sets of the run's weights make an ensemble;
    0: none. id: which typhoon, where there are several. options: how raw gridded files are to be
    read, where they differ from those trained on. tile: x pixels; a smaller one needs less memory
    and more time. pictures: how many, evenly spread; or "all", "none", or UTC hours as in
    "2021071900,2021071912". animations: of all frames, unless there is only one. dry_run: say what
    would be written, of frames that can all be read; nothing is.

    Raises UserError for bad input. Stopped, or when the disk refuses (OSError), the frames done are
    kept in a hidden folder for the next time, and an output that was there before is untouched; a
    forecast is made at once, and nothing is kept of it.
    """
    form = formats.chosen(out, format)
    movies = [out.with_suffix(f".{kind}") for kind in animations]
    trained = checkpoint.load(checkpoint.in_run(run, which))
    forecasts = isinstance(trained.task, Forecast)
    chosen = mode_of(mode, forecasts, at, steps)
    formats.refuse_place(form, out, movies)
    if tile < 1:
        raise UsageError(f"tile is {tile} pixels; expected 1 or more, {tiling.TILE} is usual")
    if members == 1 or members < 0:
        raise UsageError(f"an ensemble of {members}: expected 2 or more, or none")
    footage = inputs.opened(input, id, trained.data.channels, options)
    form.refuse_others(out, footage.id)
    order = Order(
        run=run,
        trained=trained,
        which=which,
        footage=footage,
        input=input,
        out=out,
        form=form,
        folder=formats.beside(out),
        pictures=pictures,
        movies=movies,
        palette=palette,
        members=ensemble.members(run, which, members) if members else [],
        tile=tile,
        device=device,
        dry_run=dry_run,
    )
    return forecast(order, chosen, at, steps) if forecasts else refine(order, chosen)


def mode_of(mode: Mode | None, forecasts: bool, at: str | None, steps: int | None) -> Mode:
    """What to do with a model. Raises UsageError for what it is not for."""
    if forecasts and mode == "enhance":
        raise UsageError(
            "--mode enhance: this model forecasts, and makes nothing finer; take forecast or check"
        )
    if steps is not None and steps < 1:
        raise UsageError(f"{steps} steps ahead: expected 1 or more")
    if forecasts:
        return mode or "forecast"
    for option, given in (
        ("--mode forecast", mode == "forecast"),
        ("--at", at),
        ("--steps", steps),
    ):
        if given:
            raise UsageError(
                f"{option} is for forecasts, and this model makes frames finer; leave it out"
            )
    return mode or "enhance"


def refine(order: Order, mode: Mode) -> Inference:
    """Every frame made finer, or made coarse and restored."""
    trained, footage, form, out = order.trained, order.footage, order.form, order.out
    order.picked(footage.times)  # a bad wish is refused now
    answers = Answers(trained, order.device, order.tile)
    names = [each.name for each in order.members]
    product = Product.of(trained, footage, mode, answers.rows[1], names)
    form.refuse_unfit(footage, product.unit)
    maker = Maker(footage, product, answers, order.members, order.device, Outside(trained.data))
    if order.dry_run:
        fields, unlike = len(list(product.fields())), maker.unlike(range(len(footage.times)))
        notes = [*product.notes, *unlike]
        return ahead(order, mode, footage.times, product.shape, fields, notes)

    with unfinished.opened(out, depends(order, maker)) as parts:
        if parts.changed:
            say(f"{out}: begun anew, since {', '.join(parts.changed)} changed")
        with told_to_stop() as stopping:
            done = maker.made(parts, stopping)
            unlike = maker.unlike(done.kept)
            attrs = {
                **about(trained, footage, product, unlike),
                **order.history(f"--mode {mode}"),
            }
            layout = product.layout(footage, attrs)
            written(form, layout, maker, done.kept, parts, stopping)
        movies = order.movies if len(done.kept) > 1 else []
        stored = partial(maker.stored, parts)
        shots = Shots(
            footage,
            answers,
            product,
            order.palette,
            order.folder,
            done.kept,
            stored,
            order.credit(attrs["title"]),
        )
        sweep(footage.id, out, order.folder)
        files = shots.draw(picked(order.pictures, footage.times, done.kept), movies)
    scores = done.scores(product)
    return Inference(
        file=out,
        format=form.title,
        id=footage.id,
        frames=len(done.kept),
        shape=product.shape,
        problems=done.problems,
        notes=[*product.notes, *unlike, *noted(form, trained, maker, done)],
        pictures=files,
        animations=movies,
        scores=scores,
        units=metrics.units(product.channels[0]["units"], next(iter(scores.values()), ())),
        mode=mode,
        times=first_and_last(footage.times[done.kept]),
        bytes=room.taken(out),
    )


def forecast(order: Order, mode: Mode, at: str | None, steps: int | None) -> Inference:
    """The frames after a time; in check mode beside those that came."""
    trained, footage, form, out = order.trained, order.footage, order.form, order.out
    answers = Answers(trained, order.device, order.tile, steps)
    task, known = answers.task, mode == "check"
    assert isinstance(task, Forecast)
    begun = start.found(footage, trained, task, known=known, at=at)
    view = Outlook(trained, footage, task, begun, mode, answers.rows[1:], order.members)
    if form.name == "geotiff" and view.moves:
        raise UserError(
            f"{footage.path}: where {footage.id} will be is not forecast: a GeoTIFF would lie "
            "nowhere; take --format netcdf or zarr"
        )
    form.refuse_unfit(footage, view.place.unit)
    drawn = order.picked(begun.valid)
    if order.dry_run:
        notes = [*start.notes(begun, footage, at, known), *view.unlike()]
        made_now = ahead(order, mode, begun.valid, view.shape, len(list(view.fields())), notes)
        return replace(made_now, step=begun.step, since=minute(begun.complete))
    depends = {"forecast": footage.id, "from": begun.reference}  # all is made at once
    with unfinished.opened(out, depends) as parts:
        if parts.changed:
            say(f"{out}: begun anew, since {', '.join(parts.changed)} changed")
        with told_to_stop() as stopping:
            made = view.made(answers, order.device)
            unlike = view.unlike()
            asked = f"--mode {mode} --at {stamp(begun.reference)}"
            asked += f" --steps {steps}" if steps else ""
            attrs = {**view.about(made, unlike), **order.history(asked)}
            leads = range(len(begun.valid))
            with form.written(parts.result, view.layout(attrs), len(leads)) as writer:
                for lead in leads:
                    if stopping():
                        raise KeyboardInterrupt
                    writer.append(view.frame(made, lead), view.values(made, lead))
            parts.publish()
        sweep(footage.id, out, order.folder)
        shots = LeadShots(view, made, order.palette, order.folder, order.credit(attrs["title"]))
        files = shots.draw(drawn, order.movies)
    by_lead = tuple(made.scores())
    scores = made.total()
    trained_on = known and footage.id in trained.data.train
    return Inference(
        file=out,
        format=form.title,
        id=footage.id,
        frames=len(leads),
        shape=view.shape,
        problems=[*footage.problems, *begun.problems],
        notes=[
            *start.notes(begun, footage, at, known),
            *unlike,
            *([TRAINED_ON.format(footage.id)] if trained_on else []),
        ],
        pictures=files,
        animations=order.movies,
        scores=scores,
        units=metrics.units(view.channels[0]["units"], next(iter(scores.values()), ())),
        leads=by_lead,
        step=begun.step,
        since=minute(begun.complete),
        mode=mode,
        times=first_and_last(begun.valid),
        bytes=room.taken(out),
        checkable=known or came(footage, trained, task),
    )


def came(footage: Footage, trained: Checkpoint, task: Forecast) -> bool:
    """Whether a forecast from any of a footage's times can be held against the frames after it."""
    try:
        start.found(footage, trained, task, known=True)
    except UserError:
        return False
    return True


def ahead(
    order: Order,
    mode: Mode,
    times: np.ndarray,
    shape: tuple[int, int],
    fields: int,
    notes: Sequence[str],
) -> Inference:
    """What would be written: frames of those times, each of so many fields."""
    drawn = order.picked(times)
    return Inference(
        file=order.out,
        format=order.form.title,
        id=order.footage.id,
        frames=len(times),
        shape=shape,
        problems=list(order.footage.problems),
        notes=list(notes),
        pictures=[order.folder / f"{order.footage.id}-{stamp(times[n])}.png" for n in drawn],
        animations=order.movies if len(times) > 1 else [],
        scores={},
        units={},
        mode=mode,
        times=first_and_last(times),
        bytes=4 * len(times) * fields * math.prod(shape),
    )


def first_and_last(times: np.ndarray) -> tuple[str, str]:
    """For people; times: seconds since 1970."""
    return minute(times[0]), minute(times[-1])


def depends(order: Order, maker: Maker) -> dict[str, Any]:
    """All that a frame of the output depends on, beside the input's frame, as JSON."""
    with checkpoint.in_run(order.run, order.which).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "version": software(),
        "torch": torch.__version__,
        "checkpoint": {order.which: weights},
        "ensemble": {member.name: member.digest for member in order.members},
        "typhoon": maker.footage.id,
        "mode": maker.product.mode,
        "tile": maker.answers.tile,
        "device": maker.answers.device.type,
    }


def written(
    form: Format,
    layout: Layout,
    maker: Maker,
    kept: Sequence[int],
    parts: Unfinished,
    stopping: Callable[[], bool],
) -> None:
    """All parts into the output, in its place."""
    # HDF5 would swallow an interrupt that comes while it writes, and leave a frame out.
    with (
        form.written(parts.result, layout, len(kept)) as writer,
        progress("write", len(kept), "frames") as advance,
    ):
        for number in kept:
            refuse_stopping(stopping, parts, len(kept))
            part = maker.taken(parts, number)
            writer.append(part.fields, maker.values(number, part))
            advance()
    parts.publish()


def noted(form: Format, trained: Checkpoint, maker: Maker, done: Done) -> list[str]:
    """What to know of a finished output, beside what it says itself."""
    footage, product = maker.footage, maker.product
    notes = []
    if product.mode == "check" and footage.id in trained.data.train:
        notes.append(TRAINED_ON.format(footage.id))
    if product.rows and done.flagged:
        notes.append(
            f"{done.flagged} of {len(done.kept)} frames are flagged (more than "
            f"{100 * footage.settings.max_missing:g} % missing) and not scored"
        )
    if form.name == "geotiff" and (bare := geotiff.unplaced(footage, done.kept)):
        notes.append(f"Frames without best track: {bare}; their GeoTIFFs lie nowhere (no CRS)")
    if ENSEMBLE in product.rows and done.flagged < len(done.kept):
        scores, unit = done.ensemble.scores(), product.channels[0]["units"]
        notes.append(
            f"The {len(product.members)} members ({', '.join(product.members)}) differ by "
            f"{scores['spread']:.2f} {unit}, the error of their mean is {scores['skill']:.2f} "
            f"{unit}: a spread-skill ratio of {scores['spread_skill_ratio']:.2f}, and 1 is right"
        )
    return notes


def wanted(*, mp4: bool, gif: bool, none: bool) -> tuple[Movie, ...]:
    """The animations that flags ask for: an MP4 where they say nothing. Raises UsageError."""
    if none and (mp4 or gif):
        raise UsageError("--no-animation goes with neither --gif nor --mp4; leave it out, or them")
    asked: tuple[Movie, ...] = (*(("mp4",) if mp4 else ()), *(("gif",) if gif else ()))
    return () if none else asked or ("mp4",)


def picked(wish: str, times: np.ndarray, kept: Sequence[int]) -> list[int]:
    """The frames to draw, of those in `kept`: "3", "all", "none", or UTC hours YYYYMMDDHH.

    Raises UsageError for anything else, and for an hour that is not among `times`.
    """
    words = wish.replace(",", " ").split()
    if words == ["all"]:
        return list(kept)
    if words == ["none"]:
        return []
    if len(words) == 1 and words[0].isdecimal() and len(words[0]) < 10:
        places = np.linspace(0, len(kept) - 1, min(int(words[0]), len(kept)))
        return [kept[round(place)] for place in places]
    hours = {stamp(time): number for number, time in enumerate(times)}
    if unknown := [word for word in words or [wish] if word not in hours]:
        raise UsageError(
            f"pictures {', '.join(unknown)}: expected how many, all, none, or hours between "
            f"{min(hours)} and {max(hours)} (UTC, YYYYMMDDHH) that have a frame"
        )
    return [hours[word] for word in words if hours[word] in kept]
