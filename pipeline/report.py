"""An evaluated run -> one HTML page with its scores, curves and pictures, readable offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import atomic, inputs, raw_tree, runlog, score_files, software
from pipeline.answers import Answers
from pipeline.errors import UsageError, UserError
from pipeline.progress import progress
from pipeline.reporting import choice, page, storyboard, windows
from pipeline.reporting.material import Material
from pipeline.scaling import is_rain
from pipeline.store import Store

Drawing = tuple[int, Iterator[storyboard.Board | None]]  # steps, and after each None; then all
PAGES = {"eval": "report.html", "test": "report-test.html"}


@dataclass(frozen=True)
class Report:
    """What was written."""

    file: Path
    size: int  # bytes
    stills: int
    loop: int  # frames
    shown: str = "frame"  # what the stills are: of a forecast windows


def report(
    run: Path,
    *,
    on: str = "eval",
    out: Path | None = None,
    frames: int = 3,
    store_path: Path | None = None,
    device: str = "auto",
) -> Report:
    """Write a run's report, as it was last evaluated on its eval or test tracks.

    frames: how many are shown beside those of the largest and the smallest gain; of rain the
    wettest. Of a forecast: how many windows, from the smallest error to the largest. store_path:
    where the frames are now, if not where they were scored. The same input gives the same bytes.
    Raises UserError for a run that was not evaluated, or was trained or moved since.
    """
    refuse_out(out)
    scores, trained = score_files.scored(run, on)
    opened = raw_tree.opened(store_path or Path(scores["store"]))
    inputs.refuse_others(opened.path, opened.channels, trained.data.channels)
    forecast = scores["task"] == "forecast"
    answers = Answers(trained, device, steps=scores["future"] if forecast else None)
    draw = of_forecast if forecast else of_frames
    total, making = draw(opened, answers, scores, frames, score_files.command(run, on))
    board = storyboard.Board([], None, [])
    with progress("report", total, "windows" if forecast else "frames") as advance:
        for made in making:
            if made is None:
                advance()
            else:
                board = made
    text = page.render(
        Material(
            run=run.resolve().name,
            model=trained.settings.model_name,
            scores=scores,
            log=runlog.read_log(run),
            settings=text_of(run / "settings.yaml"),
            about=runlog.read_about(run),
            attrs={**trained.data.attrs, **opened.attrs},
            board=board,
            software=software(),
        )
    )
    file = out or run / PAGES[on]
    with atomic.replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Report(
        file,
        file.stat().st_size,
        len(board.strips or board.stills),
        len(board.loop.frames) if board.loop else 0,
        "window" if forecast else "frame",
    )


def of_frames(
    opened: Store, answers: Answers, scores: Mapping[str, Any], count: int, again: str
) -> Drawing:
    """Of super-resolution."""
    every, against = choice.scored(scores["by_frame"]), scores["intervals"]["against"]
    if is_rain(scores["channel"]):
        wet = choice.wetness(opened, [frame.key for frame in every])
        stills = choice.chosen(every, count, against, wet)
        loop, one_in = choice.wettest_stretch(every, wet), 1
    else:
        stills = choice.chosen(every, count, against)
        loop, one_in = choice.looped(every)
    total = len({frame.key for frame in [*stills, *loop]})
    hours = scores.get("accumulation_hours")
    return total, storyboard.drawn(opened, answers, stills, loop, one_in, against, hours, again)


def of_forecast(
    opened: Store, answers: Answers, scores: Mapping[str, Any], count: int, again: str
) -> Drawing:
    """Of forecasts; the window in the middle of those that are shown is played."""
    every = choice.windows(scores["by_frame"])
    wet = None
    if is_rain(scores["channel"]):
        keys = [frame.key for window in every for frame in window.frames]
        wet = choice.wetness(opened, keys, answers.task.targets[0])
    shown, hours = choice.chosen_windows(every, count, wet), scores.get("accumulation_hours")
    played, channel = shown[len(shown) // 2], scores["channel"]
    return len(shown), windows.drawn(opened, answers, shown, played, channel, hours, again)


def refuse_out(out: Path | None) -> None:
    if out is None:
        return
    if out.suffix not in (".html", ".htm"):
        raise UsageError(f"{out}: the report is a page; give it a name that ends in .html")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; expected the name of a file to write")


def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""
