"""Run + a new typhoon -> NetCDF, Zarr or GeoTIFFs, pictures, animations.

enhance: the frames as they are, made finer than anything the model has seen (5 km -> 1.25 km).
check: the frames made coarse, restored, and compared with what they were.

One frame is in memory at a time, and of its features one tile's. What is done is kept until all is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pipeline import checkpoint, ensemble, inputs, metrics, software, tiling
from pipeline.answers import Answers
from pipeline.checkpoint import Checkpoint
from pipeline.ensemble import Member
from pipeline.errors import UsageError
from pipeline.familiarity import Outside
from pipeline.interrupts import told_to_stop
from pipeline.maker import Done, Maker, refuse_stopping
from pipeline.outputs import formats, geotiff, unfinished
from pipeline.outputs.formats import Format
from pipeline.outputs.layout import Layout, stamp
from pipeline.outputs.unfinished import Unfinished
from pipeline.pictures import Palette
from pipeline.product import ENSEMBLE, Mode, Product, about
from pipeline.progress import progress, say
from pipeline.scenes import Shots
from pipeline.sources.options import NONE, Options

Movie = Literal["mp4", "gif"]


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
    # check: by method, the model first; of an ensemble too, the CRPS; enhance: empty
    scores: dict[str, dict[str, float]]
    units: dict[str, str]  # of the scores


def infer(
    run: Path,
    input: Path,
    out: Path,
    *,
    mode: Mode = "enhance",
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
) -> Inference:
    """Use a run's model on one typhoon or gridded field: raw files or a folder of them, or a store.

    out: a .nc file, a .zarr or a folder of GeoTIFFs; pictures go into the folder beside it that has
    its name, and so are animations named. format: where the ending of `out` shall not decide.
    members: how many sets of the run's weights make an ensemble; 0: none. id: which typhoon, where
    there are several. options: how raw gridded files are to be read, where they differ from those
    trained on. tile: x pixels; a smaller one needs less memory and more time. pictures: how
    many, evenly spread; or "all", "none", or UTC hours as in "2021071900,2021071912". animations:
    of all frames, unless there is only one.

    Raises UserError for bad input. Stopped, or when the disk refuses (OSError), the frames done are
    kept in a hidden folder for the next time, and an output that was there before is untouched.
    """
    form = formats.chosen(out, format)
    movies = [out.with_suffix(f".{kind}") for kind in animations]
    trained = checkpoint.load(checkpoint.in_run(run, which))
    formats.refuse_place(form, out, movies)
    if tile < 1:
        raise UsageError(f"tile is {tile} pixels; expected 1 or more, {tiling.TILE} is usual")
    if members == 1 or members < 0:
        raise UsageError(f"an ensemble of {members}: expected 2 or more")
    footage = inputs.opened(input, id, trained.data.channels, options)
    form.refuse_others(out, footage.id)
    folder = formats.beside(out)
    if picked(pictures, footage.times, range(len(footage.times))):  # a bad wish is refused now
        formats.refuse_strangers(folder, footage.id)
    crew = ensemble.members(run, which, members) if members else []
    answers = Answers(trained, device, tile)
    product = Product.of(trained, footage, mode, answers.rows[1], [each.name for each in crew])
    form.refuse_unfit(footage, product)

    maker = Maker(footage, product, answers, crew, device, Outside(trained.data))
    name = run.resolve().name
    asked = f"--mode {mode}" + (f" --ensemble {members}" if members else "")
    with unfinished.opened(out, depends(run, which, crew, maker)) as parts:
        if parts.changed:
            say(f"{out}: begun anew, since {', '.join(parts.changed)} changed")
        with told_to_stop() as stopping:
            done = maker.made(parts, stopping)
            unlike = maker.unlike(done.kept)
            attrs = {
                **about(trained, footage, product, unlike),
                "checkpoint": f"{name}/checkpoints/{which}.ckpt",
                "history": f"{software()}: cli infer {name} {input.resolve().name} {asked}",
            }
            layout = product.layout(footage, attrs)
            written(form, layout, maker, done.kept, parts, stopping)
        movies = movies if len(done.kept) > 1 else []
        stored = partial(maker.stored, parts)
        shots = Shots(footage, answers, product, palette, out, folder, done.kept, stored)
        shots.sweep()
        files = shots.draw(picked(pictures, footage.times, done.kept), movies)
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
    )


def depends(run: Path, which: str, crew: Sequence[Member], maker: Maker) -> dict[str, Any]:
    """All that a frame of the output depends on, beside the input's frame, as JSON."""
    with checkpoint.in_run(run, which).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "version": software(),
        "torch": torch.__version__,
        "checkpoint": {which: weights},
        "ensemble": {member.name: member.digest for member in crew},
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
        notes.append(f"{footage.id} was trained on: its scores say nothing about a new typhoon")
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
        raise UsageError("--no-animation goes with neither --gif nor --mp4")
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
