"""Cheap mistakes, told before torch is loaded, which takes seconds: what a command needs is there.

The stages look again, and more closely; what both refuse they refuse in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import settings_file
from pipeline.errors import UserError
from pipeline.settings_file import SET, Given, flattened

STORE = Path("data/WP.zarr")  # of settings that name none
MANIFESTS = Path("data_manifest")


def refuse_data(store: Path, split: Path | None = None) -> None:
    """Raises UserError where one of them is not there. split: None: the store's usual one."""
    refuse_no_store(store)
    split = split or MANIFESTS / f"{store.stem}.split.json"
    if not split.is_file():
        raise UserError(f"{split}: no split file; run `cli split {store} --eval-ids ...` first")


def refuse_no_store(store: Path) -> None:
    """Raises UserError where there is nothing of that name."""
    if not store.exists():
        raise UserError(
            f"{store}: no store here; run `cli convert SOURCE {store}` first, or say where it is "
            "now"
        )


def refuse_data_of(run: Path, store: Path | None, split: Path | None) -> None:
    """As refuse_data does; what is None is where the run was trained."""
    its, divided = data_of(run)
    store, split = store or its, split or divided
    if store:
        refuse_no_store(store)
    if store and split:
        refuse_data(store, split)


def data_of(run: Path) -> tuple[Path | None, Path | None]:
    """The store and the split that a run was trained with; None where nothing says so."""
    try:
        data = settings_file.of_run(run)["data"]
        return Path(data["store"]), Path(data["split"])
    except (UserError, KeyError, TypeError):
        return None, None  # an exported model, or damaged: the checkpoint says it, too


def refuse_taken(run: Path) -> None:
    """Raises UserError for a run folder in which a training was begun."""
    if (run / "checkpoints" / "last.ckpt").exists():
        raise UserError(f"{run}: already holds a training; add --resume, or choose another --run")


def refuse_data_asked(
    given: Given, base: Mapping[str, Any] | None, store: Path | None, split: Path | None
) -> None:
    """Raises UserError where the data of a training are not there.

    given, base: what its settings say, and those of the run that goes on. Data that they name are
    looked at where nothing can be wrong with the settings: where they are eddy's own or a run's.
    What is wrong with others is told first, and that takes the model. store, split: instead.
    """
    origins = [origin for key, origin in given.origins.items() if key != "training.devices"]
    if any(origin.startswith(SET) or Path(origin).is_file() for origin in origins):
        if store:
            refuse_no_store(store)
        if store and split:
            refuse_data(store, split)
        return
    named = {**dict(flattened(base or {})), **given.values}
    its, divided = named.get("data.store", STORE), named.get("data.split")
    if isinstance(its, str | Path) and isinstance(divided, str | Path | None):
        refuse_data(store or Path(its), split or (Path(divided) if divided else None))
    # else they are refused with the settings
