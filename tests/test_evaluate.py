"""Scores of a run: in kelvin, of tracks not trained on, the baseline beside the model."""

from __future__ import annotations

import io
import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from typer.testing import CliRunner

import cli
from pipeline import checkpoint, evaluate, manifest, score_files, settings, split, store, train
from pipeline.commands import tables
from pipeline.convert import ConvertSettings, convert
from pipeline.errors import UserError
from pipeline.sources.synthetic import Storm, write_tree

UNTRAINED = [
    "model.n_residual_blocks=1",
    "model.width=8",
    "training.patch_size=32",
    "training.batch_size=2",
    "training.epochs=1",
    "training.sample_every_epochs=0",
    "training.lr=1e-12",  # so the model stays where it starts: bicubic with its means corrected
    "training.ema=0",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw WP, WP.zarr, a split (one training storm, two eval storms, one test storm) and a run."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("evaluate")
    storms = [
        Storm("202101", datetime(2021, 7, 1, tzinfo=UTC), hours=5),
        Storm("202102", datetime(2021, 7, 9, tzinfo=UTC), hours=4, blank=(2,)),
        Storm("202103", datetime(2021, 8, 2, tzinfo=UTC), hours=3, bad_pixels=(1,)),
        Storm("202104", datetime(2021, 9, 2, tzinfo=UTC), hours=2),
    ]
    write_tree(home / "WP", storms, size=48)
    convert(home / "WP", home / "WP.zarr", ConvertSettings(), manifests=home, workers=1)
    split.split(
        home / "WP.zarr", home / "WP.split.json", eval_ids=["202102,202103"], test_ids=["202104"]
    )
    made, _ = settings.load(None, UNTRAINED)
    train.train(settings.located(made, home / "WP.zarr", home / "WP.split.json"), home / "run")
    return home


@pytest.fixture(scope="module")
def done(home: Path) -> evaluate.Evaluation:
    return evaluate.evaluate(home / "run")


def test_the_baseline_row_is_bicubic_in_kelvin(home: Path, done: evaluate.Evaluation) -> None:
    """Worked out here again from the store's frames, in float64."""
    opened = store.open_store(home / "WP.zarr")
    neutral = manifest.read_split(home / "WP.split.json", opened).statistics.mean[0]
    squared, pixels = 0.0, 0
    for id in ("202102", "202103"):
        track = opened.track(id)
        for frame in np.array(track.frames)[track.flag == 0]:
            y = torch.from_numpy(frame.astype(np.float64))[None]
            x = y.reshape(1, 1, 12, 4, 12, 4).nanmean((3, 5)).nan_to_num(neutral)
            guess = F.interpolate(x, scale_factor=4, mode="bicubic", align_corners=False)
            squared += float((guess - y).square().nansum())
            pixels += int((~y.isnan()).sum())
    assert done.scores.rows["bicubic"]["rmse"] == pytest.approx((squared / pixels) ** 0.5, rel=1e-5)


def test_flagged_frames_do_not_count(done: evaluate.Evaluation) -> None:
    assert done.scores.frames == 3 + 2  # 4 less the blank one, 3 less the one with lost lines
    assert done.left_out == 2


def test_what_exact_means_alone_give_is_a_row_of_its_own(done: evaluate.Evaluation) -> None:
    """So that an untrained model, which does just that, is not taken for a good one."""
    assert done.scores.rows["bicubic_means"]["rmse"] < done.scores.rows["bicubic"]["rmse"]
    assert done.scores.rows["model"]["rmse"] == pytest.approx(
        done.scores.rows["bicubic_means"]["rmse"], rel=1e-5
    )


def test_tracks_add_up_to_the_whole(home: Path, done: evaluate.Evaluation) -> None:
    opened = store.open_store(home / "WP.zarr")
    pixels = {
        id: int((~np.isnan(np.array(t.frames)[t.flag == 0])).sum())
        for id in ("202102", "202103")
        for t in [opened.track(id)]
    }
    for row in ("model", "bicubic"):
        mse = sum(done.scores.tracks[id][row]["rmse"] ** 2 * n for id, n in pixels.items())
        assert (mse / sum(pixels.values())) ** 0.5 == pytest.approx(done.scores.rows[row]["rmse"])


def test_scores_json_says_units_range_and_what_it_depends_on(
    home: Path, done: evaluate.Evaluation
) -> None:
    told = json.loads((home / "run" / "scores.json").read_text())
    assert told["rows"] == [
        "model", "bicubic", "bicubic_means", "bilinear", "nearest", "lanczos",
    ]  # fmt: skip
    for row in told["rows"]:
        assert told[row] == score_files.finite(done.scores.rows[row])
    assert {"rmse": "K", "psnr": "dB", "ssim": "1", "tof": "px"}.items() <= told["units"].items()
    assert told["psnr_range"] == {"min": 150.0, "max": 330.0, "peak": 180.0, "units": "K"}
    assert told["on"] == "eval"
    assert told["trained_on"] == ["202101"]
    assert set(told["tracks"]) == {"202102", "202103"}
    assert told["manifest_hash"] == store.open_store(home / "WP.zarr").manifest_hash


def test_test_tracks_have_a_file_of_their_own(home: Path) -> None:
    done = evaluate.evaluate(home / "run", on="test")
    assert done.file.name == "scores-test.json"
    assert set(done.scores.tracks) == {"202104"}


def test_refuses_tracks_that_were_trained_on(home: Path, tmp_path: Path) -> None:
    split.split(home / "WP.zarr", tmp_path / "other.json", eval_ids=["202101"])
    with pytest.raises(UserError, match="was trained on 202101"):
        evaluate.evaluate(home / "run", split_path=tmp_path / "other.json")


def test_refuses_a_split_without_that_part(home: Path, tmp_path: Path) -> None:
    split.split(home / "WP.zarr", tmp_path / "other.json", eval_ids=["202103"])
    with pytest.raises(UserError, match="no test tracks"):
        evaluate.evaluate(home / "run", on="test", split_path=tmp_path / "other.json")


def test_what_is_missing_is_named(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        evaluate.evaluate(tmp_path / "nothing")
    with pytest.raises(UserError, match="no checkpoint 'epoch-0003'; it has best, last"):
        evaluate.evaluate(home / "run", which="epoch-0003")
    with pytest.raises(UserError, match="no store here"):
        evaluate.evaluate(home / "run", store_path=tmp_path / "no.zarr")


def test_an_undefined_score_is_null_not_zero() -> None:
    told = score_files.finite({"psnr": float("nan"), "rmse": 0.0, "ends": (float("nan"), 1.0)})
    assert told == {"psnr": None, "rmse": 0.0, "ends": None}


def test_every_frame_is_named_with_its_hour_and_adds_up(home: Path, done: evaluate.Evaluation):
    told = json.loads(done.file.read_text())
    assert told["by_frame"]["202102"]["time"] == [
        f"2021-07-09T{hour:02}:00Z"
        for hour in (0, 1, 3)  # the blank one is left out
    ]
    assert told["by_frame"]["202103"]["frame"] == [0, 2]
    for row in told["rows"]:
        mae = [value for id in told["tracks"] for value in told["by_frame"][id]["mae"][row]]
        assert np.mean(mae) == pytest.approx(told[row]["mae"])  # none of their pixels is missing


def test_the_csv_has_a_line_for_every_frame_track_and_all(done: evaluate.Evaluation) -> None:
    table = pd.read_csv(done.file.with_suffix(".csv"))
    assert table.groupby("of").size().to_dict() == {"frame": 5 * 6, "track": 2 * 6, "all": 6}
    model = table[(table["of"] == "all") & (table["method"] == "model")].iloc[0]
    assert model["csi_220"] == pytest.approx(done.scores.rows["model"]["csi_220"], nan_ok=True)


def alike(one: evaluate.Evaluation, other: evaluate.Evaluation) -> None:
    """The same scores, but for the last bits of a network's sums."""
    for row, scores in one.scores.rows.items():
        again = other.scores.rows[row]
        assert scores == pytest.approx(again, rel=1e-5, abs=1e-5, nan_ok=True), row
        assert row == "model" or scores == pytest.approx(again, rel=1e-12, nan_ok=True)
    assert one.scores.frames == other.scores.frames


def test_neither_the_batch_nor_the_chunks_change_a_score(home: Path, tmp_path: Path, done) -> None:
    where = tmp_path / "Z.zarr"
    convert(home / "WP", where, ConvertSettings(codec="zstd"), manifests=tmp_path, workers=1)
    split.split(where, tmp_path / "Z.json", eval_ids=["202102,202103"], test_ids=["202104"])
    packed = {"store_path": where, "split_path": tmp_path / "Z.json"}
    alike(evaluate.evaluate(copy_of(home, tmp_path), batch_size=3, **packed), done)


def test_a_raw_tree_scores_as_its_store(home: Path, tmp_path: Path, done) -> None:
    split.split(home / "WP", tmp_path / "W.json", eval_ids=["202102,202103"], test_ids=["202104"])
    raw = {"store_path": home / "WP", "split_path": tmp_path / "W.json"}
    alike(evaluate.evaluate(copy_of(home, tmp_path), **raw), done)


@pytest.mark.slow
def test_processes_do_not_change_a_score(home: Path, tmp_path: Path, done) -> None:
    alike(evaluate.evaluate(copy_of(home, tmp_path), processes=2), done)


def copy_of(home: Path, folder: Path) -> Path:
    """The run once more, since an evaluation writes into it."""
    return Path(shutil.copytree(home / "run", folder / "run"))


def test_the_sums_behind_the_scores_give_them_again(home: Path, done: evaluate.Evaluation) -> None:
    yardstick, cards = score_files.read_sums(home / "run", "eval")
    assert yardstick == done.scores.yardstick
    assert list(cards) == ["202102", "202103"]
    for row, scores in done.scores.rows.items():
        card = cards["202102"][row] + cards["202103"][row]
        assert card.scores(done.scores.yardstick) == pytest.approx(scores, nan_ok=True)


def test_scores_that_cannot_be_read_say_what_to_do(home: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"has no scores-test.json; run `cli evaluate .* --on test`"
    ):
        score_files.read(tmp_path, "test")
    (tmp_path / "scores.json").write_text('{"model": {"rmse": 1}}')
    with pytest.raises(UserError, match="written by another eddy"):
        score_files.read(tmp_path, "eval")
    (tmp_path / "scores.sums.json").write_text(
        '{"format": "eddy sums 2", "tracks": {"1": {"a": 3}}}'
    )
    with pytest.raises(UserError, match=r"not sums .* again"):
        score_files.read_sums(tmp_path, "eval")


@pytest.mark.parametrize("name", ["format", "bicubic", *score_files.REQUIRED])
def test_scores_that_lack_a_part_are_refused(done, tmp_path: Path, name: str) -> None:
    told = json.loads(done.file.read_text())
    (tmp_path / "scores.json").write_text(json.dumps(told))
    assert score_files.read(tmp_path, "eval") == told
    del told[name]
    (tmp_path / "scores.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"scores.json: not scores .* again"):
        score_files.read(tmp_path, "eval")


@pytest.mark.parametrize("path", [("frame",), ("time",), ("satellite",), ("rmse", "model")])
def test_a_column_with_a_value_too_few_is_refused(done, tmp_path: Path, path) -> None:
    told = json.loads(done.file.read_text())
    column = told["by_frame"]["202102"]
    for name in path:
        column = column[name]
    column.pop()
    (tmp_path / "scores.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"202102 has not one .* for each of 3 frames"):
        score_files.read(tmp_path, "eval")


@pytest.mark.parametrize("damage", [{"tracks": []}, {"tracks": {"1": 3}}, {"by_frame": {"1": 3}}])
def test_damaged_scores_are_refused_in_a_sentence(done, tmp_path: Path, damage) -> None:
    told = json.loads(done.file.read_text())
    (tmp_path / "scores.json").write_text(json.dumps({**told, **damage}))
    with pytest.raises(UserError, match=r"not scores .* again"):
        score_files.read(tmp_path, "eval")


def test_scores_json_says_which_model_and_which_store(home: Path, done) -> None:
    told = json.loads(done.file.read_text())
    position = checkpoint.load(checkpoint.in_run(home / "run", "best")).training["position"]
    assert (told["epoch"], told["step"]) == (position["epoch"], position["step"])
    assert told["chosen_on"] == ["202102", "202103"]
    assert told["store"] == str((home / "WP.zarr").resolve())
    assert told["id"] == json.loads((home / "run" / "scores.sums.json").read_text())["id"]


def test_the_store_is_named_so_that_it_is_found_from_anywhere(
    home: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(home)
    made = evaluate.evaluate(copy_of(home, tmp_path), on="test", store_path=Path("WP.zarr"))
    assert json.loads(made.file.read_text())["store"] == str((home / "WP.zarr").resolve())


def test_test_tracks_that_the_checkpoint_was_chosen_on_are_named(home: Path, tmp_path) -> None:
    split.split(
        home / "WP.zarr", tmp_path / "S.json", eval_ids=["202104"], test_ids=["202102,202103"]
    )
    run = copy_of(home, tmp_path)
    chosen = "chosen by its RMSE on 202102 and 202103|chosen by its RMSE on 202102, 202103"
    made = evaluate.evaluate(run, on="test", split_path=tmp_path / "S.json", resamples=100)
    assert re.search(chosen, " ".join(made.notes))
    made = evaluate.evaluate(
        run, on="test", which="last", split_path=tmp_path / "S.json", resamples=100
    )
    assert "chosen" not in " ".join(made.notes)


def test_tracks_without_a_usable_frame_are_named(tmp_path: Path, home: Path) -> None:
    storms = [
        Storm("202101", datetime(2021, 7, 1, tzinfo=UTC), hours=5),
        Storm("202102", datetime(2021, 7, 9, tzinfo=UTC), hours=2),
        Storm("202103", datetime(2021, 8, 2, tzinfo=UTC), hours=2, blank=(0, 1)),
    ]
    write_tree(tmp_path / "WP", storms, size=48)
    convert(tmp_path / "WP", tmp_path / "B.zarr", ConvertSettings(), manifests=tmp_path, workers=1)
    split.split(tmp_path / "B.zarr", tmp_path / "B.json", eval_ids=["202102,202103"])
    made = evaluate.evaluate(
        copy_of(home, tmp_path), store_path=tmp_path / "B.zarr", split_path=tmp_path / "B.json"
    )
    assert json.loads(made.file.read_text())["tracks_left_out"] == ["202103"]
    assert "tracks without a usable frame are left out: 202103" in made.notes


def test_a_checkpoint_is_looked_for_in_the_run_only(home: Path) -> None:
    with pytest.raises(UserError, match=r"'../../etc'; it has best, last"):
        checkpoint.in_run(home / "run", "../../etc")


@pytest.mark.parametrize("tracks", [["202101"], ["202101", "202102"]])
def test_a_narrow_screen_cuts_no_number(tracks: list[str]) -> None:
    rows = ["model", "bicubic", "bicubic_means", "bilinear", "nearest", "lanczos"]
    units = {"log_spectral_distance": "dB", "effective_resolution": "km", "rmse": "K"}
    scores = {row: dict.fromkeys(units, -1328.612 - n) for n, row in enumerate(rows)}
    screen = Console(width=60, soft_wrap=True, file=io.StringIO())
    screen.print(tables.method_table(scores, units))
    screen.print(tables.track_table(dict.fromkeys(tracks, scores), units))
    said = screen.file.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in said
    for n in range(len(rows)):
        assert said.count(f"{-1328.612 - n:.3f}") == len(units) + len(tracks)


def test_the_command_says_what_to_do_next_and_counts_right(home: Path, tmp_path: Path) -> None:
    run = copy_of(home, tmp_path)
    said = CliRunner().invoke(cli.app, ["evaluate", str(run), "--on", "test", "--device", "cpu"])
    assert said.exit_code == 0, said.output
    assert f"cli report {run} --on test" in said.output
    assert "2 frames of 1 track;" in said.output
    said = CliRunner().invoke(cli.app, ["evaluate", str(run), "--device", "cpu"])
    assert "(2 tracks: rough)" in said.output
    assert "2 flagged frames left out" in said.output
    assert "--on test" not in said.output


def test_the_averaged_weights_are_what_is_judged(home: Path, tmp_path: Path) -> None:
    last = checkpoint.load(checkpoint.in_run(home / "run", "last"))
    shifted = {k: v + 0.01 if k.endswith("tail.3.bias") else v for k, v in last.weights.items()}
    both = checkpoint.Checkpoint(**{**vars(last), "averaged": shifted})
    checkpoint.save(tmp_path / "run" / "checkpoints" / "best.ckpt", both)
    model = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.ckpt").model()
    assert torch.equal(
        model.state_dict()["generator.tail.3.bias"], shifted["generator.tail.3.bias"]
    )
