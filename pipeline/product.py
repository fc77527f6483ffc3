"""What `infer` writes: the grid, the variables and the attributes of its output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline import forecasts, metrics, store
from pipeline.answers import MODEL
from pipeline.checkpoint import Checkpoint
from pipeline.credit import RIGHTS
from pipeline.errors import UserError
from pipeline.forecasts import Place
from pipeline.inputs import Footage
from pipeline.outputs.layout import Layout
from pipeline.tasks import SuperResolutionSettings

Mode = Literal["enhance", "check", "forecast"]
# What a field shows, beside MODEL and the baseline's own name.
TRUTH, MEAN, SPREAD = "truth", "ensemble_mean", "ensemble_spread"
ENSEMBLE = "ensemble"  # the row of its scores: those of its mean
TIME: tuple[np.dtype, Mapping[str, Any]] = (
    np.dtype("i8"),
    {**store.TIME_ATTRS, "long_name": "UTC", "axis": "T"},
)
# Name, channel, what it shows (MODEL, MEAN, TRUTH ...) and how to say that.
Field = tuple[str, int, str, str]


@dataclass(frozen=True)
class Product:
    """One output, before any frame is known."""

    mode: Mode
    factor: int
    model: str
    baseline: str
    channels: list[dict[str, Any]]
    shape: tuple[int, int]  # (H, W)
    y: np.ndarray  # (H,) units north of the centre, of pixel centres
    x: np.ndarray  # (W,) east
    unit: str  # km, deg, or pixels where their size is not known
    pixel: float  # side of an output pixel, in that unit
    notes: list[str]
    axes: Mapping[str, Mapping[str, Any]]  # of y and x: names, and their attributes
    extent: tuple[float, float, float, float]  # left, right, bottom, top edge
    members: Sequence[str] = ()  # of an ensemble, where one was asked for

    @classmethod
    def of(
        cls,
        trained: Checkpoint,
        footage: Footage,
        mode: Mode,
        baseline: str,
        members: Sequence[str] = (),
    ) -> Product:
        """Raises UserError for frames too small to be made coarse, channels without one score."""
        task, channels = settings_of(trained), trained.data.channels
        f, (_, H, W) = task.factor, footage.shape
        notes = []
        if mode == "enhance":
            shape = (f * H, f * W)
        else:
            metrics.peak(channels)  # refuses channels that cannot share a score
            if task.truth == "interpolated":
                raise UserError(
                    "--mode check: this model learnt from interpolated truth, and there is no "
                    "other to check it by; use --mode enhance"
                )
            if min(H, W) < f:
                raise UserError(
                    f"{footage.path}: {H}x{W} pixels cannot be coarsened {f} times; give larger "
                    "frames, or use --mode enhance"
                )
            shape = (H // f * f, W // f * f)
            if shape != (H, W):
                notes.append(
                    f"The last {H - shape[0]} rows and {W - shape[1]} columns were left out: "
                    f"{H}x{W} pixels are not divisible by {f}."
                )
        place = placed(trained, footage, f if mode == "enhance" else 1, shape)
        return cls(
            mode=mode,
            factor=f,
            model=trained.settings.model_name,
            baseline=baseline,
            channels=channels,
            shape=shape,
            y=place.y,
            x=place.x,
            unit=place.unit,
            pixel=place.pixel,
            notes=notes,
            axes=place.axes,
            extent=place.extent,
            members=members,
        )

    @property
    def peak(self) -> float:
        """The range of PSNR and SSIM."""
        return metrics.peak(self.channels)

    @property
    def rows(self) -> list[str]:
        """What is compared with the truth, in check mode."""
        if self.mode != "check":
            return []
        return [MODEL, *([ENSEMBLE] if self.members else []), self.baseline]

    def fields(self) -> Iterator[Field]:
        named = {MODEL: ("", f"{self.factor} times finer than observed, by {self.model}")}
        if self.mode == "check":
            named = {MODEL: ("", f"restored by {self.model}")}
        named |= ensemble_of(len(self.members))
        if self.mode == "check":
            named[self.baseline] = (
                f"_{self.baseline}",
                f"restored by {self.baseline} interpolation",
            )
            named[TRUTH] = (f"_{TRUTH}", "as observed")
        return fields_of(self.channels, named)

    def layout(self, footage: Footage, attrs: Mapping[str, Any]) -> Layout:
        places = [name for name in ("latitude", "longitude") if name in footage.variables]
        series: dict[str, tuple[np.dtype, Mapping[str, Any]]] = {
            "time": TIME,
            **{
                name: (variable.values.dtype, variable.attrs)
                for name, variable in footage.variables.items()
            },
            "missing_fraction": (
                np.dtype("f4"),
                {"long_name": "fraction of the input's pixels that are missing", "units": "1"},
            ),
            **({} if self.on_a_map else {"satellite": codes(footage.satellites)}),
            **errors_of(self.rows, self.model, self.channels[0]["units"]),
        }
        return Layout(
            y=self.y,
            x=self.x,
            unit=self.unit,
            pixel=self.pixel,
            axes=self.axes,
            fields=described(self.channels, self.fields(), places),
            series=series,
            attrs=attrs,
        )

    @property
    def on_a_map(self) -> bool:
        """Whether every pixel has one place for all frames; a storm's have not."""
        return on_a_map(self.axes)


def on_a_map(axes: Mapping[str, Mapping[str, Any]]) -> bool:
    """As Product says, of the attributes of y and x."""
    return "standard_name" in next(iter(axes.values()))


def fields_of(
    channels: Sequence[Mapping[str, Any]], named: Mapping[str, tuple[str, str]]
) -> Iterator[Field]:
    """named: the ending of each variable's name, by what it shows, and how to say that."""
    for number, channel in enumerate(channels):
        name = (channel["standard_name"] or channel["name"]).removeprefix("toa_")
        if len(channels) > 1:
            name = f"{name}_{channel['name']}"
        for what, (ending, said) in named.items():
            yield re.sub(r"\W", "_", name) + ending, number, what, said


def ensemble_of(count: int) -> dict[str, tuple[str, str]]:
    """What fields_of takes, of so many members; of none nothing."""
    if not count:
        return {}
    return {
        MEAN: (f"_{MEAN}", f"mean of {count} sets of weights"),
        SPREAD: (
            f"_{SPREAD}",
            f"standard deviation (of {count} - 1) of {count} sets of weights",
        ),
    }


def described(
    channels: Sequence[Mapping[str, Any]], fields: Iterable[Field], places: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """CF attributes of each field; places: the names of its coordinates that are no dimensions."""
    made = {}
    for name, number, what, said in fields:
        channel = channels[number]
        made[name] = {
            "standard_name": channel["standard_name"],
            "long_name": f"{channel['long_name']}, {said}",
            "units": channel["units"],
            **({"coordinates": " ".join(places)} if places else {}),
        }
        if not channel["standard_name"] or what == SPREAD:  # a deviation is no temperature
            del made[name]["standard_name"]
    return made


def errors_of(
    rows: Sequence[str], model: str, units: str
) -> dict[str, tuple[np.dtype, Mapping[str, Any]]]:
    """Series of the errors of each of these rows of a table of scores."""
    said = {MODEL: model, ENSEMBLE: "the ensemble's mean"}
    named = {
        f"rmse_{row}": f"root-mean-square error of {said.get(row, row.replace('_', ' '))}"
        for row in rows
    }
    if ENSEMBLE in rows:
        named["crps_ensemble"] = "continuous ranked probability score of the ensemble"
    return {
        name: (np.dtype("f4"), {"long_name": long, "units": units}) for name, long in named.items()
    }


def settings_of(trained: Checkpoint) -> SuperResolutionSettings:
    settings = trained.settings.task
    assert isinstance(settings, SuperResolutionSettings)  # infer makes forecasts otherwise
    return settings


def placed(trained: Checkpoint, footage: Footage, finer: int, shape: tuple[int, int]) -> Place:
    """Where an output's pixels lie, so many times finer than the input's; shape: (H, W) of it.

    On the input's own latitudes and longitudes, or its map, where it has them; else about the
    frame's centre, where a tracked storm is.
    """
    if footage.grid is not None:
        try:
            return forecasts.place(footage.grid, finer, shape)
        except UserError as error:
            raise UserError(f"{footage.path}: {error}") from None
    return centred(trained, footage, shape, finer=finer)


def centred(
    trained: Checkpoint,
    footage: Footage,
    shape: tuple[int, int],
    *,
    finer: int = 1,
    coarser: int = 1,
) -> Place:
    """About the frame's centre, where a tracked storm is.

    shape: (H, W) of the output, from the frame's north-western corner on; so many times finer, or
    coarser, than the input.
    """
    _, H, W = footage.shape
    kilometres = footage.attrs.get("pixel_km", trained.data.attrs.get("pixel_km"))
    pixel, unit = (1.0, "pixels") if kilometres is None else (float(kilometres), "km")
    north, east = H / 2 * pixel, W / 2 * pixel  # of the frame's edges
    pixel = pixel * coarser / finer
    y = north - (np.arange(shape[0]) + 0.5) * pixel
    x = (np.arange(shape[1]) + 0.5) * pixel - east
    nominal = f"{pixel:g} {unit} per pixel, nominal"
    axes = {
        axis: {
            "long_name": f"{unit} {way} of the storm centre, {nominal}",
            "units": unit if unit == "km" else "1",
            "axis": axis.upper(),
        }
        for axis, way in (("y", "north"), ("x", "east"))
    }
    return Place(y, x, unit, pixel, axes)


def codes(satellites: Sequence[str]) -> tuple[np.dtype, Mapping[str, Any]]:
    """How the satellites of the frames are kept."""
    names = sorted(set(satellites))
    return np.dtype("i1"), {
        "long_name": "satellite",
        "flag_values": np.arange(len(names), dtype="i1"),
        "flag_meanings": " ".join(names),
    }


def about(
    trained: Checkpoint, footage: Footage, product: Product, unlike: Sequence[str] = ()
) -> dict[str, Any]:
    """The output's attributes: nothing in them depends on when it was made.

    unlike: sentences on how the input differs from what was trained on.
    """
    theirs, f = trained.data.attrs, product.factor
    long_name = product.channels[0]["long_name"]
    if product.mode == "enhance":
        sides = {"km": "pixel_km", "deg": "grid_degrees"}
        comment = enhanced(product, theirs.get(sides.get(product.unit, "")))
    else:
        how = settings_of(trained).coarsening
        comment = (
            f"The observed frames were coarsened {f} times ({how}) and restored; the variables "
            f"whose names end in {product.baseline} and {TRUTH} are what to compare with."
        )
    if settings_of(trained).conserve_mass != "none":
        comment += f" The mean of every {f}x{f} pixels is the coarse value that they come from."
    done = f"coarsened {f} times and restored by"
    if product.mode == "enhance":
        done = f"made finer {f} times by"
    return origin(
        trained,
        footage,
        unlike,
        title=f"{footage.id}: {long_name}, {done} {product.model}",
        source=f"super-resolution by {product.model} of eddy",
        comment=" ".join([comment, *product.notes]),
        mode=product.mode,
        members=product.members,
        factor=np.int32(f),
    )


def origin(
    trained: Checkpoint,
    footage: Footage,
    unlike: Sequence[str],
    *,
    title: str,
    source: str,
    comment: str,
    mode: Mode,
    members: Sequence[str],
    **more: Any,
) -> dict[str, Any]:
    """Attributes of every output: rights, what it was made of and by which model."""
    ours, theirs = footage.attrs, trained.data.attrs
    carried = {name: joined(ours.get(name), theirs.get(name)) for name in RIGHTS}
    attrs = {
        **carried,
        "title": title,
        "source": joined(ours.get("source"), source),
        "references": joined(carried["attribution"], carried["references"]),
        "comment": comment,
        "warning": " ".join(unlike),
        "projection": ours.get("projection", ""),
        "track_id": footage.id,
        "mode": mode,
        **more,
        "model": trained.settings.model_name,
        "ensemble_members": ", ".join(members),
        "epoch": np.int32(trained.training["position"]["epoch"]),
        "training_tracks": " ".join(trained.data.train),
        "training_store": trained.data.store,
        "training_manifest_hash": trained.data.manifest_hash,
    }
    return {name: value for name, value in attrs.items() if value != ""}


def enhanced(product: Product, trained_side: float | None) -> str:
    """What is observed and what is not; trained_side: of the training tracks' pixels."""
    f, side, unit = product.factor, product.pixel, product.unit
    given = f * side
    learnt = given if trained_side is None else trained_side
    told = (
        f"Detail finer than {given:g} {unit} is the model's estimate, not observed: it learnt to "
        f"make {f * learnt:g} {unit} into {learnt:g}"
    )
    if np.isclose(given, f * learnt):
        return f"{told}."
    step = "one step beyond" if np.isclose(given, learnt) else f"on {given:g} {unit}"
    return f"{told}, finer than which there was no truth, and is used here {step}."


def joined(*texts: Any) -> str:
    """Different texts one after the other."""
    return "; ".join(dict.fromkeys(str(text) for text in texts if text))
