"""All that a report's page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.answers import MODEL
from pipeline.reporting.storyboard import Board


@dataclass(frozen=True)
class Material:
    """All that a page is made of."""

    run: str  # its folder's name
    model: str
    scores: Mapping[str, Any]  # scores.json
    log: Sequence[Mapping[str, Any]]  # metrics.jsonl
    settings: str  # settings.yaml
    about: Mapping[str, Any]  # about.json
    attrs: Mapping[str, Any]  # of the store
    board: Board
    software: str  # that makes the page

    @property
    def rows(self) -> list[str]:
        return list(self.scores["rows"])

    @property
    def against(self) -> str:
        return str(self.scores["intervals"]["against"])

    @property
    def ids(self) -> list[str]:
        return list(self.scores["tracks"])

    def label(self, row: str) -> str:
        return f"{self.model} (model)" if row == MODEL else row

    def style(self, row: str) -> int:
        """Of its lines, the same in every chart."""
        return self.rows.index(row) + 1
