"""What the pictures and the animation of a product show, frame by frame."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline import atomic, metrics
from pipeline import pictures as drawing
from pipeline.answers import MODEL, Answers, shown
from pipeline.credit import Credit
from pipeline.inputs import Footage
from pipeline.outputs.layout import moment, stamp
from pipeline.pictures import Palette, Panel, Scene
from pipeline.product import SPREAD, TRUTH, Product, on_a_map
from pipeline.progress import progress
from pipeline.scaling import is_rain

SMALL = 256  # pixels
MOVIE_PIXELS = (1600, 1080)  # an animation is no larger


@dataclass(frozen=True)
class Shots:
    """Draws what an output shows."""

    footage: Footage
    answers: Answers
    product: Product
    palette: Palette
    folder: Path  # of the pictures
    kept: list[int]  # the output's frames, as numbers of the footage
    # Of one frame: its fields by variable name, (H, W) with NaN where missing, and its RMSE by row.
    stored: Callable[[int], tuple[dict[str, np.ndarray], dict[str, float]]]
    credit: Credit

    def draw(self, numbers: Sequence[int], movies: Sequence[Path]) -> list[Path]:
        """A PNG of each of these frames, animations of all; returns the PNGs."""
        files: list[Path] = []
        total = len(movies) * len(self.kept) or len(numbers)
        if not total:
            return files
        with progress("draw", total, "frames") as advance:

            def scenes(of: Sequence[int], wanted: Sequence[int]) -> Iterator[Scene]:
                for number in of:
                    scene = self.scene(number)
                    if number in wanted:
                        name = f"{self.footage.id}-{stamp(self.footage.times[number])}.png"
                        files.append(drawing.panels(self.folder / name, scene))
                    yield scene
                    advance(1, self.footage.id)

            for movie in movies:  # each is drawn anew: all images of a storm take gigabytes
                shown = scenes(self.kept, [] if files else numbers)
                images = (drawing.image(scene, MOVIE_PIXELS) for scene in shown)
                drawing.animation(movie, images, credit=self.credit)
            if not movies:
                for _ in scenes(numbers, numbers):
                    pass
        return files

    def scene(self, number: int) -> Scene:
        """The first channel of one frame, with its places and numbers."""
        product, channel = self.product, self.product.channels[0]
        fields, rmse = self.stored(number)
        stored = {
            what: fields[name]
            for name, number_of_channel, what, _ in product.fields()
            if number_of_channel == 0
        }
        posed = self.answers.posed(self.footage.read(number)[None], split=product.mode == "check")
        coarse = posed.x[0, 0, 0].cpu().numpy()
        at = f"{product.pixel:g} {product.unit}"
        differences = drawing.error_look(channel, "error", self.hours)
        if product.mode == "enhance":
            baseline = shown(self.answers.of(product.baseline, posed), posed.hidden)[0]
            panels = [
                Panel(f"Input, {product.factor * product.pixel:g} {product.unit}", coarse),
                Panel(f"{product.baseline.capitalize()}, {at}", baseline),
                Panel(f"{product.model}, {at} (estimate)", stored[MODEL]),
            ]
            if product.members:
                count = len(product.members)
                panels.append(Panel(f"Spread of {count} sets of weights", stored[SPREAD], True))
                differences = spread_look(channel)
        else:
            score = {row: f"RMSE {value:.2f}" for row, value in rmse.items()}
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
            look=drawing.look(channel, self.palette, self.hours),
            errors=differences,
            extent=product.extent,
            unit=product.unit,
            zoom=self.zoom,
            origin=self.origin,
            credit=self.credit,
        )

    @property
    def hours(self) -> float | None:
        return hours_of(self.footage, self.product.channels[0])

    @property
    def origin(self) -> Literal["centre", "earth", "map"]:
        return origin_of(self.product.axes, self.product.unit)

    @property
    def zoom(self) -> drawing.Extent | None:
        """A part to show larger; of a small field none, since all of it can be seen."""
        if self.product.on_a_map and max(self.product.shape) < SMALL:
            return None
        return drawing.zoomed(self.product.extent, 0.2 if self.product.mode == "enhance" else 0.3)

    def title(self, number: int) -> str:
        when = f"{moment(self.footage.times[number]):%Y-%m-%d %H:%M UTC}"
        if self.product.on_a_map:
            return when
        return f"{self.footage.id}    {when}    {self.footage.satellites[number]}"

    def subtitle(self, number: int) -> str:
        """Where the storm was and how strong, as far as the source knows; of rain, how long."""
        if self.product.on_a_map:
            return f"rain of {self.hours:g} h" if self.hours else ""
        return best_track(self.footage, number) or "no best track"


def sweep(id: str, out: Path, folder: Path) -> None:
    """Remove what a killed process left where it was drawing; call it within the claim."""
    atomic.sweep(folder, f"{glob.escape(id)}-*.png")
    for ending in drawing.MOVIES:
        movie = out.with_suffix(ending)
        atomic.sweep(movie.parent, glob.escape(movie.name))


def hours_of(footage: Footage, channel: Mapping[str, Any]) -> float | None:
    """That rain was accumulated over, where that is known."""
    hours = footage.attrs.get("accumulation_hours")
    return float(hours) if hours and is_rain(channel) else None


def origin_of(
    axes: Mapping[str, Mapping[str, Any]], unit: str
) -> Literal["centre", "earth", "map"]:
    """What the axes of a picture count from."""
    if not on_a_map(axes):
        return "centre"
    return "earth" if unit == "deg" else "map"


def best_track(footage: Footage, number: int) -> str:
    """Where the storm of a frame was and how strong, as far as the source knows."""
    known = {
        name: float(variable.values[number])
        for name, variable in footage.variables.items()
        if np.isfinite(variable.values[number])
    }
    said = []
    if {"latitude", "longitude"} <= known.keys():
        said.append(f"centre {position(known['latitude'], known['longitude'])}")
    if "central_pressure" in known:
        said.append(f"{known['central_pressure']:.0f} hPa")
    if known.get("max_wind"):  # 0 stands for "not analysed"
        said.append(f"{known['max_wind']:.0f} kt")
    return "    ".join(said)


def spread_look(channel: Mapping[str, Any]) -> drawing.Look:
    """For standard deviations of one channel: from 0, the same for every picture."""
    from matplotlib import colormaps

    low, high = metrics.span(channel)
    most = (high - low) / (20 if is_rain(channel) else 90)  # 2 K for infrared
    label = f"standard deviation [{channel['units']}]"
    return drawing.Look(colormaps["magma"], 0.0, most, label, "neither")


def position(latitude: float, longitude: float) -> str:
    east = (longitude + 180) % 360 - 180
    return (
        f"{abs(latitude):.1f}°{'N' if latitude >= 0 else 'S'} "
        f"{abs(east):.1f}°{'E' if east >= 0 else 'W'}"
    )
