"""The model card: what a model is, was made of, is worth and cannot do, for whoever finds it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline import pages
from pipeline.answers import MODEL
from pipeline.exporting.judged import table, worth
from pipeline.exporting.limits import limits
from pipeline.exporting.material import Material, apart, does, pixel, quantity, sides
from pipeline.exporting.onnx_file import TOLERANCE, Shapes
from pipeline.exporting.trained_on import (
    channel_rows,
    data_rows,
    mean_of,
    network,
    training_rows,
)
from pipeline.reporting.words import TIMES, after, count, head, listed, rounded, size

# Of the names that the Hugging Face Hub knows, those of licences that data come under.
LICENCES = re.compile(
    r"cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-(2\.0|2\.5|3\.0|4\.0)|odbl|odc-by|pddl|etalab-2\.0|mit|"
    r"apache-2\.0|cdla-permissive-2\.0"
)
FIELDS = ("rmse", "mae", "bias", "psnr", "ssim")  # of the front matter


def render(m: Material) -> str:
    """The card, Markdown with the Hugging Face Hub's front matter; the same material, same text."""
    environment = pages.environment(escaped=False)
    environment.filters["cell"] = cell
    text = environment.get_template("model_card.md").render(**context(m))
    return re.sub(r"\n{3,}", "\n\n", text) + "\n"


def cell(text: Any) -> str:
    """For a table's cell: in one line, without an end of the cell."""
    return " ".join(str(text).split()).replace("|", r"\|")


def context(m: Material) -> dict[str, Any]:
    """What the template is told."""
    return {
        "front": yaml.safe_dump(front(m), sort_keys=False, allow_unicode=True),
        "title": f"{m.name}: {does(m)}",
        "summary": summary(m),
        "ins": frames_in(m),
        "outs": frames_out(m),
        "usage": usage(m),
        "data": data_rows(m),
        "channels": channel_rows(m),
        "training": training_rows(m),
        "network": network(m),
        "scores": [table(m, scores) for scores in m.scores],
        "run": m.run,
        "limits": limits(m),
        "licence": licence(m),
        "attribution": m.attrs.get("attribution", ""),
        "onnx": onnx(m),
        "no_onnx": m.no_onnx,
        "sample": m.sample,
        "files": files(m),
        "which": m.which,
        "software": m.software,
    }


def front(m: Material) -> dict[str, Any]:
    """The front matter."""
    said = str(m.attrs.get("license", ""))
    slug = slugged(said)
    found: dict[str, Any] = {"license": "unknown"}
    if said:
        known = LICENCES.fullmatch(slug)
        found = {"license": slug} if known else {"license": "other", "license_name": slug}
    data = slugged(m.data.split(":")[0])
    tags = [m.name.replace("_", "-"), "forecasting" if m.forecast else "super-resolution"]
    tags += [slugged(c["standard_name"] or c["name"]) for c in m.trained.targets]
    tags += ["spatio-temporal", *(["onnx"] if m.onnx else [])]
    return {
        **found,
        "library_name": "eddy",
        **({} if m.forecast else {"pipeline_tag": "image-to-image"}),
        "tags": list(dict.fromkeys(tags)),
        "datasets": [data],
        **({"model-index": [index(m, data)]} if m.scores else {}),
    }


def index(m: Material, data: str) -> dict[str, Any]:
    """The scores, as the Hub shows them."""
    kind = "forecasting" if m.forecast else "image-to-image"
    return {
        "name": m.name,
        "results": [
            {
                "task": {"type": kind, "name": does(m)},
                "dataset": {"type": data, "name": m.data, "split": scores["on"]},
                "metrics": [
                    {
                        "type": name,
                        "name": head(name, scores["units"][name]),
                        "value": plain(scores, name),
                    }
                    for name in FIELDS
                    if scores[MODEL].get(name) is not None
                ],
            }
            for scores in m.scores
        ],
    }


def plain(scores: Mapping[str, Any], name: str) -> float:
    """A score of the model, rounded, and not -0.0."""
    return (rounded(scores[MODEL][name], scores["units"][name]) or 0.0) + 0.0


def slugged(text: str) -> str:
    """As names on the Hub are: CC BY 4.0 -> cc-by-4.0."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


def summary(m: Material) -> str:
    """The first paragraph."""
    data, task = m.trained.data, m.trained.task
    told = f"A neural network ({m.name}) that "
    if m.forecast:
        told += f"is given the last {count(m.forecast.past, 'frame')} of {inputs_of(m)}{apart(m)}, "
        told += f"and says the next {m.forecast.future}"
        told += ". " if task.inputs == task.targets else f" of {quantity(m)}. "
        if m.forecast.coarsen > 1:
            n, large = m.forecast.coarsen, pixel(m, m.forecast.coarsen)
            told += f"Frames are first averaged over {n}{TIMES}{n} pixels"
            told += f", so that a pixel of the forecast is {large}. " if large else ". "
    else:
        coarse, fine = (pixel(m, times) for times in sides(m))
        told += f"makes frames of {quantity(m)} {m.finer.factor} times finer in each direction"
        told += f": it learnt to make pixels of {coarse} into {fine}. " if coarse else ". "
    told += (
        f"It was trained from scratch on {count(len(data.train), 'track')} of the data set "
        f"“{m.data}” by {m.software}. "
    )
    return told + worth(m)


def inputs_of(m: Material) -> str:
    return listed([m.channels[i]["long_name"] for i in m.trained.task.inputs])


def shape(numbers: Sequence[str | int]) -> str:
    return f"({', '.join(str(n) for n in numbers)})"


def frames_in(m: Material) -> list[tuple[str, str]]:
    """What goes in."""
    shapes, task = Shapes.of(m.trained), m.trained.task
    T, C, H, W = shapes.usual
    side = pixel(m, sides(m)[0] if not m.forecast else 1)
    size = f"{H}{TIMES}{W} pixels" + (f" of {side}" if side else "")
    rows = [
        ("shape", f"(T, C, H, W), float32: {count(T, 'frame')}{apart(m)}; {count(C, 'channel')}"),
        ("size", size if task.located else f"{size} in training; any number of them will do"),
        ("order", "oldest frame first; rows from north to south, columns from west to east"),
        ("values", "; ".join(f"{c['name']}: {c['long_name']}{unit(c)}" for c in m.channels)),
        ("missing pixels", "NaN; the network is given the training tracks' mean there"),
    ]
    if not m.forecast:
        rows[0] = ("shape", f"(T, C, H, W), float32: any number of frames; {count(C, 'channel')}")
    if m.forecast and m.forecast.area:
        rows.insert(2, ("place", "the grid in settings.json, and no other: "
                        f"the model uses {box(m.forecast.area)} of it"))  # fmt: skip
    return rows


def frames_out(m: Material) -> list[tuple[str, str]]:
    """What comes out."""
    _, C, _, _ = m.trained.geometry.y
    side = pixel(m, sides(m)[1])
    of = f"pixels of {side}: " if side else ""
    if m.forecast:
        frames = f"the next {count(m.forecast.future, 'frame')}{apart(m)}"
        size = f"each stands for {m.forecast.coarsen}{TIMES}{m.forecast.coarsen} of the input's"
        size = size if m.forecast.coarsen > 1 else "as many as go in"
        if m.forecast.region:
            size = f"the region {box(m.forecast.region)}"
    else:
        frames, size = "as many frames", f"{m.finer.factor} times the rows and columns"
    return [
        ("shape", f"(T, C, H, W), float32: {frames}; {count(C, 'channel')}"),
        ("size", of + size),
        ("values", "; ".join(f"{c['name']}: {c['long_name']}{unit(c)}" for c in m.trained.targets)),
        ("missing pixels", "none: where the input had them, the answer is a guess"),
    ]


def box(edges: Sequence[float]) -> str:
    west, east, south, north = edges
    return f"{west:g} to {east:g} (west to east), {south:g} to {north:g} (south to north)"


def unit(channel: Mapping[str, Any]) -> str:
    return "" if channel["units"] == "1" else f", in {channel['units']}"


def usage(m: Material) -> dict[str, str]:
    """Parts of the examples."""
    T, C, H, W = Shapes.of(m.trained).usual
    means = [round(float(mean), 3) for mean in mean_of(m)]
    many = (
        f"np.full({{}}, {means[0]}, np.float32)"
        if C == 1
        else f"np.zeros({{}}, np.float32) + np.float32({means})[:, None, None]"
    )
    units = listed(list(dict.fromkeys(c["units"] for c in m.channels)))
    mode = "forecast" if m.forecast else "enhance"
    return {
        "frames": many.format((T, C, H, W)),
        "batch": many.format((1, T, C, H, W)),
        "units": "no unit" if units == "1" else units,
        "mode": mode,
        "ahead": "the next frames" if m.forecast else "finer frames",
    }


def licence(m: Material) -> str:
    said = m.attrs.get("license")
    if not said:
        return (
            "The data came without a licence. Ask whoever released them before publishing weights "
            "that were learnt from them, and put the licence at the head of this card."
        )
    return (
        f"The training data are under {said}. The head of this card says the same of the weights, "
        "which were learnt from them; whoever publishes them may have to say otherwise there."
    )


def onnx(m: Material) -> dict[str, Any]:
    """Of model.onnx; empty where there is none."""
    if m.onnx is None:
        return {}
    units = {c["name"]: c["units"] for c in m.trained.targets}
    found = [f"{value:.2g}{after(units[name])} ({name})" for name, value in
             m.onnx.differences.items()]  # fmt: skip
    return {
        "opset": m.onnx.opset,
        "x": shape(m.onnx.x),
        "y": shape(m.onnx.y),
        "difference": listed(found),
        "relative": f"{m.onnx.relative:.1g}",
        "tolerance": f"{TOLERANCE:g}",
        "sizes": listed([shape(size) for size in m.onnx.sizes]),
    }


def files(m: Material) -> list[tuple[str, str, str]]:
    """Name, size and what it is."""
    weights = "the averaged weights" if m.averaged else "the weights"
    what = {
        "settings.json": "all else that a use needs: the model's settings and shapes, the task, "
        "the scaling, the channels, the tracks, versions",
        "model.safetensors": f"{weights}, as they were trained, and no code",
        "model.onnx": "the same for onnxruntime and alike, scaling included",
        "sample.png": "the picture above",
    }
    return [(name, size(held), what[name]) for name, held in m.files.items()]
