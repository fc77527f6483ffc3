"""Run + a new typhoon -> NetCDF, pictures, animation.

enhance: the frames as they are, made finer than anything the model has seen (5 km -> 1.25 km).
check: the frames made coarse, restored, and compared with what they were.

One frame is in memory at a time, and of its features one tile's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline import checkpoint, inputs, metrics, netcdf, software, tiling
from pipeline.answers import MODEL, Answers, shown
from pipeline.errors import UsageError, UserError
from pipeline.inputs import Footage
from pipeline.interrupts import told_to_stop
from pipeline.metrics import Errors
from pipeline.pictures import Palette
from pipeline.product import TRUTH, Mode, Product, about
from pipeline.progress import progress
from pipeline.scenes import Shots, stamp
from pipeline.sources import FrameError


@dataclass(frozen=True)
class Inference:
    """What was written, and in check mode what it is worth."""

    file: Path
    id: str
    frames: int
    shape: tuple[int, int]  # (H, W) of the output
    problems: list[str]  # frames and files left out
    notes: list[str]
    pictures: list[Path]
    animation: Path | None
    scores: dict[str, dict[str, float]]  # check: by method, the model first; enhance: empty
    units: dict[str, str]  # of the scores


def infer(
    run: Path,
    input: Path,
    out: Path,
    *,
    mode: Mode = "enhance",
    which: str = "best",
    id: str | None = None,
    tile: int = tiling.TILE,
    device: str = "auto",
    pictures: str = "3",
    animation: Literal["mp4", "gif"] | None = "mp4",
    palette: Palette = "enhanced",
) -> Inference:
    """Use a run's model on one typhoon: a raw tree or folder, one H5 file, or a store.

    out: a .nc file; pictures go into the folder beside it that has its name, and so is the
    animation named. id: which typhoon, where there are several. tile: x pixels; a smaller one needs
    less memory and more time. pictures: how many, evenly spread; or "all", "none", or UTC hours as
    in "2021071900,2021071912". animation: of all frames, unless there is only one.

    Raises UserError for bad input. Then, and when the disk refuses (OSError), nothing is left of
    the NetCDF file, and one that was there before is untouched.
    """
    trained = checkpoint.load(checkpoint.in_run(run, which))
    refuse_out(out)
    if tile < 1:
        raise UsageError(f"tile is {tile} pixels; expected 1 or more, {tiling.TILE} is usual")
    footage = inputs.opened(input, id, trained.data.channels)
    picked(pictures, footage.times, range(len(footage.times)))  # a bad wish is refused now
    answers = Answers(trained, device, tile)
    product = Product.of(trained, footage, mode, answers.rows[1])

    name = run.resolve().name
    attrs = {
        **about(trained, footage, product),
        "checkpoint": f"{name}/checkpoints/{which}.ckpt",
        "history": f"{software()}: cli infer {name} {input.resolve().name} --mode {mode}",
    }
    with netcdf.written(out, product.layout(footage, attrs)) as writer:
        kept, problems, sums = restored(footage, answers, product, writer)
    shots = Shots(footage, answers, product, palette, out, kept)
    numbers = picked(pictures, footage.times, kept)
    movie = out.with_suffix(f".{animation}") if animation and len(kept) > 1 else None
    files = shots.draw(numbers, movie)
    notes = list(product.notes)
    if mode == "check" and footage.id in trained.data.train:
        notes.append(f"{footage.id} was trained on: its scores say nothing about a new typhoon")
    return Inference(
        file=out,
        id=footage.id,
        frames=len(kept),
        shape=product.shape,
        problems=problems,
        notes=notes,
        pictures=files,
        animation=movie,
        scores={row: errors.scores() for row, errors in sums.items()},
        units=metrics.units(product.channels[0]["units"]),
    )


def refuse_out(out: Path) -> None:
    """Before hours of work: a name and a place that can be written. Raises UserError."""
    if out.suffix != ".nc":
        raise UsageError(f"{out}: the output is a NetCDF file; give it a name that ends in .nc")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; expected the name of a file to write")
    if out.with_suffix("").is_file():
        raise UserError(f"{out.with_suffix('')}: is a file; the pictures need a folder there")
    folder = next(p for p in out.absolute().parents if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be written to; choose another place for {out.name}")


def restored(
    footage: Footage, answers: Answers, product: Product, writer: netcdf.Writer
) -> tuple[list[int], list[str], dict[str, Errors]]:
    """Every frame through the model into the file.

    Returns the numbers of the frames done, a sentence for each one left out, and the errors by
    method. Raises UserError when not one frame could be done.
    """
    checked = product.mode == "check"
    satellites = sorted(set(footage.satellites))
    kept: list[int] = []
    problems = list(footage.problems)
    sums = {row: Errors() for row in product.rows}
    # HDF5 would swallow an interrupt that comes while it writes, and leave a frame out.
    with told_to_stop() as stopping, progress("infer", len(footage.times), "frames") as advance:
        for number, time in enumerate(footage.times):
            if stopping():
                raise KeyboardInterrupt
            try:
                posed = answers.posed(footage.read(number)[None], coarsen=checked)
            except FrameError as error:
                problems.append(str(error))
                advance()
                continue
            made = {MODEL: answers.of(MODEL, posed)}
            values = {
                "time": time,
                "satellite": satellites.index(footage.satellites[number]),
                **{name: v.values[number] for name, v in footage.variables.items()},
            }
            if posed.truth is not None:
                made[product.baseline] = answers.of(product.baseline, posed)
                for row in product.rows:  # as evaluate scores: before anything is hidden
                    errors = Errors.of(made[row], posed.truth, product.peak)
                    values[f"rmse_{row}"] = errors.scores()["rmse"]
                    sums[row] += errors
                made[TRUTH] = posed.truth
            fields = {what: shown(field, posed.hidden) for what, field in made.items()}
            writer.append(
                {n: fields[what][channel] for n, channel, what, _ in product.fields()}, values
            )
            kept.append(number)
            advance(1, footage.id)
    if not kept:
        raise UserError(f"{footage.path}: not one usable frame of {footage.id}; {problems[-1]}")
    return kept, problems, sums


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
