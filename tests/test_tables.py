"""Scores and tables as the terminal, and a log, show them."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from pipeline import metrics
from pipeline.commands import tables
from pipeline.commands.wide import Screen
from pipeline.inspecting import track_table
from pipeline.reporting.words import size

UNITS = {"rmse": "K", "bias": "K", "ssim": "1", "tof": "px", "temporal_std_ratio": "1"}
ROWS = {
    "model": {"rmse": 1.5, "bias": -0.2, "ssim": 0.9, "tof": 1.0, "temporal_std_ratio": math.nan},
    "bicubic": {"rmse": 2.5, "bias": 0.1, "ssim": 0.9, "tof": 2.0, "temporal_std_ratio": math.nan},
}


def text(printed: object, width: int = 100) -> str:
    console = Console(width=width, soft_wrap=True, file=io.StringIO())
    console.print(printed)
    return console.file.getvalue()  # type: ignore[attr-defined]


def long_table() -> Table:
    table = Table("name", "value", box=None)
    table.add_row("short", "1")
    table.add_row("long", "word " * 60 + "end")
    return table


def test_a_log_has_tables_as_wide_as_they_are_and_no_blanks_at_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    log = io.StringIO()
    Screen(soft_wrap=True, file=log).print(long_table())
    lines = log.getvalue().splitlines()
    assert len(lines) == 3
    assert len(lines[2]) > 300
    assert lines[2].endswith("word end")
    assert lines == [line.rstrip() for line in lines]


def test_a_log_has_results_and_notes_in_their_order(tmp_path: Path) -> None:
    """Standard output is no terminal and buffers; what is on standard error is not held back."""
    (tmp_path / "a.yaml").write_text("training: {schedule: onecycle, beta1: 0.5}\n")
    (tmp_path / "b.yaml").write_text("training: {epochs: 3}\n")
    words = [Path(sys.executable).with_name("cli"), "settings", "check", "a.yaml", "b.yaml"]
    usual = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with (tmp_path / "log").open("w") as log:
        subprocess.run(words, cwd=tmp_path, env=usual, stdout=log, stderr=log, check=True)
    said = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in said] == ["Fine", "Note:", "Fine", "Next"]


def test_columns_and_terminals_say_how_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    assert Screen(file=io.StringIO()).width == 50
    monkeypatch.delenv("COLUMNS")
    assert Screen(file=io.StringIO(), width=70).width == 70
    terminal = Screen(file=io.StringIO(), force_terminal=True, _environ={"COLUMNS": "60"})
    assert terminal.width == 60
    terminal.size = (40, 20)  # as rich sets it
    assert terminal.size == (40, 20)


def test_each_score_says_which_way_is_better_and_the_best_is_bold() -> None:
    table = tables.method_table(ROWS, UNITS)
    said = [str(cell) for cell in table.columns[0].cells]
    assert said == ["↓  rmse [K]", "→0 bias [K]", "↑  ssim", "↓  tof [px]", "→1 temporal_std_ratio"]
    bold = [[str(cell.style) for cell in column.cells] for column in table.columns[1:]]
    assert bold == [["bold", "", "", "bold", ""], ["", "bold", "", "", ""]]  # equal: none
    assert "nan" not in text(table)


def test_decimals_stand_below_one_another() -> None:
    rows = {"a": {"rmse": 123.456, "bias": 0.5}, "b": {"rmse": 3.0, "bias": -12.0}}
    lines = text(tables.method_table(rows, {"rmse": "K", "bias": "K"})).splitlines()[1:]
    assert len({line.index(".") for line in lines}) == 1
    assert len({line.rindex(".") for line in lines}) == 1


def test_below_the_table_its_signs_are_explained() -> None:
    ways, undefined = tables.key(ROWS, UNITS)
    assert ways == (
        "↓ lower is better, ↑ higher is better, →0 nearer 0 is better, →1 nearer 1 is better"
    )
    dash = "\N{EN DASH}"
    assert undefined == f"{dash} undefined here: temporal_std_ratio needs three consecutive frames"
    still = {row: scores | {"tof": math.nan} for row, scores in ROWS.items()}
    assert "tof needs two consecutive frames; temporal" in tables.key(still, UNITS)[1]
    sound = {row: {"rmse": scores["rmse"]} for row, scores in ROWS.items()}
    assert tables.key(sound, {"rmse": "K"}) == ["↓ lower is better"]
    assert tables.key({"a": {"crps_x": 1.0}}, {"crps_x": "K"}) == []  # not one of ours


def test_every_way_that_a_score_can_be_better_has_a_sign() -> None:
    assert {about.better for about in metrics.ABOUT.values()} - {"none"} == set(tables.ARROWS)


def test_a_terminal_without_arrows_gets_other_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    latin = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    monkeypatch.setattr(tables, "console", latin)
    printed = text(tables.method_table(ROWS, UNITS)) + "".join(tables.key(ROWS, UNITS))
    printed.encode("latin-1")  # or UnicodeEncodeError
    assert "none undefined here" in printed


def test_a_verdict_is_a_sentence_and_says_from_whom_the_model_is_told_apart() -> None:
    found = {
        "bicubic": (-0.25, -0.4, -0.1),
        "bilinear": (-0.5, -0.6, -0.4),
        "means": (0.01, -0.05, 0.06),
        "lanczos": (0.2, 0.1, 0.3),
    }
    apart, so = tables.verdict(found, "bicubic", "K", 2)
    assert apart == (
        "The RMSE of the model is 0.250 K smaller than that of bicubic, with 95 % between 0.100 "
        "and 0.400 K smaller (2 tracks: rough)"
    )
    assert so == (
        "So its error is smaller than that of bicubic and bilinear; larger than that of lanczos; "
        "not told apart from that of means"
    )


def test_a_verdict_on_an_interval_about_nought_claims_nothing() -> None:
    apart, so = tables.verdict({"first": (-0.2, -0.3, 0.05)}, "first", "1", 30, "second")
    assert apart == (
        "The RMSE of second is 0.200 smaller than that of first, with 95 % between 0.300 smaller "
        "and 0.050 larger"
    )
    assert so == "So its error is not told apart from that of first"
    nothing = math.nan
    (alone,) = tables.verdict({"first": (0.2, nothing, nothing)}, "first", "mm", 30)
    assert alone == "The RMSE of the model is 0.200 mm larger than that of first"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_400, "999 kB"),
        (999_700, "1 MB"),  # not 1e+03 kB
        (5 * 2**20, "5.24 MB"),
        (999_700_000, "1 GB"),
        (202_300_000_000, "202 GB"),
        (999_700_000_000, "1,000 GB"),
        (4_567_000_000_000, "4,567 GB"),
    ],
)
def test_bytes_are_said_in_powers_of_a_thousand(count: int, said: str) -> None:
    assert size(count) == said


def looked_at(**found: object) -> dict[str, object]:
    nothing = ("unreadable", "other_shapes", "duplicates", "frames_with_missing_pixels", "blank",
               "too_many_missing", "hours_missing", "frames_without_best_track",
               "best_track_rows_without_frame")  # fmt: skip
    return {
        **dict.fromkeys(nothing, 0),
        "frames": 40,
        "triplets": 38,
        "shape": [1, 512, 512],
        "start": "2007-10-03T00:00:00",
        "end": "2007-10-04T15:00:00",
        "step_minutes": 60,
        "season": 2007,
        "name": "KROSA",
        "satellites": {"MTS1": 40},
        "satellite_changes": [],
        "bytes": 17_700_000,
        **found,
    }


def test_a_narrow_screen_gets_several_tables_each_with_a_name() -> None:
    tracks = {"200717": looked_at(), "202224": looked_at(too_many_missing=3)}
    console = Console(width=80, file=io.StringIO())
    for part in track_table.table_of(tracks, track_table.TREE, console):
        console.print(part)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    lines = said.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in said
    assert [
        line.strip() for line in lines if line and not line.startswith((" ", "track", "20"))
    ] == [
        "What is there",
        "What is missing or wrong",
        "Where it is from, and the rest",
    ]
    first = said[: said.index("What is missing")]
    assert all(word in first for word in ("2007 KROSA", "40", "38", "2007-10-04 15h"))


def test_what_is_nowhere_wrong_has_no_column() -> None:
    wide = Console(width=300, file=io.StringIO())

    def heads(tracks: dict[str, dict[str, object]]) -> str:
        (table, *_) = track_table.table_of(tracks, track_table.TREE, wide)
        assert isinstance(table, Table)
        return " ".join(str(column.header) for column in table.columns)

    assert "blank" not in heads({"200717": looked_at()})
    assert "gaps" in heads({"200717": looked_at()})
    assert "blank" in heads({"200717": looked_at(), "202224": looked_at(blank=1)})
    assert "blank" in heads({"200717": looked_at(blank=None)})  # not known is not none
