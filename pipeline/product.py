"""What `infer` writes: the grid, the variables and the attributes of its NetCDF file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline import metrics, store
from pipeline.answers import MODEL
from pipeline.checkpoint import Checkpoint
from pipeline.errors import UserError
from pipeline.inputs import Footage
from pipeline.netcdf import Layout

Mode = Literal["enhance", "check"]
TRUTH = "truth"  # what a field shows, beside MODEL and the baseline's own name


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
    unit: str  # km, or pixels where their size is not known
    pixel: float  # side of an output pixel, in that unit
    notes: list[str]

    @classmethod
    def of(cls, trained: Checkpoint, footage: Footage, mode: Mode, baseline: str) -> Product:
        """Raises UserError for frames too small to be made coarse, channels without one score."""
        f, channels = trained.settings.task.factor, trained.data.channels
        _, H, W = footage.shape
        kilometres = footage.attrs.get("pixel_km", trained.data.attrs.get("pixel_km"))
        pixel, unit = (1.0, "pixels") if kilometres is None else (float(kilometres), "km")
        north, east = H / 2 * pixel, W / 2 * pixel  # of the frame's edges
        notes = []
        if mode == "enhance":
            shape, pixel = (f * H, f * W), pixel / f
        else:
            metrics.peak(channels)  # refuses channels that cannot share a score
            if min(H, W) < f:
                raise UserError(f"{footage.path}: {H}x{W} pixels cannot be coarsened {f} times")
            shape = (H // f * f, W // f * f)
            if shape != (H, W):
                notes.append(
                    f"The last {H - shape[0]} rows and {W - shape[1]} columns were left out: "
                    f"{H}x{W} pixels are not divisible by {f}."
                )
        return cls(
            mode=mode,
            factor=f,
            model=trained.settings.model_name,
            baseline=baseline,
            channels=channels,
            shape=shape,
            y=north - (np.arange(shape[0]) + 0.5) * pixel,
            x=(np.arange(shape[1]) + 0.5) * pixel - east,
            unit=unit,
            pixel=pixel,
            notes=notes,
        )

    @property
    def peak(self) -> float:
        """The range of PSNR and SSIM."""
        return metrics.peak(self.channels)

    @property
    def rows(self) -> list[str]:
        """What is compared with the truth, in check mode."""
        return [MODEL, self.baseline] if self.mode == "check" else []

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top edge."""
        half = self.pixel / 2
        return (self.x[0] - half, self.x[-1] + half, self.y[-1] - half, self.y[0] + half)

    def fields(self) -> Iterator[tuple[str, int, str, str]]:
        """Name, channel, what it shows (MODEL, TRUTH or the baseline) and how to say that."""
        named = {MODEL: ("", f"{self.factor} times finer than observed, by {self.model}")}
        if self.mode == "check":
            named = {
                MODEL: ("", f"restored by {self.model}"),
                self.baseline: (f"_{self.baseline}", f"restored by {self.baseline} interpolation"),
                TRUTH: (f"_{TRUTH}", "as observed"),
            }
        for number, channel in enumerate(self.channels):
            name = (channel["standard_name"] or channel["name"]).removeprefix("toa_")
            if len(self.channels) > 1:
                name = f"{name}_{channel['name']}"
            for what, (ending, said) in named.items():
                yield re.sub(r"\W", "_", name) + ending, number, what, said

    def layout(self, footage: Footage, attrs: Mapping[str, Any]) -> Layout:
        places = [name for name in ("latitude", "longitude") if name in footage.variables]
        fields = {}
        for name, number, _, said in self.fields():
            channel = self.channels[number]
            fields[name] = {
                "standard_name": channel["standard_name"],
                "long_name": f"{channel['long_name']}, {said}",
                "units": channel["units"],
                **({"coordinates": " ".join(places)} if places else {}),
            }
            if not channel["standard_name"]:
                del fields[name]["standard_name"]
        satellites = sorted(set(footage.satellites))
        series: dict[str, tuple[np.dtype, Mapping[str, Any]]] = {
            "time": (np.dtype("i8"), {**store.TIME_ATTRS, "long_name": "UTC", "axis": "T"}),
            **{
                name: (variable.values.dtype, variable.attrs)
                for name, variable in footage.variables.items()
            },
            "satellite": (
                np.dtype("i1"),
                {
                    "long_name": "satellite",
                    "flag_values": np.arange(len(satellites), dtype="i1"),
                    "flag_meanings": " ".join(satellites),
                },
            ),
            **{
                f"rmse_{row}": (
                    np.dtype("f4"),
                    {
                        "long_name": f"root-mean-square error of {self.said(row)}",
                        "units": self.channels[0]["units"],
                    },
                )
                for row in self.rows
            },
        }
        nominal = f"{self.pixel:g} {self.unit} per pixel, nominal"
        units = self.unit if self.unit == "km" else "1"
        return Layout(
            y=self.y,
            x=self.x,
            axes={
                axis: {
                    "long_name": f"{self.unit} {way} of the storm centre, {nominal}",
                    "units": units,
                    "axis": axis.upper(),
                }
                for axis, way in (("y", "north"), ("x", "east"))
            },
            fields=fields,
            series=series,
            attrs=attrs,
        )

    def said(self, row: str) -> str:
        return self.model if row == MODEL else row


def about(trained: Checkpoint, footage: Footage, product: Product) -> dict[str, Any]:
    """The file's attributes: nothing in them depends on when it was made."""
    ours, theirs = footage.attrs, trained.data.attrs
    f, side, unit = product.factor, product.pixel, product.unit
    long_name = product.channels[0]["long_name"]
    if product.mode == "enhance":
        comment = (
            f"Detail finer than {f * side:g} {unit} is the model's estimate, not observed: it "
            f"learnt to make {f * f * side:g} {unit} into {f * side:g}, finer than which there was "
            "no truth, and is used here one step beyond."
        )
    else:
        how = trained.settings.task.coarsening
        comment = (
            f"The observed frames were coarsened {f} times ({how}) and restored; the variables "
            f"{product.baseline} and {TRUTH} are what to compare with."
        )
    attribution = joined(ours.get("attribution"), theirs.get("attribution"))
    what = "made finer" if product.mode == "enhance" else "coarsened and restored"
    attrs = {
        "title": f"{footage.id}: {long_name}, {what} {f} times by {product.model}",
        "source": joined(ours.get("source"), f"super-resolution by {product.model} of eddy"),
        "references": attribution,
        "license": joined(ours.get("license"), theirs.get("license")),
        "attribution": attribution,
        "comment": " ".join([comment, *product.notes]),
        "projection": ours.get("projection", ""),
        "track_id": footage.id,
        "mode": product.mode,
        "factor": np.int32(f),
        "model": product.model,
        "epoch": np.int32(trained.training["position"]["epoch"]),
        "training_tracks": " ".join(trained.data.train),
        "training_store": trained.data.store,
        "training_manifest_hash": trained.data.manifest_hash,
    }
    return {name: value for name, value in attrs.items() if value != ""}


def joined(*texts: Any) -> str:
    """Different texts one after the other."""
    return "; ".join(dict.fromkeys(str(text) for text in texts if text))
