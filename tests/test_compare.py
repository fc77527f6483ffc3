"""Runs beside one another on the same frames."""

from __future__ import annotations

import errno
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline import compare, evaluate, score_files, settings, split, train
from pipeline.convert import ConvertSettings, convert
from pipeline.errors import UsageError, UserError
from pipeline.sources.synthetic import Storm, write_tree

SMALL = [
    "model.n_residual_blocks=1",
    "model.width=8",
    "training.patch_size=32",
    "training.batch_size=2",
    "training.epochs=1",
    "training.sample_every_epochs=0",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WP.zarr, its split, and two evaluated runs: one left as it began, one pushed astray."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("compare")
    storms = [
        Storm("202101", datetime(2021, 7, 1, tzinfo=UTC), hours=4),
        Storm("202102", datetime(2021, 7, 9, tzinfo=UTC), hours=3),
        Storm("202103", datetime(2021, 8, 2, tzinfo=UTC), hours=2),
    ]
    write_tree(home / "WP", storms, size=48)
    convert(home / "WP", home / "WP.zarr", ConvertSettings(), manifests=home, workers=1)
    split.split(home / "WP.zarr", home / "WP.split.json", eval_ids=["202102,202103"])
    for name, lr in (("calm", 1e-12), ("astray", 0.05)):
        made, _ = settings.load(None, [*SMALL, f"training.lr={lr}"])
        run = home / name / "run"
        train.train(settings.located(made, home / "WP.zarr", home / "WP.split.json"), run)
        evaluate.evaluate(run, resamples=100)
    return home


@pytest.fixture(scope="module")
def done(home: Path) -> compare.Comparison:
    return compare.compare([home / "calm/run", home / "astray/run"], home / "out", resamples=100)


def test_scores_are_those_of_each_run_and_differences_those_between(home, done) -> None:
    told = {n: json.loads((home / n / "run/scores.json").read_text()) for n in ("calm", "astray")}
    assert list(done.rows) == ["calm/run", "astray/run", "bicubic"]
    for name, row in (("calm", "calm/run"), ("astray", "astray/run")):
        assert done.rows[row]["rmse"] == pytest.approx(told[name]["model"]["rmse"])
    apart, low, high = done.differences["astray/run"]["rmse"]
    assert apart == pytest.approx(told["astray"]["model"]["rmse"] - told["calm"]["model"]["rmse"])
    assert low <= apart <= high
    assert list(done.differences) == ["astray/run"]


def test_the_file_says_all_that_was_compared(home: Path, done: compare.Comparison) -> None:
    told = json.loads(done.file.read_text())
    assert [run["name"] for run in told["runs"]] == ["calm/run", "astray/run"]
    assert told["tracks"] == ["202102", "202103"]
    assert told["frames"] == 5
    assert told["scores"]["bicubic"]["rmse"] == pytest.approx(done.rows["bicubic"]["rmse"])
    assert set(told["pictures"]) == {path.name for path in done.pictures}


def test_frames_are_drawn_from_the_best_to_the_worst_for_the_second_run(done) -> None:
    told = json.loads(done.file.read_text())
    apart = [told["pictures"][path.name]["apart"] for path in done.pictures]
    assert len(done.pictures) == 3
    assert apart == sorted(apart)
    with Image.open(done.pictures[0]) as picture:
        assert picture.width > 2000


def test_maps_show_the_runs_and_where_they_differ(home: Path, monkeypatch) -> None:
    scenes = []
    monkeypatch.setattr(
        compare.pictures, "panels", lambda path, scene: scenes.append(scene) or path
    )
    compare.compare([home / "calm/run", home / "astray/run"], home / "maps", count=1, resamples=100)
    truth, calm, astray, apart, nearer = (panel.field for panel in scenes[0].panels)
    assert (apart == astray - calm).all()
    assert (nearer == abs(astray - truth) - abs(calm - truth)).all()
    assert scenes[0].extent == (-120.0, 120.0, -120.0, 120.0)  # 48 pixels of 5 km


def test_refuses_what_cannot_be_compared(home: Path, tmp_path: Path) -> None:
    runs = [home / "calm/run", home / "astray/run"]
    with pytest.raises(UsageError, match="two or more"):
        compare.compare(runs[:1], tmp_path)
    with pytest.raises(UsageError, match="given twice"):
        compare.compare([runs[0], runs[0]], tmp_path)
    with pytest.raises(UserError, match=r"has no scores-test.json; run `cli evaluate"):
        compare.compare(runs, tmp_path, on="test")
    split.split(home / "WP.zarr", tmp_path / "other.json", eval_ids=["202102"])
    other = Path(shutil.copytree(runs[1], tmp_path / "other"))
    evaluate.evaluate(other, split_path=tmp_path / "other.json", resamples=100)
    with pytest.raises(UserError, match="evaluated on other tracks or frames"):
        compare.compare([runs[0], other], tmp_path)
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match="is a file"):
        compare.compare(runs, tmp_path / "taken")


def changed(runs: list[Path], folder: Path, **told: object) -> list[Path]:
    """The runs, the second a copy whose scores.json says something else."""
    copy = Path(shutil.copytree(runs[1], folder / "changed"))
    file = copy / "scores.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **told}))
    return [runs[0], copy]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"epoch": 9}, "scored after epoch 9"),
        ({"step": 99}, "scored after step 99"),
        ({"id": "another"}, "of another evaluation than scores.json"),
        ({"task": "forecast"}, "past is missing or damaged"),
    ],
)
def test_refuses_scores_of_another_model_or_evaluation(
    home: Path, tmp_path: Path, told: dict[str, object], words: str
) -> None:
    runs = changed([home / "calm/run", home / "astray/run"], tmp_path, **told)
    with pytest.raises(UserError, match=words):
        compare.compare(runs, tmp_path / "out", count=0)
    assert not (tmp_path / "out").exists()


def test_sums_that_were_changed_are_refused(home: Path, tmp_path: Path) -> None:
    runs = changed([home / "calm/run", home / "astray/run"], tmp_path)
    file = runs[1] / "scores.sums.json"
    told = json.loads(file.read_text())
    del told["tracks"]["202103"]
    file.write_text(json.dumps(told))
    with pytest.raises(UserError, match="changed since they were written"):
        compare.compare(runs, tmp_path / "out", count=0)
    told["id"] = score_files.id_of(told["yardstick"], told["tracks"])
    file.write_text(json.dumps(told))
    changed_too = runs[1] / "scores.json"
    changed_too.write_text(json.dumps({**json.loads(changed_too.read_text()), "id": told["id"]}))
    with pytest.raises(UserError, match="of other tracks than scores"):
        compare.compare(runs, tmp_path / "out", count=0)


def test_another_store_says_how_to_give_the_right_one(home: Path, tmp_path: Path) -> None:
    convert(home / "WP", tmp_path / "S.zarr", ConvertSettings(), manifests=tmp_path, ids=["202102"])
    with pytest.raises(UserError, match="give the right one with --store"):
        compare.compare(
            [home / "calm/run", home / "astray/run"],
            tmp_path / "out",
            store_path=tmp_path / "S.zarr",
            resamples=100,
        )


def test_a_full_disk_leaves_no_empty_folder(home: Path, tmp_path: Path, monkeypatch) -> None:
    def full(path: Path, scene: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(compare.pictures, "panels", full)
    with pytest.raises(OSError, match="No space"):
        compare.compare(
            [home / "calm/run", home / "astray/run"], tmp_path / "out", count=1, resamples=100
        )
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_or_a_file_is_no_run(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, words in (("nothing", "no such run folder"), ("file", "is a file; give the run")):
        with pytest.raises(UserError, match=words):
            compare.compare([home / "calm/run", tmp_path / name], tmp_path / "out")


def test_one_track_has_no_interval(home: Path, tmp_path: Path) -> None:
    split.split(home / "WP.zarr", tmp_path / "one.json", eval_ids=["202102"])
    runs = []
    for name in ("calm", "astray"):
        run = Path(shutil.copytree(home / name / "run", tmp_path / name))
        evaluate.evaluate(run, split_path=tmp_path / "one.json")
        runs.append(run)
    made = compare.compare(runs, tmp_path / "out", count=0)
    assert made.differences == {}
    assert made.pictures == []
    assert made.rows["calm"]["rmse"] > 0
