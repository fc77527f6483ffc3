"""The model's folder: the same answers as the run's, a card that says what is so, and ONNX."""

import builtins
import errno
import json
import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import models
from pipeline import checkpoint, manifest, settings, split, store, tasks
from pipeline.answers import MODEL, Answers
from pipeline.checkpoint import Checkpoint, Data
from pipeline.convert import ConvertSettings, convert
from pipeline.errors import UsageError, UserError
from pipeline.evaluate import evaluate
from pipeline.export import export
from pipeline.exporting import card, folder, judged, onnx_file
from pipeline.infer import infer
from pipeline.problem import Problem
from pipeline.reporting.words import TIMES
from pipeline.scaling import Scaling
from pipeline.sources import synthetic
from pipeline.sources.digital_typhoon import ATTRS, INFRARED
from pipeline.sources.grids import Grid
from pipeline.sources.synthetic import Storm

torch.set_num_threads(1)

START = datetime(2021, 7, 19, tzinfo=UTC)
INFRARED_ALONE = (vars(INFRARED),)
RAIN = {
    "name": "tp",
    "units": "mm",
    "long_name": "Total precipitation",
    "standard_name": "lwe_thickness_of_precipitation_amount",
    "valid_min": 0.0,
    "valid_max": 2000.0,
}
SMALL = {  # where a model's own widths would take minutes
    "tempogan": {"width": 8, "n_residual_blocks": 1},
    "srgan": {"width": 8, "n_residual_blocks": 1, "fine_width": 4},
    "simvp": {"hid_s": 8, "hid_t": 16, "n_s": 2, "n_t": 2},
    "pastnet": {"width": 16, "codes": 32, "code_width": 8, "hid_t": 16, "n_t": 2, "embed": 16}
    | {"patch": 8, "res_layers": 1},
}
AHEAD = ["task.past=3", "task.future=2"]

every_model = pytest.mark.parametrize("name", models.names())


def save(
    run: Path, name: str = "tempogan", *more: str, which: str = "best", rain: bool = False,
    **data: Any,
) -> Path:  # fmt: skip
    """A run as `train` leaves it, of frames of 32x32 pixels, with weights that do something."""
    forecast = models.find(name).TASK == "forecast"
    small = [f"model.{key}={value}" for key, value in SMALL.get(name, {}).items()]
    asked = [f"model.name={name}", *small, *(AHEAD if forecast else []), *more]
    ours, _ = settings.load(None, asked)
    grid = data.pop("grid", None)
    kept = Data(
        **{
            "store": "WP.zarr",
            "manifest_hash": "abc123",
            "channels": [RAIN | {"observed_max": 40.0}] if rain else list(INFRARED_ALONE),
            "train": ["198702"],
            "eval": ["200717"],
            "attrs": ATTRS,
            "seen": {"min": [0.0], "max": [40.0], "satellites": []}
            if rain
            else {"min": [180.0], "max": [310.0], "satellites": ["HMW8"]},
            "grid": tasks.plain(grid),
            "step": 3600 if forecast else 0,
        }
        | data
    )
    scaling = Scaling(("range",), (240.0,), (90.0,), (0.3,), (None,))
    if rain:
        scaling = Scaling(("log1p",), (0.0,), (3.7,), (0.1,), (0.0,))
    kind = models.find(name).TASK
    task = tasks.build(kind, ours.task, 3, kept.channels, grid)
    geometry = Problem.of(task, scaling).geometry((1, *(grid.shape if grid else (32, 32))))
    torch.manual_seed(0)
    model = models.build(name, geometry, ours.model_settings)
    for p in model.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    weights = model.state_dict()
    made = Checkpoint(
        settings=ours,
        geometry=geometry,
        scaling=scaling,
        data=kept,
        weights=weights,
        averaged={k: v * 0.5 if v.is_floating_point() else v for k, v in weights.items()},
        training={"position": {"epoch": 7, "step": 100, "best": float("inf")}},
    )
    checkpoint.save(run / "checkpoints" / f"{which}.ckpt", made)
    return run


def loaded(run: Path, which: str = "best") -> Checkpoint:
    return checkpoint.load(checkpoint.in_run(run, which))


def frames(low: float = 200.0, high: float = 300.0, shape: Any = (3, 1, 32, 32)) -> np.ndarray:
    """(T, C, H, W) float32, some missing."""
    made = np.random.default_rng(1).uniform(low, high, shape).astype(np.float32)
    made[..., :5, :5] = np.nan
    return made


def answer(trained: Checkpoint, given: np.ndarray) -> np.ndarray:
    answers = Answers(trained, "cpu")
    return answers.of(MODEL, answers.posed(given, split=False)).numpy()


def inside(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save(tmp_path / "run")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three storms, a split of it, and a run that was evaluated on it."""
    home = tmp_path_factory.mktemp("home")
    storms = [Storm(id, START, 4) for id in ("202101", "202102", "202103")]
    synthetic.write_tree(home / "WP", storms, size=32)
    convert(home / "WP", home / "WP.zarr", ConvertSettings(), manifests=home, workers=1)
    file = home / "WP.split.json"
    split.split(home / "WP.zarr", file, eval_ids=["202102"], test_ids=["202103"])
    opened = store.open_store(home / "WP.zarr")
    save(
        home / "run",
        "tempogan",
        f"data.store={home / 'WP.zarr'}",
        f"data.split={file}",
        manifest_hash=opened.manifest_hash,
        train=manifest.read_split(file, opened).train,
        eval=["202102"],
    )
    for on in ("eval", "test"):
        evaluate(home / "run", on=on, device="cpu", processes=1)
    return home


def text_of(run: Path, out: Path, **more: Any) -> str:
    return (export(run, out, replace=True, **more).out / folder.CARD).read_text(encoding="utf-8")


def front_of(text: str) -> dict[str, Any]:
    head = text.split("---\n")[1]
    return dict(yaml.safe_load(head))


# The folder


@every_model
def test_the_folder_answers_as_the_run_does(name: str, tmp_path: Path) -> None:
    run = save(tmp_path / "run", name)
    out = export(run).out
    assert out == run / "export"
    there, here = loaded(out), loaded(run)
    assert np.array_equal(answer(there, frames()), answer(here, frames()))
    assert checkpoint.plain(replace(there, settings=here.settings)) == checkpoint.plain(here)


def test_weights_are_the_averaged_ones_by_their_names_and_types(run: Path, tmp_path: Path) -> None:
    here = loaded(run)
    half = {k: v.half() if k.endswith("bias") else v for k, v in (here.averaged or {}).items()}
    checkpoint.save(run / "checkpoints" / "last.ckpt", replace(here, averaged=half))
    found = load_file(export(run, tmp_path / "out", which="last").out / folder.WEIGHTS)
    assert {name: values.dtype for name, values in found.items()} == {
        name: values.dtype for name, values in half.items()
    }
    assert torch.half in {values.dtype for values in found.values()}
    assert all(torch.equal(found[name], values) for name, values in half.items())


def test_weights_without_an_average_are_the_raw_ones(run: Path) -> None:
    here = loaded(run)
    checkpoint.save(run / "checkpoints" / "best.ckpt", replace(here, averaged=None))
    done = export(run)
    found = load_file(done.out / folder.WEIGHTS)
    assert all(torch.equal(found[name], values) for name, values in here.weights.items())
    assert done.numbers == sum(values.numel() for values in here.weights.values())


def test_tensors_that_share_memory_are_written_under_each_name(tmp_path: Path) -> None:
    one = torch.arange(6.0)
    folder.write(tmp_path, {}, {"a": one, "b": one, "c": one.view(2, 3).T, "d": one[2:4]}, {})
    found = load_file(tmp_path / folder.WEIGHTS)
    assert torch.equal(found["a"], one)
    assert torch.equal(found["b"], one)
    assert torch.equal(found["c"], one.view(2, 3).T)
    assert torch.equal(found["d"], one[2:4])


def test_nothing_is_unpickled(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = export(run).out
    for name in ("load", "_load"):
        monkeypatch.setattr(f"pickle.{name}", None, raising=False)
    monkeypatch.setattr(torch, "load", None)
    loaded(out).model()


def test_the_same_run_gives_the_same_files(run: Path, tmp_path: Path) -> None:
    made = [export(run, tmp_path / name).out for name in "ab"]
    for name in inside(made[0]):
        assert (made[0] / name).read_bytes() == (made[1] / name).read_bytes()


def test_settings_hold_no_folder_of_this_machine(home: Path, tmp_path: Path) -> None:
    out = export(home / "run", tmp_path / "out").out
    text = (out / folder.SETTINGS).read_text()
    assert str(home) not in text
    assert json.loads(text)["settings"]["data"]["store"] == "WP.zarr"
    assert str(home) not in (out / folder.CARD).read_text()


def test_nor_do_the_model_s_own_settings(tmp_path: Path) -> None:
    out = export(save(tmp_path / "run", "srgan", "model.vgg_weights=/home/me/vgg.pth")).out
    for file in (folder.SETTINGS, folder.CARD):
        text = (out / file).read_text()
        assert "vgg.pth" in text
        assert "/home/me" not in text
    loaded(out).model()


def test_infer_takes_it_for_a_run(home: Path, tmp_path: Path) -> None:
    out = export(home / "run", tmp_path / "out").out
    quick: dict[str, Any] = {"pictures": "none", "animations": ()}
    raw = home / "WP" / "image" / "202103"
    files = [infer(r, raw, tmp_path / f"{r.name}.nc", **quick).file for r in (out, home / "run")]
    ours, theirs = (xr.load_dataset(file) for file in files)
    assert ours.brightness_temperature.equals(theirs.brightness_temperature)
    assert ours.attrs["license"] == "CC BY 4.0"
    assert (ours.attrs["checkpoint"], theirs.attrs["checkpoint"]) == (
        "out/settings.json",
        "run/checkpoints/best.ckpt",
    )


def test_evaluate_takes_it_for_a_run(home: Path, tmp_path: Path) -> None:
    out = export(home / "run", tmp_path / "out").out
    where = {"store_path": home / "WP.zarr", "split_path": home / "WP.split.json"}
    done = evaluate(out, on="test", device="cpu", processes=1, **where)
    told = json.loads((home / "run" / "scores-test.json").read_text())
    assert done.scores.rows[MODEL]["rmse"] == pytest.approx(told[MODEL]["rmse"], rel=1e-6)


def test_only_its_own_checkpoint_is_there(run: Path, tmp_path: Path) -> None:
    save(run, which="last")
    out = export(run, tmp_path / "out", which="last").out
    assert checkpoint.in_run(out, "best") == checkpoint.in_run(out, "last")
    with pytest.raises(UserError, match=r"no checkpoint 'epoch-0010'; .* here last: leave out"):
        checkpoint.in_run(out, "epoch-0010")
    with pytest.raises(UserError, match="is an exported model; export the run"):
        export(out, tmp_path / "again")


def test_weights_and_settings_of_two_models_are_not_mixed(run: Path, tmp_path: Path) -> None:
    a, b = (export(run, tmp_path / name).out for name in "ab")
    weights = bytearray((b / folder.WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (a / folder.WEIGHTS).write_bytes(weights)
    with pytest.raises(UserError, match=r"not the weights that settings\.json .*`git lfs pull`"):
        loaded(a)
    (a / folder.WEIGHTS).unlink()
    with pytest.raises(UserError, match="no such file; copy the whole folder"):
        loaded(a)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text[:-20], "damaged, not JSON"),
        (lambda text: text.replace("eddy model", "another"), "not the settings of a model"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "version 2; update eddy"),
        (lambda text: text.replace('"checkpoint"', '"other"'), "damaged, a part is missing"),
        (lambda text: text.replace('"kinds"', '"other"'), "a damaged checkpoint"),
        (lambda text: text.replace('"geometry": {', '"geometry": [], "o": {'), "damaged checkp"),
    ],
)
def test_damaged_settings_are_a_sentence(run: Path, change: Any, told: str) -> None:
    out = export(run).out
    file = out / folder.SETTINGS
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError, match=told):
        loaded(out)


def test_whoever_may_read_the_card_may_read_the_weights(run: Path) -> None:
    out = export(run).out
    assert (out / folder.WEIGHTS).stat().st_mode == (out / folder.CARD).stat().st_mode


def test_an_exported_model_is_replaced_when_asked(run: Path, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out").out
    with pytest.raises(UserError, match="give --replace"):
        export(run, out)
    save(run, which="last")
    export(run, out, which="last", replace=True)
    assert folder.settings_of(out)["checkpoint"] == "last"
    assert inside(tmp_path) == ["out", "run"]


def test_what_is_not_an_exported_model_is_never_replaced(run: Path, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out").out
    (out / ".git").mkdir()
    with pytest.raises(UserError, match=r"holds more than an exported model \(\.git\)"):
        export(run, out, replace=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        export(run, other, replace=True)
    with pytest.raises(UserError, match="is a file"):
        export(run, other / "README.md", replace=True)
    (tmp_path / "empty").mkdir()
    export(run, tmp_path / "empty")


def test_a_full_disk_leaves_nothing_or_what_was_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    kept = export(run, tmp_path / "kept").out
    before = {name: (kept / name).read_bytes() for name in inside(kept)}
    monkeypatch.setattr(card, "render", full)
    for out in (tmp_path / "new", kept):
        with pytest.raises(OSError, match="No space"):
            export(run, out, replace=True)
    assert inside(tmp_path) == ["kept", "run"]
    assert {name: (kept / name).read_bytes() for name in inside(kept)} == before


# The card


def test_the_card_says_what_it_was_trained_on(home: Path, tmp_path: Path) -> None:
    text = text_of(home / "run", tmp_path / "out")
    found = loaded(home / "run").data
    assert f"`WP.zarr`, conversion `{found.manifest_hash}`" in text
    assert "| training tracks (1) | 202101 |" in text
    assert "| evaluation tracks (1) | 202102;" in text
    assert "| test tracks (1) | 202103 |" in text
    told = json.loads((home / "WP.split.json").read_text())["statistics"]
    assert f"| 267.0 | 310.0 | {told['std'][0]:.1f} | (infrared - 240) / 90 |" in text
    assert "Digital Typhoon Dataset (National Institute of Informatics)" in text
    assert "of HMW8, and of no other satellite" in text
    assert "180.0 to 310.0 K" in text
    front = front_of(text)
    assert front["license"] == "cc-by-4.0"
    assert {"tempogan", "super-resolution", "toa-brightness-temperature"} <= set(front["tags"])
    assert front["datasets"] == ["digital-typhoon"]


def test_every_score_of_the_card_is_that_of_scores_json(home: Path, tmp_path: Path) -> None:
    text = text_of(home / "run", tmp_path / "out")
    test, evaluated = text.split("### On the eval tracks")
    for part, name in ((test, "scores-test.json"), (evaluated, "scores.json")):
        told = json.loads((home / "run" / name).read_text())
        (line,) = re.findall(r"^\| RMSE \[K\] \| (.*?) \| root", part, re.M)
        values = [float(value.strip(" *")) for value in line.split("|")]
        assert values == [round(told[row]["rmse"], 3) for row in told["rows"]]
        (line,) = re.findall(r"^\| SSIM \| (.*?) \| struct", part, re.M)
        best = max(told["rows"], key=lambda row: round(told[row]["ssim"], 3))
        assert line.split(" | ")[told["rows"].index(best)].startswith("**")
        errors = {row: told[row]["rmse"] for row in told["rows"]}
        for row in told["rows"][1:]:
            assert f"RMSE minus that of {row}: " in part
        if name == "scores-test.json":
            shown = {
                m["type"]: m["value"]
                for m in front_of(text)["model-index"][0]["results"][0]["metrics"]
            }
            assert shown["rmse"] == round(errors[MODEL], 3)
            ours, best_error = errors.pop(MODEL), min(errors.values())
            share = f"{100 * abs(1 - ours / best_error):.1f} % "
            assert share + ("less" if ours < best_error else "more") in part
    assert "which flatters it a little" in evaluated
    assert "which flatters it a little" not in test


def test_scores_of_another_checkpoint_are_left_out(home: Path, tmp_path: Path) -> None:
    here = loaded(home / "run")
    position = {"epoch": 3, "step": 40}
    checkpoint.save(
        home / "run" / "checkpoints" / "epoch-0003.ckpt",
        replace(here, training={"position": position}),
    )
    done = export(home / "run", tmp_path / "out", which="epoch-0003")
    assert done.scored == []
    assert "scores.json is of step 100, and this checkpoint of step 40" in " ".join(done.notes)
    text = (done.out / folder.CARD).read_text()
    assert "has not been scored. `cli evaluate run --on test`" in text
    assert "model-index" not in front_of(text)
    assert "after epoch 3 of" in text


def test_what_is_not_known_is_said(run: Path, tmp_path: Path) -> None:
    save(run, attrs={"title": "Fields | of\nmine: x"}, seen={})
    text = text_of(run, tmp_path / "out")
    assert front_of(text)["license"] == "unknown"
    assert "The data came without a licence" in text
    assert r"| data set | Fields \| of mine: x |" in text
    assert "which values and satellites it saw was not recorded" in text
    assert "not recorded with this run" in text  # the test tracks: the split is gone
    save(run, attrs={"license": "Ask me first"})
    front = front_of(text_of(run, tmp_path / "out"))
    assert (front["license"], front["license_name"]) == ("other", "ask-me-first")


def test_limits_of_super_resolution(run: Path, tmp_path: Path) -> None:
    text = text_of(run, tmp_path / "out")
    assert "It learnt to go from pixels of 20 km to 5 km" in text
    assert "Detail finer than 20 km is the model's estimate, not observed" in text
    save(run, "tempogan", "task.truth=interpolated", "model.consistent=false")
    assert "It learnt from interpolated truth: nothing in it is finer" in text_of(
        run, tmp_path / "out"
    )


def test_limits_of_forecasts(run: Path, tmp_path: Path) -> None:
    text = text_of(save(run, "simvp", "task.coarsen=2"), tmp_path / "out")
    assert "It says 2 frames (2 h) at once" in text
    assert "where the storm will be is not forecast" in text
    assert f"averaged over 2{TIMES}2 pixels" in text
    assert "a pixel of the forecast is 10 km" in text


def test_the_picture_is_of_the_checkpoint_s_epoch(run: Path, tmp_path: Path) -> None:
    (run / "samples").mkdir()
    for epoch in (0, 2, 6, 9):
        Image.new("L", (epoch + 1, 1)).save(run / "samples" / f"epoch-{epoch:04d}.png")
    text = text_of(run, tmp_path / "out")
    assert "after epoch 6 of the training" in text  # the checkpoint is of epoch 7
    with Image.open(tmp_path / "out" / folder.PICTURE) as picture:
        assert picture.size == (7, 1)
    assert f"({folder.PICTURE})" in text


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


@every_model
def test_the_card_s_python_runs_as_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = export(save(tmp_path / "run", name)).out
    monkeypatch.chdir(out)
    (code,) = blocks((out / folder.CARD).read_text())
    said: dict[str, Any] = {}
    exec(code, said)
    T, _, H, W = loaded(out).geometry.y
    assert said["answer"].shape == (1, T, 1, H, W)
    assert np.isfinite(said["answer"].cpu().numpy()).all()


# ONNX


def onnx_of(run: Path, out: Path) -> Any:
    import onnxruntime

    done = export(run, out, onnx=True)
    assert done.problems == []
    return done, onnxruntime.InferenceSession(done.out / folder.ONNX)


@pytest.mark.slow
@every_model
def test_onnx_says_what_torch_says(name: str, tmp_path: Path) -> None:
    import onnx

    run = save(tmp_path / "run", name)
    done, session = onnx_of(run, tmp_path / "out")
    nodes = {node.op_type for node in onnx.load(done.out / folder.ONNX).graph.node}
    assert "Constant" not in nodes  # it was optimised
    trained = loaded(run)
    past = 3
    for batch, H, W in ((1, 32, 32), (2, 21, 38), (3, 44, 24)):
        given = frames(shape=(batch, past, 1, H, W))
        (said,) = session.run(None, {"x": given})
        wanted = answer(trained, given)
        assert said.shape == wanted.shape
        assert np.abs(said - wanted).max() < 1e-4 * (310 - 180)  # K
    if models.find(name).TASK == "superres":  # any number of frames
        given = frames(shape=(1, 7, 1, 16, 16))
        (said,) = session.run(None, {"x": given})
        assert np.abs(said - answer(trained, given)).max() < 1e-4 * (310 - 180)
    assert done.onnx.x == ["batch", "frames" if past != done.onnx.x[1] else 3, 1, "height", "width"]
    about = session.get_modelmeta().custom_metadata_map
    assert about["license"] == "CC BY 4.0"
    assert json.loads(about["y_channels"])[0]["units"] == "K"
    assert json.loads(about["scaling"])["scale"] == [90.0]
    text = (done.out / folder.CARD).read_text()
    assert f"`model.onnx` (opset {done.onnx.opset}) takes x (batch, " in text
    said_by_card: dict[str, Any] = {}
    before = os.getcwd()
    os.chdir(done.out)
    try:
        exec(blocks(text)[1], said_by_card)
    finally:
        os.chdir(before)
    assert np.isfinite(said_by_card["answer"]).all()


@pytest.mark.slow
def test_onnx_of_rain_keeps_its_mass_and_is_never_negative(tmp_path: Path) -> None:
    more = ["task.conserve_mass=additive", "model.lambda_adversarial=0"]
    run = save(tmp_path / "run", "srgan", *more, rain=True)
    done, session = onnx_of(run, tmp_path / "out")
    given = np.random.default_rng(0).exponential(2, (2, 1, 1, 8, 11)).astype(np.float32)
    (said,) = session.run(None, {"x": given})
    assert said.min() >= 0
    means = said.reshape(2, 1, 1, 8, 4, 11, 4).mean((4, 6))
    assert np.abs(means - given).max() < 1e-3  # mm
    assert done.onnx.relative < 1e-4


@pytest.mark.slow
def test_onnx_of_a_forecast_takes_frames_as_the_store_has_them(tmp_path: Path) -> None:
    grid = Grid(np.linspace(50, 46, 32), np.linspace(5, 9, 32), projected=False)
    box = "task.area=[5.5,8.5,46.5,49.5]", "task.region=[6.5,7.5,47.5,48.5]"
    run = save(tmp_path / "run", "simvp", *box, "task.outside=mean", "task.coarsen=2", grid=grid)
    done, session = onnx_of(run, tmp_path / "out")
    given = frames(shape=(2, 3, 1, 32, 32))
    (said,) = session.run(None, {"x": given})
    wanted = answer(loaded(run), given)
    assert said.shape == wanted.shape
    assert max(said.shape[-2:]) < 8  # the region alone
    assert np.abs(said - wanted).max() < 0.01  # K
    assert done.onnx.x == ["batch", 3, 1, 32, 32]


def test_onnx_needs_its_packages(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = onnx_file.find_spec
    monkeypatch.setattr(
        onnx_file, "find_spec", lambda name: None if name == "onnxruntime" else there(name)
    )
    with pytest.raises(UserError, match=r"--onnx needs onnxruntime: pip install 'eddy\[onnx\]'"):
        export(run, tmp_path / "out", onnx=True)
    assert inside(tmp_path) == ["run"]
    export(run, tmp_path / "out")  # the rest needs none of them


def test_without_onnx_none_of_its_packages_is_imported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builtins.__import__

    def refusing(name: str, *more: Any) -> Any:
        assert name.split(".")[0] not in {*onnx_file.NEEDED, "onnx", "onnx_ir"}, name
        return plain(name, *more)

    monkeypatch.setattr(builtins, "__import__", refusing)
    export(run, tmp_path / "out")


class Unsayable(nn.Module):
    """Its shape depends on the values."""

    reach = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x[x > x.median()].tolist()
        return x.repeat_interleave(4, -1).repeat_interleave(4, -2) * len(kept)

    def players(self) -> dict[str, nn.Module]:
        return {"all": self}


def refuse(problem: str, done: Any) -> None:
    assert "\n" not in problem
    assert inside(done.out) == ["README.md", "model.safetensors", "settings.json"]
    assert f"There is no `model.onnx`: {problem}." in (done.out / folder.CARD).read_text()
    assert folder.settings_of(done.out)["onnx"] is None


def test_without_onnx_the_rest_stands(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def traced(*_: Any) -> None:
        try:
            raise ValueError("no such operator\nand much more")
        except ValueError as error:
            raise torch.onnx.OnnxExporterError("Failed\n\n# a long report") from error

    monkeypatch.setattr(onnx_file, "traced", traced)
    done = export(run, tmp_path / "out", onnx=True)
    problem = "this network cannot be exported (ValueError: no such operator)"
    assert done.problems == [f"model.onnx: {problem}"]
    refuse(problem, done)


@pytest.mark.slow
def test_a_network_that_onnx_cannot_say_is_a_problem(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "model", lambda *_: Unsayable())
    done = export(run, tmp_path / "out", onnx=True)
    problem = done.problems[0].removeprefix("model.onnx: ")
    assert problem.startswith("this network cannot be exported (")
    refuse(problem, done)


@pytest.mark.slow
def test_onnx_that_differs_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "TOLERANCE", 1e-12)
    done = export(run, tmp_path / "out", onnx=True)
    assert re.search(r"differ by up to infrared [\d.e-]+ K, more than 1e-12", done.problems[0])
    assert folder.ONNX not in inside(done.out)


@pytest.mark.slow
def test_opset(run: Path, tmp_path: Path) -> None:
    import onnx

    done = export(run, tmp_path / "out", onnx=True, opset=18)
    made = onnx.load(done.out / folder.ONNX)
    assert {each.domain: each.version for each in made.opset_import}[""] == 18
    onnx.checker.check_model(made)


def test_an_opset_that_cannot_be(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--opset is for --onnx"):
        export(run, tmp_path / "out", opset=18)
    with pytest.raises(UsageError, match="--opset 11: expected 18 or later"):
        export(run, tmp_path / "out", onnx=True, opset=11)
    assert inside(tmp_path) == ["run"]


def test_onnx_of_a_control_is_refused(tmp_path: Path) -> None:
    grid = Grid(np.linspace(50, 46, 32), np.linspace(5, 9, 32), projected=False)
    more = ["task.region=[6.5,7.5,47.5,48.5]", "task.outside=other_date"]
    done = export(save(tmp_path / "run", "simvp", *more, grid=grid), onnx=True)
    assert "from another date" in done.problems[0]


def scored_as(ours: float, theirs: float) -> dict[str, Any]:
    return {
        "rows": [MODEL, "bicubic"],
        "units": {"rmse": "K"},
        "intervals": {"model_minus": {"bicubic": {}}},
        "tracks": {"202101": {}, "202102": {}},
        MODEL: {"rmse": ours},
        "bicubic": {"rmse": theirs},
    }


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (3.4089, 3.4091, "about the same"),
        (3.4091, 3.4089, "about the same"),
        (3.0, 4.0, "25.0 % less"),
        (4.1, 4.0, "2.5 % more"),
    ],
)
def test_a_difference_of_nothing_is_no_percentage(ours: float, theirs: float, told: str) -> None:
    scores = scored_as(ours, theirs)
    assert judged.differences(scores)[0].endswith(f" K, {told}")
    link = "as" if told == judged.SAME else "than"
    of: Any = SimpleNamespace(scores=[scores], forecast=None)
    assert f"{told} {link} that of the best baseline, bicubic." in judged.worth(of)


def test_sizes_of_files_are_in_powers_of_a_thousand(run: Path, tmp_path: Path) -> None:
    done = export(run, tmp_path / "out")
    text = (done.out / folder.CARD).read_text(encoding="utf-8")
    held = (done.out / "model.safetensors").stat().st_size
    assert re.search(rf"\| `model.safetensors` \| {held / 1e6:.3g} MB \|", text)
