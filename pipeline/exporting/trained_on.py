"""Of a model card: the data, the training and the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import yaml

import models
from pipeline.exporting.material import Material, without_folders
from pipeline.familiarity import short
from pipeline.outputs.layout import lasting
from pipeline.product import joined
from pipeline.reporting.words import TIMES, after, count, listed


def mean_of(m: Material) -> np.ndarray:
    """(C,), physical units: the training tracks' mean, which stands for missing pixels."""
    C = len(m.channels)
    return m.trained.scaling.filled(torch.full((C, 1, 1), torch.nan)).flatten().numpy()


def data_rows(m: Material) -> list[tuple[str, str]]:
    """What it was trained on."""
    data = m.trained.data
    test = m.split.test if m.split else tested(m)
    test_told = "not recorded with this run" if test is None else "none were set aside"
    rows = [
        ("data set", m.data),
        ("store", f"`{data.store}`, conversion `{data.manifest_hash}`"),
        (f"training tracks ({len(data.train)})", listed(data.train)),
        (f"evaluation tracks ({len(data.eval)})", f"{listed(data.eval) or 'none'}; the best "
         "checkpoint is the one with the smallest error on them"),
        (f"test tracks ({len(test or [])})", listed(test) if test else test_told),
    ]  # fmt: skip
    if m.split:
        rows.append(("how they were parted", m.split.selected_by))
    if satellites := data.seen.get("satellites"):
        rows.append(("satellites", listed(satellites)))
    named = {
        "projection": "projection",
        "time_label": "time of a frame",
        "accumulation_hours": "hours of rain in a frame",
        "grid_degrees": "grid, degrees",
        "native_grid_degrees": "regridded from, degrees",
    }
    rows += [(told, str(m.attrs[key])) for key, told in named.items() if key in m.attrs]
    if side := m.attrs.get("pixel_km"):
        rows.append(("pixel", f"{side:g} km"))
    if data.step:
        rows.append(("time step", lasting(data.step)))
    return rows


def tested(m: Material) -> list[str] | None:
    """The test tracks, as an evaluation knows them."""
    return next((list(s["tracks"]) for s in m.scores if s["on"] == "test"), None)


def channel_rows(m: Material) -> list[dict[str, str]]:
    """Of each channel of the data, the training tracks' statistics and the scaling."""
    seen, scaling, made = m.trained.data.seen, m.trained.scaling, []
    means = mean_of(m)
    for i, channel in enumerate(m.channels):
        std = m.split.statistics.std[i] if m.split else None
        how = f"({channel['name']} - {scaling.centre[i]:g}) / {scaling.scale[i]:g}"
        if scaling.kinds[i] == "log1p":
            how = f"log(1 + {channel['name']}) / {scaling.scale[i]:g}"
        made.append(
            {
                "name": channel["name"],
                "units": channel["units"],
                "min": short(seen["min"][i]) if seen.get("min") else "?",
                "max": short(seen["max"][i]) if seen.get("max") else "?",
                "mean": short(float(means[i])),
                "std": "?" if std is None else short(std),
                "scaling": how,
            }
        )
    return made


def training_rows(m: Material) -> list[tuple[str, str]]:
    """How it was trained."""
    settings, at = m.trained.settings, m.trained.training["position"]
    t, units = settings.training, m.trained.targets[0]["units"]
    crop = (
        f"crops of {t.patch_size}{TIMES}{t.patch_size} pixels" if t.patch_size else "whole frames"
    )
    rows = [
        ("checkpoint", f"{m.which}: after epoch {at['epoch']} of {t.epochs}, step {at['step']}"),
        ("weights", "moving average of the weights, decay " f"{t.ema:g}" if m.averaged else "raw"),
        ("batch", f"{t.batch_size} windows of {count(t.sequence_length, 'frame')}, {crop}"
         + (", flipped and turned at random" if t.augment else "")),
        ("optimizer", f"{t.optimizer}, learning rate {t.lr:g} ({t.schedule})"),
        ("precision, seed", f"{t.precision}, {t.seed}"),
    ]  # fmt: skip
    if isinstance(best := at.get("best"), float) and np.isfinite(best):
        rows.append(("smallest RMSE in validation", f"{short(best)}{after(units)}, while training"))
    commit = str(m.about.get("git_commit") or "")
    told = commit.removesuffix("-dirty") + (", with changes" if commit.endswith("-dirty") else "")
    for name, said in (
        ("git commit of eddy", told),
        ("software", joined(m.about.get("software"), torch_of(m))),
        ("device", str(m.about.get("device", ""))),
    ):
        if said:
            rows.append((name, said))
    return rows


def torch_of(m: Material) -> str:
    return f"torch {m.about['torch']}" if "torch" in m.about else ""


def network(m: Material) -> dict[str, Any]:
    """The network itself: what its file says, its own settings, how large it is."""
    doc = models.find(m.name).__doc__ or ""
    settings = without_folders({"model": m.trained.settings.model})
    return {
        "doc": "\n".join(f"> {line}".rstrip() for line in doc.strip().splitlines()),
        "settings": yaml.safe_dump(settings, sort_keys=False).strip(),
        "parameters": listed([f"{n:,} ({name})" for name, n in m.parameters.items()]),
    }
