"""`cli split`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from rich.table import Table

from pipeline.commands import completion, onward
from pipeline.commands.arguments import OUTPUT, Json, ManifestDir, Store, flag, option
from pipeline.commands.screen import (
    again,
    console,
    listed,
    next_step,
    note,
    starting,
    stoppable,
    told,
    write_json,
)

AT_RANDOM = "By share"
FRACTION = "Instead of --eval-ids: this share of the typhoons, 0 to 1, drawn at random."
KEYS = {
    "file": "the split that was written; null with --dry-run",
    "version": "of the form",
    "store": "the store's name",
    "title": "of the data, and below its licence and whom to name",
    "license": "",
    "attribution": "",
    "references": "",
    "acknowledgement": "",
    "manifest_hash": "the conversion that is divided",
    "selected_by": "how the tracks were chosen",
    "train": "ids",
    "eval": "ids",
    "test": "ids",
    "frames": "number by part, of those without a flag",
    "triplets": "number by part",
    "statistics": "of the training tracks, by channel: count, mean, std, min, max",
}
LACKS = {
    "train": "TempoGAN and others that learn from several frames cannot be trained",
    "eval": "scores of changes in time will be missing",
    "test": "scores of changes in time will be missing",
}
LAST = "Instead: the latest tracks, with this share of the frames, 0 to 1."


def split(
    path: Store = Path("data/WP.zarr"),
    eval_ids: Annotated[
        list[str] | None,
        option(
            "IDS",
            "Typhoons to hold out: 202107,202110, seasons 2015-2018, or @file.",
            autocompletion=completion.ids,
        ),
    ] = None,
    test_ids: Annotated[
        list[str] | None,
        option(
            "IDS",
            "Typhoons for the final test, as --eval-ids. Default: none.",
            autocompletion=completion.ids,
        ),
    ] = None,
    preset: Annotated[
        Literal["ss-l2", "neurips23"] | None,
        option(
            "ss-l2|neurips23",
            "As published. ss-l2: the last two seasons are the test; eval as asked, or the "
            "season before. neurips23: train before 2005, eval to 2014, test from 2015 on.",
        ),
    ] = None,
    dry_run: Annotated[bool, flag("--dry-run", "Only show the split; nothing is written.")] = False,
    eval_fraction: Annotated[float | None, option("SHARE", FRACTION, AT_RANDOM)] = None,
    seed: Annotated[int, option("N", "Of that draw.", AT_RANDOM)] = 0,
    eval_last: Annotated[float | None, option("SHARE", LAST, AT_RANDOM)] = None,
    out: Annotated[
        Path | None,
        option("FILE", "The split to write. Default: data_manifest/STORE.split.json.", OUTPUT),
    ] = None,
    manifest_dir: ManifestDir = Path("data_manifest"),
    json: Json = None,
) -> None:
    """Hold whole typhoons out: a training, an eval and a test part.

    Whole ones, because the frames of one storm resemble one another. Reads a store (or a raw tree),
    writes one small JSON file with the ids of each part and the training part's statistics. Says
    how many sound frames and triplets each part has: three such frames in a row, without a gap.

    Examples:
        cli split data/WP.zarr --eval-ids 2015-2018 --test-ids 2019-2022
        cli split data/WP.zarr --preset neurips23
        cli split data/WP.zarr --eval-fraction 0.1 --dry-run
        cli split data/rain.zarr --eval-last 0.2
    """
    with stoppable("nothing was written; the same command starts over"):
        with starting():
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
            dry_run=dry_run,
        )
    write_json(json, KEYS, {"file": None if dry_run else file, **made.model_dump()})
    table = Table("part", "tracks", "sound frames", "triplets", "ids", title=str(file))
    for part in manifest.PARTS:
        ids = getattr(made, part)
        held = made.frames[part], made.triplets[part]
        table.add_row(part, str(len(ids)), *map(str, held), listed(ids))
    console.print(table)
    if preset:  # what of it whole tracks cannot honour
        console.print(f"Chosen by {made.selected_by}", markup=False)
    for mean, std in zip(made.statistics.mean, made.statistics.std, strict=True):
        console.print(f"Training tracks: mean {mean:.2f}, standard deviation {std:.2f}")
    if replaced:
        note(f"{file}: the split that was there {'would be' if dry_run else 'was'} replaced")
    for part, lacks in LACKS.items():
        if getattr(made, part) and not made.frames[part]:
            note(f"the {part} tracks hold no frame without a flag: nothing can be judged on them")
        elif getattr(made, part) and not made.triplets[part]:
            note(f"the {part} tracks hold no triplet, three sound frames in a row: {lacks}")
    if dry_run:
        console.print("Nothing was written")
        next_step(*again())
        return
    told("Split", file)
    usual = file == manifest.split_file(manifest.FOLDER, path)
    next_step(*onward.to_train(path, made, None if usual else file))
