"""Run folders are looked for, and a wrong one is told of at once, before torch is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline import (
    beforehand,
    checkpoint,
    manifest,
    runs,
    score_files,
    settings,
    settings_file,
    store,
    train,
)
from pipeline.errors import UsageError, UserError

HEAVY = {"torch", "zarr", "numpy", "pandas"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """runs/first with checkpoints, runs/second that was stopped at once, and a folder of notes."""
    kept = tmp_path / "runs/first/checkpoints"
    kept.mkdir(parents=True)
    for name in ("best", "last", "pretrained", "epoch-0010", ".best"):
        (kept / f"{name}.ckpt").touch()
    (tmp_path / "runs/second").mkdir()
    (tmp_path / "runs/second/settings.yaml").touch()
    (tmp_path / "runs/notes").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("run", "which", "told"),
    [
        ("runs/frist", "best", "runs/frist: no such run folder; did you mean runs/first?"),
        ("frist", "best", "frist: no such run folder; did you mean runs/first?"),
        ("runs/x", "best", "runs/x: no such run folder; there are runs/first, runs/second"),
        ("else/x", "best", "else/x: no such run folder; run `cli train --run else/x` first"),
        ("runs", "best", "not a run folder, but one of runs; give one: runs/first, runs/second"),
        ("runs/notes", "best", "neither checkpoints nor settings.yaml are in it; there are runs/f"),
        ("runs/first", "epoch-10", "it has best, epoch-0010, last, pretrained: choose with "
         "--checkpoint, as in --checkpoint epoch-0010"),
        ("runs/first", "zzz", "as in --checkpoint best"),
        ("runs/second", "best", "no checkpoint 'best', nor any other: its training stopped before"),
        ("runs/first/checkpoints/last.ckpt", "best", "is a file; give the run's folder runs/first, "
         "and --checkpoint last"),
    ],
)  # fmt: skip
def test_a_wrong_run_is_told_what_is_near(place: Path, run: str, which: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        runs.in_run(Path(run), which)
    assert told in str(error.value)
    assert str(error.value).startswith(run)


def test_every_checkpoint_of_a_run_is_found(place: Path) -> None:
    for name in ("best", "last", "pretrained", "epoch-0010"):
        assert runs.in_run(Path("runs/first"), name) == Path(f"runs/first/checkpoints/{name}.ckpt")
    assert [*runs.checkpoints(Path("runs/first"))] == ["best", "epoch-0010", "last", "pretrained"]


def test_all_runs_that_were_not_evaluated_are_named(place: Path) -> None:
    with pytest.raises(UserError) as error:
        runs.refuse_unscored([Path("runs/first"), Path("runs/secnd")], "test")
    assert error.value.args == (
        "runs/first: has no scores-test.json; run `cli evaluate runs/first --on test` first",
        "runs/secnd: no such run folder; did you mean runs/second?",
    )


def said(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


def test_the_stages_say_the_same(place: Path) -> None:
    """What is told beforehand is what would be told later."""
    run, data = Path("runs/first"), Path("data/WP.zarr")
    assert said(lambda: beforehand.refuse_no_store(data)) == said(lambda: store.open_store(data))
    for on in ("eval", "test"):
        assert score_files.path(run, on).name == runs.SCORES[on]
        early = said(lambda on=on: runs.refuse_unscored([run], on))  # type: ignore[misc]
        assert early == said(lambda on=on: score_files.read(run, on))  # type: ignore[misc]
    data.mkdir(parents=True)
    opened = store.Store(data, {})
    split = manifest.split_file(manifest.FOLDER, data)
    late = said(lambda: manifest.read_split(split, opened))
    assert said(lambda: beforehand.refuse_data(data)) == late
    assert settings.DataSettings().store == beforehand.STORE
    on_cpu = settings.RunSettings(training=settings.TrainSettings(device="cpu"))
    early = said(lambda: beforehand.refuse_taken(run))
    assert early == said(lambda: train.train(on_cpu, run))


def test_a_run_to_resume_is_told_what_is_near(place: Path) -> None:
    out = "leave out --resume to start one"
    told = {"runs/frist": f"did you mean runs/first? Else {out}", "runs/x": out, "runs/notes": out}
    for run, way in told.items():
        early = said(lambda run=run: settings_file.of_run(Path(run)))  # type: ignore[misc]
        assert early == f"{run}: no training to resume here; {way}"
    early = said(lambda: checkpoint.latest(Path("runs/second")))
    assert early.startswith("runs/second: no checkpoint here to go on from")
    assert early.endswith("leave out --resume to start it anew")


def test_training_is_told_at_once_what_is_missing(place: Path) -> None:
    def look(
        config: str | None = None,
        *overrides: str,
        base: dict[str, Any] | None = None,
        store: Path | None = None,
        split: Path | None = None,
    ) -> None:
        given = settings_file.gathered(Path(config) if config else None, overrides)
        beforehand.refuse_data_asked(given, base, store, split)

    def told(*asked: Any, **more: Any) -> str:
        return said(lambda: look(*asked, **more))

    there, split = place / "x.zarr", place / "s.json"
    assert told().startswith("data/WP.zarr: no store here")
    assert told("tempogan").startswith("data/WP.zarr: no store here")
    assert told("tempogan", "training.devices=2").startswith("data/WP.zarr: no store here")
    assert told("tempogan", "training.lr=1", store=there).startswith(f"{there}: no store here")
    there.mkdir()
    assert told(store=there).startswith("data_manifest/x.split.json: no split file")
    assert told(store=there, split=split).startswith(f"{split}: no split file")
    assert told(None, "training.lr=1", store=there, split=split).startswith(f"{split}: no split")
    base = {"data": {"store": "moved.zarr", "split": str(split)}}
    assert told(base=base).startswith("moved.zarr: no store here")
    assert told(base=base, store=there).startswith(f"{split}: no split file")
    split.touch()
    look(base=base, store=there)
    look(store=there, split=split)
    # settings of one's own are judged first, by the stage
    Path("mine.yaml").write_text("training: {epoch: 3}")
    look("mine.yaml")
    look(None, "training.epoch=3")


def test_a_run_whose_data_have_moved_is_told_where_they_were(place: Path) -> None:
    run = Path("runs/second")
    file = run / "settings.yaml"
    file.write_text("data: {store: moved.zarr, split: s.json}")
    early = said(lambda: beforehand.refuse_data_of(run, None, None))
    assert early.startswith("moved.zarr: no store here")
    Path("here.zarr").mkdir()
    early = said(lambda: beforehand.refuse_data_of(run, Path("here.zarr"), None))
    assert early.startswith("s.json: no split file; run `cli split here.zarr")
    Path("s.json").touch()
    beforehand.refuse_data_of(run, Path("here.zarr"), None)
    for text in ("", "data: [", "data: 3", "data: {store: null}"):
        file.write_text(text)
        beforehand.refuse_data_of(run, None, None)  # the checkpoint says it, too
    early = said(lambda: beforehand.refuse_data_of(run, Path("no.zarr"), None))
    assert early.startswith("no.zarr: no store here")


WRONG: dict[str, Sequence[str]] = {
    "no such run folder; did you mean runs/first": ("evaluate", "runs/frist"),
    "no checkpoint 'epoch-0020'; it has": ("evaluate", "runs/first", "--checkpoint", "epoch-0020"),
    "x.zarr: no store here": ("evaluate", "runs/first", "--store", "x.zarr"),
    "has no scores.json; run": ("report", "runs/first"),
    "has no scores-test.json": ("compare", "runs/first", "runs/second", "--on", "test"),
    "no checkpoint 'besst'": ("export", "runs/first", "--checkpoint", "besst"),
    "did you mean srgan_precipitation": ("settings", "check", "srgan"),
    "line 1, column 12": ("settings", "show", "bad.yaml"),
}


def test_nothing_heavy_is_loaded_before_it_is_said(place: Path) -> None:
    """All in one process, which would otherwise start eight times."""
    (place / "bad.yaml").write_text("training: [")
    code = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "import cli\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    done = CliRunner().invoke(cli.app, words)\n"
        f"    heavy = sorted({HEAVY} & {{*sys.modules}})\n"
        "    print(json.dumps([done.stderr, done.exit_code, heavy]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([*WRONG.values()])],
        cwd=place, capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for told, (stderr, exit_code, heavy) in zip(WRONG, answers, strict=True):
        assert told in stderr
        assert exit_code in (UserError.code, UsageError.code)
        assert heavy == [], told


def test_those_who_hold_checkpoints_look_in_the_same_place(place: Path) -> None:
    assert checkpoint.in_run is runs.in_run
