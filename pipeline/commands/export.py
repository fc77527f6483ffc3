"""`cli export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.arguments import Which
from pipeline.commands.screen import complaints, console, finish_with


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to make. Default: export in the run's folder.")
    ] = None,
    checkpoint: Which = "best",
    onnx: Annotated[
        bool,
        typer.Option("--onnx", help=r"Also model.onnx, compared with torch; needs eddy\[onnx]."),
    ] = False,
    opset: Annotated[
        int | None, typer.Option(min=18, help="Of ONNX. Default: what torch prefers.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where an exported model lies.")
    ] = False,
) -> None:
    """Make a folder of a model to keep or to give away: safetensors, settings, a model card, ONNX.

    `cli infer` takes the folder for a run, and its README.md says what the model is worth.

    Example: cli export runs/first --out first-model

    Example: cli export runs/ahead --checkpoint last --onnx
    """
    from pipeline import export as stage
    from pipeline.exporting.card import mib
    from pipeline.reporting.words import after

    done = stage.export(run, out, which=checkpoint, onnx=onnx, opset=opset, replace=replace)
    for note in done.notes:
        complaints.print("[yellow]Note:[/]", note.replace("[", r"\["))
    for name, size in done.files.items():
        console.print(f"{name:<18} {mib(size):>9}", markup=False)
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
    console.print(f"Model     {done.out}", markup=False)
    console.print(f"Card      {done.out / next(iter(done.files))}", markup=False)
    console.print(f"Next      cli infer {done.out} INPUT --out out.nc", markup=False)
    finish_with(done.problems)
