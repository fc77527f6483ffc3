"""`cli export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pipeline import runs
from pipeline.commands.arguments import Run, Which, flag, option
from pipeline.commands.screen import console, finish_with, note, starting, stoppable, told


def export(
    run: Run,
    out: Annotated[
        Path | None,
        option("DIR", "Folder to make. Default: export in the run's folder."),
    ] = None,
    checkpoint: Which = "best",
    onnx: Annotated[
        bool, flag("--onnx", r"Also model.onnx, compared with torch; needs eddy\[onnx].")
    ] = False,
    opset: Annotated[
        int | None,
        option("N", "Of ONNX. Default: what torch prefers.", min=18),
    ] = None,
    replace: Annotated[bool, flag("--replace", "Also where an exported model lies.")] = False,
) -> None:
    """Make a folder of a model to keep or to give away.

    Writes safetensors, settings as JSON, and a model card (README.md) with data, scores, licence
    and limits; with --onnx the network in physical units, too. `cli infer` takes it for a run.

    Examples:
        cli export runs/first --out first-model
        cli export runs/ahead --checkpoint last --onnx
    """
    from pipeline.progress import working

    runs.in_run(run, checkpoint)
    with stoppable("no folder was made; the same command starts over"):
        with starting():
            from pipeline import export as stage
            from pipeline.reporting.words import after, size

        with working("export"):
            done = stage.export(run, out, which=checkpoint, onnx=onnx, opset=opset, replace=replace)
    for sentence in done.notes:
        note(sentence)
    for name, held in done.files.items():
        console.print(f"{name:<18} {size(held):>9}", markup=False)
    if done.onnx:
        most = ", ".join(
            f"{value:.2g}{after(done.units[name])} ({name})"
            for name, value in done.onnx.differences.items()
        )
        console.print(
            f"onnxruntime and torch differ by {most} at most, {done.onnx.relative:.1g} of the "
            "range of the values",
            markup=False,
        )
    told("Model", done.out)
    told("Card", done.out / next(iter(done.files)))
    finish_with(done.problems, "infer", done.out, "INPUT", "--out", "out.nc")
