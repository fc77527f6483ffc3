"""Forecasts on the real files, where they lie beside the repository: each system, small."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import convert as converting
from pipeline import evaluate as evaluating
from pipeline import infer as inferring
from pipeline import settings as run_settings
from pipeline import split as splitting
from pipeline import store
from pipeline import train as training
from pipeline.convert import ConvertSettings
from pipeline.sources.options import Options

SHARED = Path(__file__).parents[2] / "shared/data"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real files in {SHARED}"),
]
SIMVP = {"hid_s": 16, "hid_t": 32, "n_s": 2, "n_t": 2, "residual": True}
PASTNET = {
    "width": 16,
    "codes": 32,
    "code_width": 8,
    "hid_t": 32,
    "n_t": 2,
    "embed": 16,
    "patch": 8,
    "residual": True,
}
RAINNET = {"hidden": [8, 16], "residual": True}


def prepared(home: Path, source: Path, eval_ids: list[str], **asked) -> None:
    converting.convert(
        source, home / "data.zarr", ConvertSettings(**asked), manifests=home, workers=1
    )
    splitting.split(home / "data.zarr", home / "split.json", eval_ids=eval_ids)


def scored(home: Path, name: str, model: dict, task: dict, **training_settings):
    """A small run of one model, evaluated."""
    flat = {f"model.{k}": v for k, v in model.items()} | {f"task.{k}": v for k, v in task.items()}
    flat |= {f"training.{k}": v for k, v in training_settings.items()} | {"model.name": name}
    found, _ = run_settings.load(None, [f"{key}={value}" for key, value in flat.items()])
    settings = run_settings.located(found, home / "data.zarr", home / "split.json")
    training.train(settings, home / name)
    return evaluating.evaluate(home / name, batch_size=8).scores


@pytest.fixture(scope="module")
def storms(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("storms")
    prepared(home, SHARED / "WP", ["200717"], max_missing=1.0)
    return home


def test_persistence_of_a_storm_is_what_the_frames_say(storms: Path) -> None:
    """Computed once more, from the frames themselves."""
    scores = scored(
        storms, "simvp", SIMVP, {"past": 3, "future": 3, "coarsen": 16},
        patch_size="null", epochs=4, batch_size=8, lr=2e-3, ema=0.9, crops_per_window=4,
        validation_crops=4,
    )  # fmt: skip
    frames = store.open_store(storms / "data.zarr").track("200717").frames[:, 0]
    coarse = frames.reshape(40, 32, 16, 32, 16).mean((2, 4), dtype=np.float64)
    assert not np.isnan(coarse).any()
    first = np.arange(40 - 5)
    for lead in range(3):
        off = coarse[first + 3 + lead] - coarse[first + 2]
        found = scores.leads[lead]["persistence"]["rmse"]
        assert found == pytest.approx(np.sqrt((off**2).mean()), rel=1e-4)
    for lead in (1, 2):  # from the second hour on a storm that was not trained on is forecast
        assert scores.leads[lead]["model"]["rmse"] < scores.leads[lead]["persistence"]["rmse"]
    made = inferring.infer(
        storms / "simvp", SHARED / "WP/image/200717", storms / "out.nc", pictures="1", animations=()
    )
    assert made.file.is_file()


def test_pastnet_on_a_storm(storms: Path) -> None:
    scores = scored(
        storms, "pastnet", PASTNET, {"past": 3, "future": 3, "coarsen": 16},
        patch_size="null", epochs=2, batch_size=8, lr=2e-3, ema=0.9, crops_per_window=4,
        validation_crops=4,
    )  # fmt: skip
    model, persistence = (scores.leads[2][row]["rmse"] for row in ("model", "persistence"))
    assert model < persistence


def test_st_rainnet_on_hourly_rain(tmp_path: Path) -> None:
    source = SHARED / "precipitation/era5_telangana_2023JJA"
    prepared(tmp_path, source, ["2023-06-10"], options=Options(track_by="10d"))
    scores = scored(
        tmp_path, "st_rainnet", RAINNET, {"past": 4, "future": 1},
        patch_size="null", epochs=1, batch_size=16, lr=3e-3, ema=0.9,
    )  # fmt: skip
    assert scores.rows["model"]["rmse"] < scores.rows["persistence"]["rmse"]
    assert "csi_moderate" in scores.rows["model"]


def test_simvp_on_moving_digits(tmp_path: Path) -> None:
    prepared(tmp_path, SHARED / "mnist", ["t10k-01"], options=Options(clips=60))
    scores = scored(
        tmp_path, "simvp", {**SIMVP, "hid_s": 8, "residual": False}, {"past": 10, "future": 10},
        patch_size="null", augment="false", epochs=2, batch_size=8, lr=2e-3, ema=0.9,
    )  # fmt: skip
    assert scores.rows["model"]["mse_sum"] < 0.7 * scores.rows["persistence"]["mse_sum"]
