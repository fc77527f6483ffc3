"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ManifestDir = Annotated[Path, typer.Option(help="Folder of manifests and splits.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Which = Annotated[str, typer.Option("--checkpoint", help="best, last, or as in epoch-0010.")]
