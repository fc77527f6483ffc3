"""A forecast from raw files to scores: train, evaluate, further than trained, arrays."""

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cli
from pipeline import checkpoint, demands, store
from pipeline import convert as converting
from pipeline import evaluate as evaluating
from pipeline import settings as run_settings
from pipeline import split as splitting
from pipeline import train as training
from pipeline.answers import Answers
from pipeline.errors import UsageError, UserError
from pipeline.sources.grids import Grid
from pipeline.sources.options import Options
from pipeline.sources.synthetic import Storm, write_tree
from pipeline.sources.synthetic_world import World, write
from pipeline.tasks import ForecastSettings, SuperResolutionSettings

SMALL = {"name": "simvp", "hid_s": 8, "hid_t": 16, "n_s": 2, "n_t": 2, "residual": True}
SETTINGS = """
model: {name: simvp, hid_s: 8, hid_t: 16, n_s: 2, n_t: 2, residual: true}
task: {past: 3, future: 2, coarsen: 2}
training:
  patch_size: null
  batch_size: 2
  epochs: 2
  lr: 1.0e-3
  ema: 0
  schedule: onecycle
  optimizer: adamw
  weight_decay: 0.01
  validate_every_steps: 2
"""


def convert(home: Path) -> None:
    converting.convert(
        home / "WP", home / "WP.zarr", converting.ConvertSettings(), manifests=home, workers=1
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("forecast")
    storms = [
        Storm(id, datetime(2021, 7, 1 + day, tzinfo=UTC), hours=12)
        for day, id in enumerate(("202101", "202102", "202103"))
    ]
    write_tree(home / "WP", storms, size=32)
    convert(home)
    splitting.split(home / "WP.zarr", home / "split.json", eval_ids=["202102"], test_ids=["202103"])
    (home / "forecast.yaml").write_text(SETTINGS)
    training.train(settings(home), home / "run")
    return home


def test_how_far_a_model_sees_is_said(home: Path, tmp_path: Path) -> None:
    text = SETTINGS.replace(
        "simvp, hid_s: 8, hid_t: 16, n_s: 2, n_t: 2", "st_rainnet, hidden: [4, 4]"
    )
    (tmp_path / "forecast.yaml").write_text(text)
    found, _ = run_settings.load(tmp_path / "forecast.yaml")
    seen = run_settings.located(found, home / "WP.zarr", home / "split.json")
    told = training.Trainer.of(seen, home / "unused").told_model()
    assert re.fullmatch(
        r"st_rainnet: [\d,]+ parameters; what it says of a pixel can depend on 10 rows and 10 "
        "columns away",  # 3 frames: 2 rows of each cell a step, and the decoder's
        told,
    )
    told = training.Trainer.of(settings(home), home / "unused").told_model()
    assert told.endswith("depend on the whole field")


def settings(home: Path, *overrides: str):
    found, _ = run_settings.load(home / "forecast.yaml", overrides)
    return run_settings.located(found, home / "WP.zarr", home / "split.json")


def test_every_window_is_scored_at_every_lead(home: Path) -> None:
    done = evaluating.evaluate(home / "run", on="test", batch_size=3)
    told = json.loads(done.file.read_text())
    assert told["rows"] == ["model", "persistence", "optical_flow", "past_mean"]
    assert told["task"] == "forecast"
    assert told["lead_seconds"] == [3600, 7200]
    assert told["pixel"] == 10  # km: two pixels of 5
    track = store.open_store(home / "WP.zarr").track("202103")
    windows = track.windows(5)
    by = told["by_frame"]["202103"]
    assert by["lead"] == [0, 1] * len(windows)
    assert by["frame"] == [first + 3 + lead for first in windows.tolist() for lead in (0, 1)]
    coarse = track.frames[:, :, :32, :32].reshape(-1, 1, 16, 2, 16, 2).mean((3, 5), np.float64)
    for lead, table in enumerate(told["lead_times"]):  # persistence, said once more
        off = coarse[windows + 3 + lead] - coarse[windows + 2]
        assert table["persistence"]["rmse"] == pytest.approx(np.sqrt((off**2).mean()), rel=1e-4)
    assert (
        told["lead_times"][0]["persistence"]["rmse"] < told["lead_times"][1]["persistence"]["rmse"]
    )
    assert told["lead_times"][0]["model"]["tof"] is None  # nothing was forecast before it
    assert told["lead_times"][1]["model"]["tof"] is not None


def test_a_new_forecaster_that_adds_to_the_last_frame_is_persistence(home: Path) -> None:
    """So that a model starts at what it must beat."""
    made = training.Trainer.of(settings(home), home / "unused")
    scores = made.validate()
    assert scores["model"] == pytest.approx(scores["persistence"], rel=1e-5)
    assert made.validate() == scores  # baselines are kept, and still the same
    assert not made.optimizers["forecaster"].defaults["amsgrad"]
    assert made.optimizers["forecaster"].defaults["weight_decay"] == 0.01


def test_validated_within_an_epoch(home: Path) -> None:
    text = (home / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    at = [line["step"] for line in lines if "validation/rmse_model" in line]
    per_epoch = len(training.Trainer.of(settings(home), home / "unused").loader)
    assert per_epoch > 2
    assert {2, per_epoch, 2 * per_epoch} <= set(at)
    best = min(line["validation/rmse_model"] for line in lines if "validation/rmse_model" in line)
    kept = checkpoint.load(home / "run" / "checkpoints" / "best.ckpt")
    assert kept.training["position"]["best"] == pytest.approx(best)


def test_the_numbers_that_undo_the_scaling_are_kept(home: Path) -> None:
    told = json.loads((home / "run" / "scaling.json").read_text())
    (name,) = told
    trained = checkpoint.load(home / "run" / "checkpoints" / "best.ckpt")
    assert told[name]["centre"] == trained.scaling.centre[0]
    assert told[name]["scale"] == trained.scaling.scale[0]


def test_further_than_trained_is_from_its_own_forecast(home: Path) -> None:
    trained = checkpoint.load(home / "run" / "checkpoints" / "best.ckpt")
    short, far = Answers(trained, "cpu"), Answers(trained, "cpu", steps=5)
    frames = store.open_store(home / "WP.zarr").track("202103").checked(0, 3)
    first = short.of("model", short.posed(frames, split=False))
    found = far.of("model", far.posed(frames, split=False))
    assert found.shape[1] == 5
    assert torch.equal(found[:, :2], first)
    x = short.posed(frames, split=False).filled
    with torch.inference_mode():
        one = short.network(x)
        two = short.network(torch.cat([x, one], 1)[:, -3:])
    torch.testing.assert_close(found[:, 2:4], short.problem.of_model(two, x))
    done = evaluating.evaluate(home / "run", on="test", steps=4)
    assert [len(table) for table in json.loads(done.file.read_text())["lead_times"]] == [4] * 4


def test_arrays_hold_what_was_scored(home: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(
        cli.app,
        f"evaluate {home}/run --on test --batch-size 3 --arrays {tmp_path}/arrays".split(),
    )
    assert said.exit_code == 0, said.output
    assert "rmse [K] after" in said.output
    assert "2 h" in said.output
    assert "8 windows of 2 lead times, in 1 track; " in said.output
    assert re.search(r"in 1 track; \d+\.\d\d windows/s", said.output)
    folder = tmp_path / "arrays" / "202103"
    arrays = {file.stem: np.load(file) for file in folder.iterdir()}
    track = store.open_store(home / "WP.zarr").track("202103")
    windows = track.windows(5)
    assert arrays["inputs"].shape == (len(windows), 3, 1, 16, 16)
    assert arrays["truth"].shape == arrays["predictions"].shape == (len(windows), 2, 1, 16, 16)
    assert arrays["times"].tolist() == [
        track.times[first + 3 : first + 5].tolist() for first in windows
    ]
    told = json.loads((home / "run" / "scores-test.json").read_text())
    off = arrays["predictions"].astype(np.float64) - arrays["truth"]
    assert told["model"]["rmse"] == pytest.approx(np.sqrt(np.nanmean(off**2)), rel=1e-4)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.sequence_length=3"], "a forecast's window is task.past \\+ task.future, 5"),
        (["task.factor=2"], "task.factor is a setting of super-resolution, not of simvp"),
        (["task.past=0"], "task.past: 0: input should be greater than 0"),
    ],
)
def test_settings_of_another_task_are_refused(home: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        settings(home, *overrides)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["task.past=12"],
            r"no window of 14 usable frames at equal steps, the longest run is 12; make task.past "
            r"\+ task.future smaller",
        ),
        (["task.area=[100, 110, 20, 30]"], "the frames have no latitudes and longitudes"),
        (["task.targets=[rain]"], "task.targets: no channel rain"),
    ],
)
def test_data_that_does_not_fit_is_refused(home: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        training.train(settings(home, *overrides), home / "refused")
    assert not (home / "refused").exists()


def test_tracks_of_several_steps_are_refused(home: Path, tmp_path: Path) -> None:
    storms = [
        Storm("202104", datetime(2021, 8, 1, tzinfo=UTC), hours=24, step_hours=3),
        Storm("202105", datetime(2021, 8, 9, tzinfo=UTC), hours=12),
    ]
    write_tree(tmp_path / "WP", storms, size=32)
    convert(tmp_path)
    splitting.split(tmp_path / "WP.zarr", tmp_path / "split.json", eval_ids=["202105"])
    found = run_settings.located(
        run_settings.load(home / "forecast.yaml")[0], tmp_path / "WP.zarr", tmp_path / "split.json"
    )
    with pytest.raises(UserError, match=r"several time steps \(1 h in 202105; 3 h in 202104\)"):
        training.train(found, tmp_path / "run")
    with pytest.raises(UserError, match=r"a frame every 3 h; the model forecasts steps of 1 h"):
        evaluating.evaluate(
            home / "run", store_path=tmp_path / "WP.zarr", split_path=moved(tmp_path)
        )


def test_tracks_without_a_window_do_not_count(home: Path, tmp_path: Path) -> None:
    """Of another step or not: nothing is learnt from them."""
    storms = [
        Storm("202104", datetime(2021, 8, 1, tzinfo=UTC), hours=9, step_hours=3),
        Storm("202105", datetime(2021, 8, 9, tzinfo=UTC), hours=12),
        Storm("202106", datetime(2021, 8, 19, tzinfo=UTC), hours=12),
    ]
    write_tree(tmp_path / "WP", storms, size=32)
    convert(tmp_path)
    splitting.split(tmp_path / "WP.zarr", tmp_path / "split.json", eval_ids=["202106"])
    found, _ = run_settings.load(home / "forecast.yaml")
    found = run_settings.located(found, tmp_path / "WP.zarr", tmp_path / "split.json")
    assert training.Trainer.of(found, tmp_path / "run").data.step == 3600
    found = found.model_copy(
        update={
            "task": found.task.model_copy(update={"past": 1, "future": 1}),
            "training": found.training.model_copy(update={"sequence_length": 2}),
        }
    )
    with pytest.raises(UserError, match=r"3 h in 202104.* aside with `cli split --test-ids`"):
        training.Trainer.of(found, tmp_path / "run")


def test_places_on_several_grids_are_refused() -> None:
    def track(id: str, *x: float) -> SimpleNamespace:
        return SimpleNamespace(id=id, grid=Grid(np.array([40.0, 39]), np.array(x)) if x else None)

    one, same, other, none = (
        track("a", 100, 101), track("b", 100, 101), track("c", 100, 102), track("d"),
    )  # fmt: skip
    placed = ForecastSettings(area=(100, 101, 39, 40))
    assert demands.shared_grid([one, same], placed) is one.grid
    assert demands.shared_grid([none, none], placed) is None
    for settings in (ForecastSettings(), SuperResolutionSettings()):
        assert demands.shared_grid([one, other], settings) is None
    with pytest.raises(
        UserError, match=r"several grids \(a 2x2 cells of 1 .*; c 2x2 cells of 1 x 2"
    ):
        demands.shared_grid([one, same, other], placed)
    with pytest.raises(UserError, match=r"several grids \(a 2x2 .*; d none\)"):
        demands.shared_grid([one, none], ForecastSettings(region=(100, 101, 39, 40)))


def test_winds_are_not_turned(tmp_path: Path) -> None:
    write(tmp_path / "world.nc", World(steps=124))
    made = converting.ConvertSettings(
        options=Options(variables=("rain", "moisture", "wind"), track_by="month")
    )
    data = tmp_path / "world.zarr", tmp_path / "split.json"
    converting.convert(tmp_path / "world.nc", data[0], made, manifests=tmp_path, workers=1)
    splitting.split(*data, eval_last=0.5)
    asked = [
        "model.name=st_rainnet", "model.hidden=[4,4]", "task.past=2", "task.future=1",
        "training.patch_size=null", "training.validation_crops=2", "task.targets=[rain]",
    ]  # fmt: skip

    def trainer(*more: str) -> training.Trainer:
        found, _ = run_settings.load(None, [*asked, *more])
        return training.Trainer.of(run_settings.located(found, *data), tmp_path / "run")

    with pytest.raises(UserError, match=r"the winds wind would .* set training.augment to false"):
        trainer()
    assert trainer("training.augment=false").loader.orientations == 1
    assert trainer("task.inputs=[rain,moisture]").loader.orientations > 1


def test_the_commands_count_windows(home: Path, tmp_path: Path) -> None:
    def said(words: str) -> str:
        found = CliRunner().invoke(cli.app, words.split())
        assert found.exit_code == 0, found.output
        return found.output

    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    said(f"evaluate {run} --on test")
    assert re.search(r"^2 windows, and a loop of", said(f"report {run} --on test --frames 2"), re.M)
    other = Path(shutil.copytree(run, tmp_path / "other"))
    told = said(f"compare {run} {other} --on test --pictures 0 --out {tmp_path}/compared")
    assert "8 windows of 2 lead times, in 1 track" in told
    told = said(
        f"infer {run} {home}/WP/image/202103 --out {tmp_path}/a.nc --steps 1 --no-animation "
        "--pictures none"
    )
    assert "202103: 1 frame of 16x16, one every" in told


def moved(folder: Path) -> Path:
    splitting.split(folder / "WP.zarr", folder / "other.json", eval_ids=["202104"])
    return folder / "other.json"


@pytest.mark.slow
def test_resumed_within_an_epoch_is_the_undisturbed_run(home: Path, tmp_path: Path) -> None:
    """onecycle and AdamW too: bit for bit."""
    asked = settings(home, "training.epochs=1")
    training.train(asked, tmp_path / "whole")
    trainer = training.Trainer.of(asked, tmp_path / "cut")
    calls = iter([False, False, True, True])
    with training.open_log(tmp_path / "cut", 0, trainer.fabric, trainer.health) as log:
        training.fit(trainer, log, lambda: next(calls, True))
    run_settings.write(tmp_path / "cut" / "settings.yaml", asked)
    training.train(asked, tmp_path / "cut", resume=True)
    one, other = (
        checkpoint.load(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "cut")
    )
    assert all(torch.equal(one.weights[key], other.weights[key]) for key in one.weights)
