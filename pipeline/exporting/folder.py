"""A model's folder: the weights as safetensors, all else that its use needs as JSON beside them.

settings.json names the weights by their hash, so that neither is ever used with another's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import atomic
from pipeline.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import; a wrong --checkpoint is told of before
    import torch

FORMAT = "eddy model"
FORMAT_VERSION = 1
SETTINGS, WEIGHTS, CARD, PICTURE, ONNX = (
    "settings.json",
    "model.safetensors",
    "README.md",
    "sample.png",
    "model.onnx",
)
FILES = (SETTINGS, WEIGHTS, CARD, PICTURE, ONNX)


def write(
    folder: Path,
    checkpoint: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the weights, then settings.json, which is returned.

    checkpoint: what a checkpoint keeps, as JSON, without its weights; about: more of that, and what
    is for people. Every weight keeps its name and dtype; one of two names is written under both.
    """
    from safetensors.torch import save

    # safetensors refuses tensors that share memory, or are part of a larger one
    apart = {name: values.detach().cpu().contiguous().clone() for name, values in weights.items()}
    # Its save_file makes a file that nobody else on the machine may read
    (folder / WEIGHTS).write_bytes(save(apart, metadata={"format": "pt"}))
    settings = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        **about,
        "weights": {
            "file": WEIGHTS,
            "sha256": digest(folder / WEIGHTS),
            "numbers": sum(values.numel() for values in apart.values()),
        },
        **checkpoint,
    }
    atomic.write_json(folder / SETTINGS, settings)
    return settings


def is_one(folder: Path) -> bool:
    """Whether it is a model's folder; that of a run has checkpoints."""
    return (folder / SETTINGS).is_file() and not (folder / "checkpoints").is_dir()


def chosen(folder: Path, which: str) -> Path:
    """settings.json, where the folder holds that checkpoint; best means the one that it holds.

    Raises UserError.
    """
    held = settings_of(folder)["checkpoint"]
    if which not in ("best", held):
        raise UserError(
            f"{folder}: no checkpoint {which!r}; an exported model is one checkpoint, here {held}: "
            "leave out --checkpoint"
        )
    return folder / SETTINGS


def settings_of(folder: Path) -> dict[str, Any]:
    """settings.json. Raises UserError for anything else."""
    file = folder / SETTINGS
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; run `cli export` to make it") from None
    except ValueError as error:
        raise UserError(f"{file}: damaged, not JSON ({error}); copy it or export again") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{file}: not the settings of a model that `cli export` made")
    if found["version"] > FORMAT_VERSION:
        raise UserError(f"{file}: of version {found['version']}; update eddy to read it")
    if not {"weights", "checkpoint"} <= set(found):
        raise UserError(f"{file}: damaged, a part is missing; copy it or export again")
    return found


def read(folder: Path) -> dict[str, Any]:
    """As a checkpoint's plain data, with the weights. Raises UserError for damaged ones."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found = settings_of(folder)
    file = folder / WEIGHTS
    if not file.is_file():
        raise UserError(f"{file}: no such file; copy the whole folder, or export again")
    if digest(file) != found["weights"].get("sha256"):
        raise UserError(
            f"{file}: not the weights that {SETTINGS} beside it is of: damaged, of another model, "
            "or not fetched yet (`git lfs pull`); copy the whole folder, or export again"
        )
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file}: not safetensors ({error}); export again") from None
    return {**found, "weights": weights, "averaged": None}


def digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def refuse_place(out: Path, replace: bool) -> None:
    """Before long work: a new or empty folder, or with replace a model's. Raises UserError."""
    atomic.refuse_unwritable(out)
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file; choose another --out")
    strangers = sorted(path.name for path in out.iterdir() if path.name not in FILES)
    if strangers:
        raise UserError(
            f"{out}: holds more than an exported model ({', '.join(strangers[:3])}), which would "
            "be lost; choose another --out"
        )
    if any(out.iterdir()) and not is_one(out):
        raise UserError(f"{out}: holds something else than an exported model; choose another --out")
    if is_one(out) and not replace:
        raise UserError(f"{out}: holds an exported model; give --replace, or choose another --out")
