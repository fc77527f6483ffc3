"""`cli demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pipeline.commands.arguments import option
from pipeline.commands.screen import INTERRUPTED, console, fail, led, next_step, stoppable
from pipeline.errors import UserError

DEMO_SETTINGS = """\
# TempoGAN, small enough for about a minute on two CPU cores.
model:
  name: tempogan
  n_residual_blocks: 4
  warmup_steps: 600       # content alone; then both discriminators join
training:
  epochs: 6
  crops_per_window: 40
  batch_size: 4           # windows of 3 frames
  patch_size: 64
  lr: 1.0e-3
  ema: 0.99
"""
HOME = "http://agora.ex.nii.ac.jp/digital-typhoon/dataset/"
DEMO_MARK = ".made-by-cli-demo"


def demo(
    ctx: typer.Context,
    out: Annotated[
        Path,
        option("DIR", "Folder to make; an earlier demo there is replaced."),
    ] = Path("demo"),
) -> None:
    """See all of it work on invented typhoons, without any data.

    Writes raw files in the release's form, then runs inspect, convert, split, train, evaluate,
    report and infer on them, as you would type them, and says where to look. Takes some two minutes
    on two idle cores.

    Examples:
        cli demo
        cli demo --out /tmp/demo
    """
    with stoppable(f"{out} is unfinished; the same command starts over"):
        shown(ctx, out)


def shown(ctx: typer.Context, out: Path) -> None:
    """The demo."""
    import json
    import shutil
    import time

    from pipeline.progress import progress
    from pipeline.sources.digital_typhoon import INVENTED
    from pipeline.sources.synthetic import demo_storms, write_tree

    if out.exists() and any(out.iterdir()):
        if not (out / DEMO_MARK).exists():
            raise UserError(f"{out}: holds something else than a demo; choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / DEMO_MARK).touch()
    seconds: dict[str, float] = {}
    group = ctx.find_root().command

    def step(name: str, *words: str | Path) -> None:
        """One command, as a user would type it."""
        console.print(f"\n[bold]$ cli {name} {' '.join(map(str, words))}[/]")
        begun = time.monotonic()
        with led():
            code = group.main([name, *map(str, words)], prog_name="cli", standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise typer.Exit(code)
        seconds[name] = time.monotonic() - begun

    console.print("[bold]A raw tree in the release's form, with invented storms[/]")
    begun = time.monotonic()
    storms = demo_storms(hours=9)
    total = sum(len(storm.image_hours()) for storm in storms)
    with progress("write raw files", total, "frames") as advance:
        write_tree(out / "WP", storms, progress=advance)
    (out / "WP" / INVENTED).write_text("Drawn by `cli demo`: no data of Digital Typhoon.\n")
    seconds["raw files"] = time.monotonic() - begun
    held_out = storms[-1].id
    step("inspect", out / "WP", "--html", out / "WP.html")
    (out / "demo.yaml").write_text(DEMO_SETTINGS)
    manifests = out / "data_manifest"
    step("convert", out / "WP", out / "WP.zarr", "--manifest-dir", manifests)
    step("split", out / "WP.zarr", "--eval-ids", held_out, "--manifest-dir", manifests)
    data = ("--store", out / "WP.zarr", "--split", manifests / "WP.split.json")
    step("train", out / "demo.yaml", *data, "--run", out / "run")
    step("evaluate", out / "run")
    step("report", out / "run")
    step(
        "infer", out / "run", out / "WP" / "image" / held_out,
        "--out", out / f"{held_out}.nc", "--mode", "check",
    )  # fmt: skip

    scores = json.loads((out / "run" / "scores.json").read_text())
    won = scores["model"]["rmse"] < scores["bicubic"]["rmse"]
    judged = Table("On a typhoon never trained on", "RMSE \\[K]", title="\nDemo")
    for row in ("bicubic", "bicubic_means", "model"):
        judged.add_row(row, f"{scores[row]['rmse']:.3f}")
    took = Table("What it took", "seconds")
    for name, spent in seconds.items():
        took.add_row(name, f"{spent:.0f}")
    console.print(judged, took)
    console.print("[bold]Look at[/]")
    for path in sorted(p for p in out.rglob(f"{held_out}*") if p.suffix in (".png", ".mp4", ".nc")):
        console.print(f"  {path}")
    console.print(f"  {out / 'WP.html'}")
    console.print(f"  {out / 'run' / 'report.html'}")
    console.print(f"  tensorboard --logdir {out / 'run' / 'tensorboard'}")
    console.print(
        f"[bold]Real data[/]\n  Download WP from {HOME}, and unpack it to data/WP: images lie in "
        "data/WP/image"
    )
    next_step("inspect", "data/WP", "--quick")
    if not won:
        fail("the model did not beat bicubic interpolation; the demo should", 1)
