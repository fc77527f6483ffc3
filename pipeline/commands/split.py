"""`cli split`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from pipeline.commands.arguments import ManifestDir
from pipeline.commands.screen import console, listed


def split(
    path: Annotated[Path, typer.Argument(metavar="STORE")] = Path("data/WP.zarr"),
    eval_ids: Annotated[
        list[str] | None,
        typer.Option(help="Typhoons to set aside: 202107,202110, seasons 2015-2018, or @file."),
    ] = None,
    test_ids: Annotated[
        list[str] | None, typer.Option(help="Typhoons for the final test; as --eval-ids.")
    ] = None,
    eval_fraction: Annotated[
        float | None, typer.Option(help="Instead of ids: this share of the typhoons, at random.")
    ] = None,
    eval_last: Annotated[
        float | None, typer.Option(help="Instead: the latest tracks, with this share of frames.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of that draw.")] = 0,
    preset: Annotated[
        Literal["ss-l2", "neurips23"] | None,
        typer.Option(
            help="As published. ss-l2: the last two seasons are the test; eval as asked, or the "
            "season before. neurips23: train before 2005, eval to 2014, test from 2015 on."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Default: data_manifest/STORE.split.json.")
    ] = None,
    manifest_dir: ManifestDir = Path("data_manifest"),
) -> None:
    """Set whole typhoons aside, and add up the statistics of the training ones.

    Example: cli split data/WP.zarr --eval-ids 202107,2018-2019

    Example: cli split data/WP.zarr --preset neurips23
    """
    from pipeline import manifest
    from pipeline import split as stage

    file = out or manifest.split_file(manifest_dir, path)
    replaced = file.exists()
    made = stage.split(
        path,
        file,
        eval_ids=eval_ids or (),
        test_ids=test_ids or (),
        eval_fraction=eval_fraction,
        eval_last=eval_last,
        seed=seed,
        preset=preset,
    )
    table = Table("part", "tracks", "triplets", "ids", title=str(file))
    for part in manifest.PARTS:
        ids = getattr(made, part)
        table.add_row(part, str(len(ids)), str(made.triplets[part]), listed(ids))
    console.print(table)
    if preset:  # what of it whole tracks cannot honour
        console.print(f"Chosen by {made.selected_by}", markup=False)
    if replaced:
        console.print("Note: this replaces the split that was there")
    if not made.triplets["train"]:
        console.print("[yellow]Warning:[/] the training tracks hold no triplet: nothing to train")
    for mean, std in zip(made.statistics.mean, made.statistics.std, strict=True):
        console.print(f"Training tracks: mean {mean:.2f}, standard deviation {std:.2f}")
