"""What the pictures and the animation of a forecast show, lead time by lead time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline import pictures as drawing
from pipeline.answers import MODEL
from pipeline.credit import Credit
from pipeline.outlook import Made, Outlook
from pipeline.outputs.layout import lasting, minute, stamp
from pipeline.pictures import Look, Palette, Panel, Scene
from pipeline.product import SPREAD, TRUTH
from pipeline.progress import progress
from pipeline.reporting.words import after
from pipeline.scenes import MOVIE_PIXELS, best_track, hours_of, origin_of, spread_look

FPS = 2  # images per second: few of them, and each is to be compared with the last


@dataclass(frozen=True)
class LeadShots:
    """Draws a forecast, its first channel."""

    outlook: Outlook
    made: Made
    palette: Palette
    folder: Path  # of the pictures
    credit: Credit

    def draw(self, leads: Sequence[int], movies: Sequence[Path]) -> list[Path]:
        """A PNG of each of these leads, animations of past and forecast; returns the PNGs."""
        files: list[Path] = []
        total = len(leads) + len(movies) * (len(self.made.past) + len(self.outlook.start.valid))
        if not total:
            return files
        id = self.outlook.footage.id
        with progress("draw", total, "frames") as advance:
            for lead in leads:
                name = f"{id}-{stamp(self.outlook.start.valid[lead])}.png"
                files.append(drawing.panels(self.folder / name, self.scene(lead)))
                advance(1, id)
            for movie in movies:

                def images() -> Iterator[np.ndarray]:
                    for scene in self.film():
                        yield drawing.image(scene, MOVIE_PIXELS)
                        advance(1, id)

                drawing.animation(movie, images(), FPS, self.credit)
        return files

    def scene(self, lead: int) -> Scene:
        """One lead time beside what was seen last; in check mode beside what came, too."""
        outlook, seen = self.outlook, self.made.past[-1]
        field = {what: values[lead, 0] for what, values in self.made.fields.items()}
        if outlook.mode == "check":
            unit = after(str(self.channel["units"]))
            rmse = {
                row: f"RMSE {of.scores()['rmse']:.2f}{unit}"
                for row, of in self.made.errors[lead].items()
            }
            first, *others = outlook.baselines  # persistence is what was seen last
            panels = [
                Panel(f"Last observed, {rmse[first]}", seen),
                *(Panel(f"{named(row)}, {rmse[row]}", field[row]) for row in others[:1]),
                Panel(f"{outlook.model}, {rmse[MODEL]}", field[MODEL]),
                Panel("Truth", field[TRUTH]),
                Panel(f"{outlook.model} minus truth", field[MODEL] - field[TRUTH], error=True),
            ]
            errors = self.differences("error")
        elif outlook.members:
            count = len(outlook.members)
            panels = [
                *self.beside(lead),
                Panel(f"Spread of {count} sets of weights", field[SPREAD], error=True),
            ]
            errors = spread_look(self.channel)
        else:
            change = field[MODEL] - seen
            panels = [*self.beside(lead), Panel("Change that is forecast", change, error=True)]
            errors = self.differences("change")
        return self.of(self.forecast(lead), panels, errors)

    def beside(self, lead: int) -> list[Panel]:
        outlook = self.outlook
        since = minute(outlook.start.reference)
        return [
            Panel(f"Last observed, {since}", self.made.past[-1]),
            Panel(
                f"{outlook.model}, forecast {outlook.lead(lead)}",
                self.made.fields[MODEL][lead, 0],
            ),
        ]

    def film(self) -> Iterator[Scene]:
        """The frames that were given, then the forecast beside what came, or what was seen last."""
        outlook, made = self.outlook, self.made
        differences = self.differences("error")  # of which there is none in these
        for number, field in zip(outlook.start.past, made.past, strict=True):
            when = minute(outlook.footage.times[number])
            panels = [
                Panel(f"Observed, {when}", field),
                Panel(f"Observed, given to {outlook.model}", field),
            ]
            yield self.of(f"{when}    observed", panels, differences)
        for lead, time in enumerate(outlook.start.valid):
            last, forecast = self.beside(lead)
            if outlook.mode == "check":
                last = Panel(f"Observed, {minute(time)}", made.fields[TRUTH][lead, 0])
            yield self.of(self.forecast(lead), [last, forecast], differences)

    def of(self, when: str, panels: Sequence[Panel], errors: Look) -> Scene:
        place, footage = self.outlook.place, self.outlook.footage
        return Scene(
            title=f"{footage.id}    {when}" if self.outlook.moves else when,
            subtitle=self.subtitle,
            panels=panels,
            look=drawing.look(self.channel, self.palette, self.hours),
            errors=errors,
            extent=place.extent,
            unit=place.unit,
            origin=origin_of(place.axes, place.unit),
            credit=self.credit,
        )

    def forecast(self, lead: int) -> str:
        when = minute(self.outlook.start.valid[lead])
        return f"{when}    forecast {self.outlook.lead(lead)}"

    @cached_property
    def subtitle(self) -> str:
        """Of when the forecast is, and what was known of a storm then."""
        start = self.outlook.start
        said = [f"forecast from {minute(start.complete)}"]
        if start.complete != start.reference:
            of = lasting(start.complete - start.reference)
            said.append(f"each time is the beginning of {of}")
        if self.outlook.moves and (storm := best_track(self.outlook.footage, start.past[-1])):
            said.append(f"then: {storm}")
        if self.hours:
            said.append(f"rain of {self.hours:g} h")
        return "    ".join(said)

    @cached_property
    def hours(self) -> float | None:
        """That rain was accumulated over."""
        return hours_of(self.outlook.footage, self.channel)

    @property
    def channel(self) -> dict[str, object]:
        return dict(self.outlook.channels[0])

    def differences(self, what: str) -> Look:
        return drawing.error_look(self.channel, what, self.hours, ahead=True)


def named(row: str) -> str:
    return row.replace("_", " ").capitalize()
