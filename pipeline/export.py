"""Run -> a model's folder: safetensors, settings, a model card, and if wanted ONNX.

All that somebody needs who has neither the run nor its data; `cli infer` takes it for a run. The
folder appears whole or not at all.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline import checkpoint, runlog, score_files, software
from pipeline.checkpoint import Checkpoint
from pipeline.errors import UsageError, UserError
from pipeline.exporting import card, folder, onnx_file
from pipeline.exporting.material import Material, Sample, without_folders
from pipeline.manifest import Split
from pipeline.outputs import unfinished
from pipeline.progress import say
from pipeline.score_files import finite


@dataclass(frozen=True)
class Export:
    """What was written."""

    out: Path
    files: dict[str, int]  # bytes, by name; the card first
    numbers: int  # of the weights
    scored: list[str]  # parts of the split whose scores the card has
    onnx: onnx_file.Exported | None
    units: dict[str, str]  # of its differences, by channel
    notes: list[str]
    problems: list[str]  # what was asked for and is not there


def export(
    run: Path,
    out: Path | None = None,
    *,
    which: str = "best",
    onnx: bool = False,
    opset: int | None = None,
    replace: bool = False,
) -> Export:
    """Write the model's folder of one of a run's checkpoints; the same run gives the same files.

    out: None: export in the run's folder. opset: of ONNX; None: the one that torch prefers.
    replace: also where an exported model lies. A network that ONNX cannot say is a problem, and the
    rest is written. Raises UserError for anything else that is not as it should be.
    """
    if opset is not None and not onnx:
        raise UsageError("--opset is for --onnx; give both")
    if opset is not None and opset < onnx_file.OLDEST_OPSET:
        raise UsageError(f"--opset {opset}: expected {onnx_file.OLDEST_OPSET} or later")
    if onnx:
        onnx_file.refuse_missing()
    trained = checkpoint.load(checkpoint.in_run(run, which))
    if folder.is_one(run):
        raise UserError(f"{run}: is an exported model; export the run that it was made of")
    out = out or run / "export"
    folder.refuse_place(out, replace)
    scores, notes = scores_of(run, trained)
    with unfinished.opened(out, {"export": which}) as parts:
        parts.result.mkdir()
        made, problem = None, ""
        if onnx:
            say("ONNX: the network is traced for frames of any size, which takes a minute or more")
            try:
                made = onnx_file.write(
                    parts.result / folder.ONNX, trained, metadata(trained, which), opset
                )
            except UserError as error:
                problem = str(error)
                (parts.result / folder.ONNX).unlink(missing_ok=True)
        about, split = runlog.read_about(run), split_of(trained)
        parameters = parameters_of(trained)
        weights = trained.averaged or trained.weights
        settings = folder.write(
            parts.result,
            without_folders(checkpoint.plain(trained)),
            weights,
            {
                "software": software(),
                "model": trained.settings.model_name,
                "checkpoint": which,
                "averaged": trained.averaged is not None,
                "parameters": parameters,
                "trained_by": about,
                "test": split.test if split else None,
                "statistics": split.statistics.model_dump() if split else None,
                "onnx": None if made is None else asdict(made),
                "training": {"position": finite(trained.training["position"])},
            },
        )
        sample = sample_of(run, trained)
        if sample:
            shutil.copyfile(run / "samples" / sample.file, parts.result / folder.PICTURE)
        files = {path.name: path.stat().st_size for path in sorted(parts.result.iterdir())}
        text = card.render(
            Material(
                trained=trained,
                run=run.resolve().name,
                which=which,
                averaged=trained.averaged is not None,
                parameters=parameters,
                scores=scores,
                split=split,
                about=about,
                sample=Sample(folder.PICTURE, sample.epoch) if sample else None,
                onnx=made,
                no_onnx=problem,
                files=files,
                software=software(),
            )
        )
        (parts.result / folder.CARD).write_text(text, encoding="utf-8")
        parts.publish()
    if not scores:
        notes.append(f"the card has no scores; run `cli evaluate {run}` and export again")
    return Export(
        out=out,
        files={folder.CARD: len(text.encode()), **files},
        numbers=settings["weights"]["numbers"],
        scored=[told["on"] for told in scores],
        onnx=made,
        units={channel["name"]: channel["units"] for channel in trained.targets},
        notes=notes,
        problems=[f"{folder.ONNX}: {problem}"] if problem else [],
    )


def scores_of(run: Path, trained: Checkpoint) -> tuple[list[dict[str, Any]], list[str]]:
    """What the run's evaluations say of this checkpoint, of the test tracks first; and notes."""
    found, notes = [], []
    for on in ("test", "eval"):
        file = score_files.path(run, on)
        if not file.is_file():
            continue
        try:
            told = score_files.read(run, on)
        except UserError as error:
            notes.append(f"{error}; the card is without them")
            continue
        at = trained.training["position"]
        if (told["epoch"], told["step"]) != (at["epoch"], at["step"]):
            notes.append(
                f"{file.name} is of step {told['step']}, and this checkpoint of step {at['step']}: "
                "the card is without those scores"
            )
            continue
        found.append(told)
    return found, notes


def split_of(trained: Checkpoint) -> Split | None:
    """The split that was trained on, where its file is still there and still that one."""
    try:
        split = Split.model_validate_json(trained.settings.data.split_file.read_bytes())
    except (OSError, ValidationError):
        return None
    data = trained.data
    same = split.manifest_hash == data.manifest_hash and split.train == data.train
    return split if same else None


def sample_of(run: Path, trained: Checkpoint) -> Sample | None:
    """Of the pictures that a training drew, the checkpoint's own, or the last before it."""
    epoch = trained.training["position"]["epoch"]
    drawn = {
        int(found[1]): path.name
        for path in (run / "samples").glob("epoch-*.png")
        if (found := re.fullmatch(r"epoch-(\d+)", path.stem))
    }
    fit = [number for number in drawn if 0 < number <= epoch]  # 0: before the first step
    return Sample(drawn[max(fit)], max(fit)) if fit else None


def parameters_of(trained: Checkpoint) -> dict[str, int]:
    """How many numbers each player learns."""
    players = trained.model().players()  # type: ignore[operator]  # a Model has players
    return {name: sum(p.numel() for p in each.parameters()) for name, each in players.items()}


def metadata(trained: Checkpoint, which: str) -> dict[str, Any]:
    """Of an ONNX file, which may be found without the folder."""
    data, settings = trained.data, trained.settings
    names = ("name", "long_name", "units")
    x, y = (
        [{name: channel[name] for name in names} for channel in channels]
        for channels in (data.channels, trained.targets)
    )
    return {
        "software": software(),
        "model": settings.model_name,
        "task": settings.task.model_dump(mode="json"),
        "x": "frames (batch, T, C, H, W), float32, physical units, rows from north to south, NaN "
        "where missing",
        "y": "the answer (batch, T, C, H, W), float32, physical units",
        "x_channels": x,
        "y_channels": y,
        "step_seconds": data.step,
        "scaling": trained.scaling.plain(),  # which is inside
        "license": data.attrs.get("license", ""),
        "attribution": data.attrs.get("attribution", ""),
        "data": data.attrs.get("title", data.store),
        "manifest_hash": data.manifest_hash,
        "training_tracks": data.train,
        "checkpoint": which,
        "epoch": trained.training["position"]["epoch"],
        "step": trained.training["position"]["step"],
    }
