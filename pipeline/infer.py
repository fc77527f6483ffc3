"""Run + a new typhoon -> NetCDF, pictures, animation.

enhance: the frames as they are, made finer than anything the model has seen (5 km -> 1.25 km).
check: the frames made coarse, restored, and compared with what they were.

One frame is in memory at a time, and of its features one tile's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline import checkpoint, inputs, metrics, netcdf, software, tiling
from pipeline import pictures as drawing
from pipeline.checkpoint import Checkpoint
from pipeline.errors import UsageError, UserError
from pipeline.inputs import Footage
from pipeline.metrics import Errors
from pipeline.pictures import Palette, Panel, Scene
from pipeline.product import MODEL, TRUTH, Mode, Product, about
from pipeline.progress import progress
from pipeline.sources import FrameError

MOVIE_PIXELS = (1600, 1080)  # an animation is no larger


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
    restorer = Restorer(trained, mode, device, tile)
    product = Product.of(trained, footage, mode, restorer.baseline)

    name = run.resolve().name
    attrs = {
        **about(trained, footage, product),
        "checkpoint": f"{name}/checkpoints/{which}.ckpt",
        "history": f"{software()}: cli infer {name} {input.resolve().name} --mode {mode}",
    }
    with netcdf.written(out, product.layout(footage, attrs)) as writer:
        kept, problems, sums = restored(footage, restorer, product, writer)
    shots = Shots(footage, restorer, product, palette, out, kept)
    numbers = picked(pictures, footage.times, kept)
    movie = out.with_suffix(f".{animation}") if animation and len(kept) > 1 else None
    files = shots.draw(numbers, movie)
    units = product.channels[0]["units"]
    return Inference(
        file=out,
        id=footage.id,
        frames=len(kept),
        shape=product.shape,
        problems=problems,
        notes=product.notes,
        pictures=files,
        animation=movie,
        scores={row: errors.scores() for row, errors in sums.items()},
        units=metrics.units(units),
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


@dataclass(frozen=True)
class Posed:
    """One frame as a problem; physical units, each (1, 1, C, rows, columns)."""

    x: Tensor  # NaN where missing
    filled: Tensor  # x normalised, without NaN
    hidden: Tensor  # bool, of the output's shape: nothing of this pixel was seen
    truth: Tensor | None  # check only


class Restorer:
    """The model and its baseline, on one frame at a time."""

    def __init__(self, trained: Checkpoint, mode: Mode, device: str, tile: int) -> None:
        self.mode, self.tile = mode, tile
        self.task, self.scaling = trained.task, trained.scaling
        self.factor = trained.settings.task.factor
        self.device = checkpoint.usable_device(device)
        self.network = trained.model(self.device)
        self.baseline, self.interpolate = next(iter(self.task.baselines().items()))

    @torch.inference_mode()
    def posed(self, frame: np.ndarray) -> Posed:
        """frame: (C, H, W) float32, physical units, NaN where missing."""
        frames = torch.from_numpy(frame)[None, None].to(self.device)
        x, truth = self.task.split(frames) if self.mode == "check" else (frames, None)
        f = self.factor
        hidden = x.isnan().repeat_interleave(f, -2).repeat_interleave(f, -1)
        return Posed(x, self.scaling.fill(self.scaling.normalise(x)), hidden, truth)

    @torch.inference_mode()
    def by_model(self, posed: Posed) -> Tensor:
        """(1, 1, C, H, W) physical units, no NaN."""
        try:
            answer = tiling.tiled(
                self.network,
                posed.filled,
                scale=self.factor,
                reach=self.network.reach,  # type: ignore[arg-type]  # a Model has one
                tile=self.tile,
            )
        except torch.cuda.OutOfMemoryError:
            raise UserError(
                f"{self.device}: out of memory with tiles of {self.tile} pixels; "
                f"try --tile {max(1, self.tile // 2)}"
            ) from None
        return self.scaling.restore(answer)

    @torch.inference_mode()
    def by_baseline(self, posed: Posed) -> Tensor:
        return self.scaling.restore(self.interpolate(posed.filled))


def shown(values: Tensor, hidden: Tensor) -> np.ndarray:
    """(C, H, W) float32 for people: NaN where nothing was seen, so nothing is invented."""
    return values.masked_fill(hidden, torch.nan)[0, 0].cpu().numpy()


def restored(
    footage: Footage, restorer: Restorer, product: Product, writer: netcdf.Writer
) -> tuple[list[int], list[str], dict[str, Errors]]:
    """Every frame through the model into the file.

    Returns the numbers of the frames done, a sentence for each one left out, and the errors by
    method. Raises UserError when not one frame could be done.
    """
    peak = product.channels[0]["valid_max"] - product.channels[0]["valid_min"]
    satellites = sorted(set(footage.satellites))
    kept: list[int] = []
    problems = list(footage.problems)
    sums = {row: Errors() for row in product.rows}
    with progress("infer", len(footage.times), "frames") as advance:
        for number, time in enumerate(footage.times):
            try:
                posed = restorer.posed(footage.read(number))
            except FrameError as error:
                problems.append(str(error))
                advance()
                continue
            answers = {MODEL: restorer.by_model(posed)}
            values = {
                "time": time,
                "satellite": satellites.index(footage.satellites[number]),
                **{name: v.values[number] for name, v in footage.variables.items()},
            }
            if posed.truth is not None:
                answers[product.baseline] = restorer.by_baseline(posed)
                for row in product.rows:  # as evaluate scores: before anything is hidden
                    errors = Errors.of(answers[row], posed.truth, peak)
                    values[f"rmse_{row}"] = errors.scores()["rmse"]
                    sums[row] += errors
                answers[TRUTH] = posed.truth
            fields = {what: shown(values, posed.hidden) for what, values in answers.items()}
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


def stamp(time: int, form: str = "%Y%m%d%H") -> str:
    return datetime.fromtimestamp(int(time), UTC).strftime(form)


@dataclass(frozen=True)
class Shots:
    """Draws what a finished file shows."""

    footage: Footage
    restorer: Restorer
    product: Product
    palette: Palette
    file: Path
    kept: list[int]  # the file's frames, as numbers of the footage

    def draw(self, numbers: Sequence[int], movie: Path | None) -> list[Path]:
        """A PNG of each of these frames, an animation of all; returns the PNGs."""
        files: list[Path] = []
        if not numbers and not movie:
            return files
        total = len(self.kept) if movie else len(numbers)
        with netcdf.reading(self.file) as variables, progress("draw", total, "frames") as advance:

            def scenes(of: Sequence[int]) -> Iterator[Scene]:
                for number in of:
                    scene = self.scene(number, variables)
                    if number in numbers:
                        name = f"{self.footage.id}-{stamp(self.footage.times[number])}.png"
                        path = self.file.with_suffix("") / name
                        files.append(drawing.panels(path, scene))
                    yield scene
                    advance(1, self.footage.id)

            if movie:
                images = (drawing.image(scene, MOVIE_PIXELS) for scene in scenes(self.kept))
                drawing.animation(movie, images)
            else:
                for _ in scenes(numbers):
                    pass
        return files

    def scene(self, number: int, variables: Mapping[str, Any]) -> Scene:
        """The first channel of one frame, with its places and numbers."""
        product, place = self.product, self.kept.index(number)
        channel = product.channels[0]
        stored = {
            what: np.asarray(variables[name][place])
            for name, number_of_channel, what, _ in product.fields()
            if number_of_channel == 0
        }
        posed = self.restorer.posed(self.footage.read(number))
        coarse = posed.x[0, 0, 0].cpu().numpy()
        at = f"{product.pixel:g} {product.unit}"
        if product.mode == "enhance":
            baseline = shown(self.restorer.by_baseline(posed), posed.hidden)[0]
            panels = [
                Panel(f"Input, {product.factor * product.pixel:g} {product.unit}", coarse),
                Panel(f"{product.baseline.capitalize()}, {at}", baseline),
                Panel(f"{product.model}, {at} (estimate)", stored[MODEL]),
            ]
        else:
            score = {
                row: f"RMSE {float(variables[f'rmse_{row}'][place]):.2f}" for row in product.rows
            }
            units = channel["units"]
            panels = [
                Panel(f"Coarse input, {product.factor * product.pixel:g} {product.unit}", coarse),
                Panel(
                    f"{product.baseline.capitalize()}, {score[product.baseline]} {units}",
                    stored[product.baseline],
                ),
                Panel(f"{product.model}, {score[MODEL]} {units}", stored[MODEL]),
                Panel(f"Truth, {at}", stored[TRUTH]),
                Panel(f"{product.model} minus truth", stored[MODEL] - stored[TRUTH], error=True),
            ]
        return Scene(
            title=self.title(number),
            subtitle=self.subtitle(number),
            panels=panels,
            look=drawing.look(channel, self.palette),
            errors=drawing.error_look(channel, "error"),
            extent=product.extent,
            unit=product.unit,
            zoom=drawing.zoomed(product.extent, 0.2 if product.mode == "enhance" else 0.3),
        )

    def title(self, number: int) -> str:
        when = stamp(self.footage.times[number], "%Y-%m-%d %H:%M UTC")
        return f"{self.footage.id}    {when}    {self.footage.satellites[number]}"

    def subtitle(self, number: int) -> str:
        """Where the storm was and how strong, as far as the source knows."""
        known = {
            name: float(variable.values[number])
            for name, variable in self.footage.variables.items()
            if np.isfinite(variable.values[number])
        }
        said = []
        if {"latitude", "longitude"} <= known.keys():
            said.append(f"centre {position(known['latitude'], known['longitude'])}")
        if "central_pressure" in known:
            said.append(f"{known['central_pressure']:.0f} hPa")
        if known.get("max_wind"):  # 0 stands for "not analysed"
            said.append(f"{known['max_wind']:.0f} kt")
        return "    ".join(said) or "no best track"


def position(latitude: float, longitude: float) -> str:
    east = (longitude + 180) % 360 - 180
    return (
        f"{abs(latitude):.1f}°{'N' if latitude >= 0 else 'S'} "
        f"{abs(east):.1f}°{'E' if east >= 0 else 'W'}"
    )
