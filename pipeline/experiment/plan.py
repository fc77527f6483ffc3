"""What an experiment asks for, and whether it can be answered, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt
from torch import nn

import models
from models import Geometry
from pipeline import manifest, metrics, raw_tree, scaling, tasks
from pipeline import settings as run_settings
from pipeline.engine import make_fabric
from pipeline.errors import UsageError, UserError, few
from pipeline.experiment import reach
from pipeline.loader import Loader
from pipeline.manifest import Split
from pipeline.problem import Problem
from pipeline.settings import RunSettings
from pipeline.sources.grids import Grid
from pipeline.store import Store, Track
from pipeline.tasks import ForecastSettings
from pipeline.tasks.forecast import Box, Outside, within
from pipeline.windows import refuse_same_dates

Control = Literal["other_date", "mean", "downstream"]
ALONE, UPSTREAM = "alone", "upstream"
WINDOWS_PER_BLOCK = 3  # windows that share a frame resemble one another, and so do their neighbours


class UpstreamSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What is compared with what. Boxes: west, east, south, north; centres of cells, degrees."""

    region: Box
    """Region 1, whose rain is forecast and scored: west, east, south, north, degrees."""
    upstream: Box
    """Region 2, its western or eastern neighbour, of the same rows: west, east, south, north."""
    seeds: PositiveInt = 5
    """Trainings of each arm; number i has the same seed in all arms."""
    controls: tuple[Control, ...] = ("other_date", "mean", "downstream")
    """Arms beside the two experiments, each as many trainings more. other_date: region 2 as it was
    at another time; mean: nothing but its mean; downstream: as many columns on the other side."""
    part: Literal["eval", "test"] = "eval"
    """Whose tracks of the split are judged."""
    resamples: Annotated[int, Field(ge=100)] = 1000
    """Draws of dates and of seeds behind each interval."""
    block_hours: PositiveFloat | None = None
    """Dates are drawn in blocks of that many hours, which must exceed the time over which weather
    resembles itself; null: three windows of past and future."""
    min_reached: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The share of region 1's columns that something in region 2 must be able to reach."""


@dataclass(frozen=True)
class Arm:
    """One way of giving the model its input."""

    name: str
    area: Box
    outside: Outside

    @property
    def title(self) -> str:
        return TITLES[self.name]


TITLES = {
    ALONE: "experiment 1, region 1 alone",
    UPSTREAM: "experiment 2, with upstream",
    "other_date": "upstream of another date",
    "mean": "upstream filled with its mean",
    "downstream": "downstream instead",
}


@dataclass(frozen=True)
class Regions:
    """Rows and columns of the store's grid."""

    grid: Grid
    region: tuple[slice, slice]
    upstream: slice  # columns

    @classmethod
    def of(cls, grid: Grid, asked: UpstreamSettings) -> Regions:
        """Raises UserError for boxes that are not neighbours along longitude."""
        rows, columns = within("upstream.region", grid, asked.region) or ALL
        its_rows, beside = within("upstream.upstream", grid, asked.upstream) or ALL
        south, north = grid.y[rows.stop - 1], grid.y[rows.start]
        if its_rows != rows:
            raise UserError(
                f"upstream.upstream covers latitudes {grid.y[its_rows.stop - 1]:g} to "
                f"{grid.y[its_rows.start]:g}, upstream.region {south:g} to {north:g}: side by side "
                f"they must have the same rows; give both south {south:g} and north {north:g}"
            )
        if beside.stop != columns.start and beside.start != columns.stop:
            east_of_it = beside.start > columns.start
            end = columns.stop if east_of_it else columns.start - 1
            side, its = ("west", "east") if east_of_it else ("east", "west")
            if not 0 <= end < len(grid.x):
                raise UserError(
                    f"upstream.region reaches the {its} end of the grid, {grid}, where "
                    "upstream.upstream should begin; convert a larger region"
                )
            raise UserError(
                f"upstream.upstream, columns {grid.x[beside.start]:g} to "
                f"{grid.x[beside.stop - 1]:g}, is no neighbour of upstream.region, "
                f"{grid.x[columns.start]:g} to "
                f"{grid.x[columns.stop - 1]:g}: it must neither overlap it nor leave a gap; give "
                f"it {side} {grid.x[end]:g}"
            )
        return cls(grid, (rows, columns), beside)

    @property
    def upstream_is_west(self) -> bool:
        return self.upstream.start < self.region[1].start

    @property
    def downstream(self) -> slice:
        """As many columns as upstream has, on the other side. Raises UserError."""
        width = self.upstream.stop - self.upstream.start
        _, region = self.region
        start = region.stop if self.upstream_is_west else region.start - width
        if start < 0 or start + width > len(self.grid.x):
            there = len(self.grid.x) - region.stop if self.upstream_is_west else region.start
            raise UserError(
                f"upstream.controls: downstream needs {width} columns on the other side of "
                f"upstream.region, and the grid has {there}; convert a larger region, make "
                "upstream.upstream narrower, or leave downstream out of upstream.controls"
            )
        return slice(start, start + width)

    def box(self, *columns: slice) -> Box:
        """Of neighbours."""
        rows, _ = self.region
        first, end = min(c.start for c in columns), max(c.stop for c in columns)
        west, east = float(self.grid.x[first]), float(self.grid.x[end - 1])
        return west, east, float(self.grid.y[rows.stop - 1]), float(self.grid.y[rows.start])

    def arms(self, controls: Sequence[Control]) -> list[Arm]:
        """Experiments 1 and 2, then the controls. Raises UserError."""
        _, region = self.region
        both = self.box(region, self.upstream)
        arms = [Arm(ALONE, self.box(region), "seen"), Arm(UPSTREAM, both, "seen")]
        for control in dict.fromkeys(controls):
            if control == "downstream":
                arms.append(Arm(control, self.box(region, self.downstream), "seen"))
            else:
                arms.append(Arm(control, both, control))
        return arms


ALL = slice(None), slice(None)


@dataclass(frozen=True)
class Plan:
    """An experiment that can be run."""

    settings: RunSettings
    asked: UpstreamSettings
    store: Store
    split: Split
    tracks: list[Track]  # that are judged
    regions: Regions
    arms: list[Arm]
    parameters: int  # of every arm's model
    reach: reach.Reach

    def of(self, arm: Arm, number: int) -> RunSettings:
        """The settings of one training; number: of the seed, from 0."""
        return posed(self.settings, self.regions, arm, number)


def posed(settings: RunSettings, regions: Regions, arm: Arm, number: int = 0) -> RunSettings:
    task, training = settings.task, settings.training
    its = {"area": arm.area, "region": regions.box(regions.region[1]), "outside": arm.outside}
    return settings.model_copy(
        update={
            "task": task.model_copy(update=its),
            "training": training.model_copy(update={"seed": training.seed + number}),
        }
    )


def load(
    file: Path | None, overrides: Sequence[str] = ()
) -> tuple[RunSettings, UpstreamSettings, list[str]]:
    """As settings.load does, with a section `upstream` beside those of a training.

    Frames are whole and not turned where nothing else is asked for. Raises UsageError.
    """
    return run_settings.of_experiment(run_settings.gathered(file, overrides), UpstreamSettings)


def planned(settings: RunSettings, asked: UpstreamSettings) -> Plan:
    """Open the data and look at every arm. Raises UserError for what would not be an experiment."""
    refuse_unfit(settings, asked)
    opened = raw_tree.opened(settings.data.store)
    split = manifest.read_split(settings.data.split_file, opened)
    ids = {*split.train, *split.part("eval"), *split.part(asked.part)}
    tracks = {id: opened.track(id) for id in ids}
    regions = Regions.of(one_grid(opened, list(tracks.values())), asked)
    arms = regions.arms(asked.controls)
    judged = [tracks[id] for id in split.part(asked.part)]
    length = settings.training.sequence_length
    if not any(len(track.windows(length)) for track in judged):
        raise UserError(
            f"{opened.path}: no window of {length} usable frames in the {asked.part} tracks "
            f"{few(split.part(asked.part))}; set others aside"
        )
    if "other_date" in asked.controls:
        refuse_one_date(judged, length)
    for part in ("train", "eval"):
        refuse_untrainable(settings, [tracks[id] for id in split.part(part)], length)
    make_fabric(settings.training)  # a device that is not there is refused now
    scale = scaling.fit(settings.scaling.kind, opened.channels, split.statistics)
    problems = {
        arm.name: Problem.of(task_of(settings, regions, arm, opened), scale) for arm in arms
    }
    metrics.peak(problems[ALONE].channels(scaling.scored(opened.channels, split.statistics)))
    refuse_other_cells(problems, regions, judged[0].shape)
    geometries = {name: each.geometry(judged[0].shape) for name, each in problems.items()}
    built = {name: model_of(settings, each) for name, each in geometries.items()}
    found = reach.measured(
        built[UPSTREAM],
        geometries[UPSTREAM],
        columns_of(problems[UPSTREAM]),
        settings.training.seed,
    )
    refuse_out_of_reach(found, asked)
    return Plan(
        settings=settings,
        asked=asked,
        store=opened,
        split=split,
        tracks=judged,
        regions=regions,
        arms=arms,
        parameters=same_parameters(built),
        reach=found,
    )


def refuse_unfit(settings: RunSettings, asked: UpstreamSettings) -> None:
    """Raises UsageError for settings that contradict the experiment's."""
    task, training = settings.task, settings.training
    if not isinstance(task, ForecastSettings):
        raise UsageError(
            f"model {settings.model_name} does not forecast; an upstream experiment needs a model "
            "that does, as model.name: st_rainnet"
        )
    for key in ("area", "region"):
        if getattr(task, key) is not None:
            raise UsageError(
                f"task.{key}: an experiment sets it from upstream.region and upstream.upstream; "
                "leave it out"
            )
    if training.patch_size or training.augment:
        raise UsageError(
            "training.patch_size and training.augment: regions are places, which neither move nor "
            "turn; leave both out"
        )
    if "other_date" in asked.controls and training.batch_size < 2:
        raise UsageError(
            "training.batch_size 1: the control other_date takes upstream from the batch's next "
            "window; use 2 or more"
        )


def refuse_one_date(tracks: Sequence[Track], length: int) -> None:
    """Raises UserError where a window has no other date of its track."""
    for track in tracks:
        try:
            refuse_same_dates(track.windows(length), length, track.store / track.id)
        except UserError as error:
            raise UserError(f"{error}; or leave other_date out of upstream.controls") from None


def refuse_untrainable(settings: RunSettings, tracks: Sequence[Track], length: int) -> None:
    """Raises UserError as Loader does, before anything is written."""
    training = settings.training
    Loader(tracks, window=length, patch=None, batch=training.batch_size, augment=False, threads=0)


def one_grid(opened: Store, tracks: Sequence[Track]) -> Grid:
    """Raises UserError where the tracks' frames have none, or several."""
    grids = [track.grid for track in tracks]
    first = grids[0]
    if first is None or not all(tasks.same_grid(first, grid) for grid in grids):
        raise UserError(
            f"{opened.path}: its tracks are not on one grid of latitudes and longitudes, as an "
            "upstream experiment needs; convert gridded fields"
        )
    return first


def task_of(settings: RunSettings, regions: Regions, arm: Arm, opened: Store) -> tasks.Forecast:
    made = tasks.build(
        "forecast",
        posed(settings, regions, arm).task,
        settings.training.sequence_length,
        opened.channels,
        regions.grid,
    )
    assert isinstance(made, tasks.Forecast)
    return made


def columns_of(problem: Problem) -> slice:
    """Of an arm's y, those of region 1."""
    region = problem.task.region  # type: ignore[attr-defined]  # a forecast's
    return region[1]


def refuse_other_cells(
    problems: Mapping[str, Problem], regions: Regions, shape: tuple[int, int, int]
) -> None:
    """Raises UserError where coarsening would make the arms' region 1 of different cells."""
    cells = [each.task.place(regions.grid, shape[-2:])[1] for each in problems.values()]
    if not all(tasks.same_grid(cells[0], each) for each in cells):
        f = problems[ALONE].task.side()
        raise UserError(
            f"task.coarsen {f:g}: blocks of {f:g} columns do not end where upstream.region begins "
            f"or ends; make upstream.region and upstream.upstream multiples of {f:g} columns wide"
        )


def model_of(settings: RunSettings, geometry: Geometry) -> nn.Module:
    """As a training starts it. Raises UserError."""
    torch.manual_seed(settings.training.seed)
    try:
        made: nn.Module = models.build(settings.model_name, geometry, settings.model_settings)
    except ValueError as error:
        raise UserError(f"model {settings.model_name}: {error}") from None
    return made.eval()


def same_parameters(built: Mapping[str, nn.Module]) -> int:
    """How many every arm's model has. Raises UserError where they differ."""
    counts = {name: sum(p.numel() for p in made.parameters()) for name, made in built.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise UserError(
            f"the arms' models have different numbers of parameters ({told}), so that a larger "
            "input would also be a larger model; choose one whose parameters do not depend on the "
            "size of the field, as model.name: st_rainnet"
        )
    return counts[ALONE]


def refuse_out_of_reach(found: reach.Reach, asked: UpstreamSettings) -> None:
    """Raises UserError where too little of region 1 can depend on region 2."""
    if found.share < asked.min_reached:
        raise UserError(
            f"of region 1's {found.columns} columns {found.reached} lie within the receptive field "
            f"of region 2 ({found.share:.0%}, upstream.min_reached is {asked.min_reached:.0%}): in "
            "the others experiment 2 could show no influence, whatever there is; take more "
            "model.levels, a coarser grid with task.coarsen, or a longer task.past, or ask for "
            "less with upstream.min_reached"
        )


def told(settings: UpstreamSettings) -> dict[str, Any]:
    """For files."""
    return settings.model_dump(mode="json")


def block_of(asked: UpstreamSettings, window: int, step_seconds: int) -> int:
    """Length of a block, windows that start one step apart."""
    if asked.block_hours is None or not step_seconds:
        return WINDOWS_PER_BLOCK * window
    return max(1, int(np.ceil(asked.block_hours * 3600 / step_seconds)))
