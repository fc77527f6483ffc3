"""The walk through all stages as a user types it, and what each mistake says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner, Result

import cli
from pipeline.sources.synthetic import Storm, write_tree

SMALL = [
    word
    for setting in (
        "model.n_residual_blocks=1",
        "model.width=8",
        "model.warmup_steps=2",
        "training.patch_size=32",
        "training.batch_size=2",
        "training.epochs=1",
        "training.validation_crops=2",
        "training.sample_every_epochs=0",
    )
    for word in ("--set", setting)
]


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def refused(code: int, told: str, *words: object) -> str:
    """The command fails with this exit code and one sentence, not a traceback."""
    result = run(*words)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    sentence = result.stderr.splitlines()[-1]
    assert re.search(told, sentence), result.stderr
    assert "Traceback" not in result.output
    return sentence


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw WP (three storms of 48x48), WP.zarr, WP.split.json and a trained run."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("cli")
    storms = [Storm(f"20210{n}", datetime(2021, 7, n, tzinfo=UTC), hours=6) for n in (1, 2)] + [
        Storm("201903", datetime(2019, 8, 2, tzinfo=UTC), hours=4)
    ]
    write_tree(home / "WP", storms, size=48)
    for words in (
        ["convert", home / "WP", home / "WP.zarr", "--manifest-dir", home, "--workers", 1],
        ["split", home / "WP.zarr", "--eval-ids", "2019-2020", "--manifest-dir", home],
        ["train", *data(home), "--run", home / "run", *SMALL],
    ):
        result = run(*words)
        assert result.exit_code == 0, result.output
    return home


def data(home: Path) -> list[object]:
    return ["--store", home / "WP.zarr", "--split", home / "WP.split.json"]


def test_the_walk(home: Path) -> None:
    result = run("verify", home / "WP.zarr", "--source", home / "WP", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "16 of 16 frames equal their files" in result.output
    result = run("evaluate", home / "run")
    assert result.exit_code == 0, result.output
    assert "bicubic" in result.output
    scores = json.loads((home / "run" / "scores.json").read_text())
    assert np.isfinite([scores[row]["rmse"] for row in ("model", "bicubic")]).all()
    result = run(
        "infer", home / "run", home / "WP" / "image" / "201903",
        "--out", home / "out" / "201903.nc", "--mode",
        "check", "--pictures", "1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    with xr.open_dataset(home / "out" / "201903.nc") as dataset:
        assert dataset.sizes["time"] == 4
    assert list((home / "out").rglob("*.png"))


def test_the_table_of_a_conversion_names_each_track(home: Path) -> None:
    result = run("convert", home / "WP", home / "WP.zarr", "--manifest-dir", home)
    assert result.exit_code == 0
    assert "3 tracks, 16 frames, 10 triplets; 3 tracks were done before" in result.output


def test_all_settings_can_be_shown_and_used_again(home: Path, tmp_path: Path) -> None:
    result = run("train", *data(home), "--show", *SMALL)
    assert result.exit_code == 0
    (tmp_path / "all.yaml").write_text(result.stdout)
    again = run("train", tmp_path / "all.yaml", "--show")
    assert again.stdout == result.stdout
    assert "patch_size: 32" in again.stdout


def test_dry_run_writes_nothing(home: Path, tmp_path: Path) -> None:
    result = run("convert", home / "WP", tmp_path / "X.zarr", "--dry-run")
    assert result.exit_code == 0
    assert "3 tracks, 16 files" in result.output
    assert not list(tmp_path.iterdir())


def test_help_is_quick_and_names_every_command() -> None:
    """Without torch, zarr and the like: they take seconds to import."""
    code = (
        "import sys; from typer.testing import CliRunner; import cli;"
        "r = CliRunner().invoke(cli.app, ['--help']); print(r.output);"
        "sys.exit(len({'torch', 'zarr', 'h5py', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("convert", "verify", "split", "train", "evaluate", "infer", "demo"):
        assert name in done.stdout


def copied(home: Path, tmp_path: Path) -> Path:
    shutil.copytree(home / "WP", tmp_path / "WP")
    return tmp_path / "WP"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("text", "not a readable HDF5 image"),
        ("truncated", "not a readable HDF5 image"),
        ("shape", r"image is \(24, 24\), expected \(48, 48\)"),
        ("dtype", "int16; expected floating-point"),
    ],
)
def test_an_unreadable_frame_is_named_and_skipped(
    home: Path, tmp_path: Path, damage: str, told: str
) -> None:
    tree = copied(home, tmp_path)
    file = sorted((tree / "image" / "202101").iterdir())[2]
    if damage == "text":
        file.write_text("not H5")
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-500])
    else:
        shape, dtype = ((24, 24), "f8") if damage == "shape" else ((48, 48), "i2")
        with h5py.File(file, "w") as h5:
            h5.create_dataset("Infrared", data=np.full(shape, 280), dtype=dtype)
    words = ["convert", tree, tmp_path / "X.zarr", "--manifest-dir", tmp_path, "--workers", 1]
    refused(1, told, *words, "--strict")
    assert not list(tmp_path.glob("X.zarr/20*1/frames")), "half a track was left"
    result = run(*words)
    assert result.exit_code == 3
    assert re.search(told, result.output)
    assert file.name in result.output
    assert "3 tracks, 15 frames, 7 triplets" in result.output  # 10 less the 3 with that frame
    manifest = json.loads((tmp_path / "X.json").read_text())
    assert file.name in manifest["problems"][0]


def test_only_bad_files(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "image" / "202101"
    folder.mkdir(parents=True)
    (folder / "2021070100-202101-HMW8-1.h5").write_text("not H5")
    refused(
        1, "not one readable frame; .*not a readable HDF5 image",
        "convert", tmp_path / "raw", tmp_path / "X.zarr", "--manifest-dir", tmp_path / "m",
    )  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {"raw"}


def test_two_files_of_one_hour(home: Path, tmp_path: Path) -> None:
    tree = copied(home, tmp_path)
    file = sorted((tree / "image" / "202101").iterdir())[0]
    shutil.copy(file, tree / "image" / file.name.replace("HMW8", "HMW9"))
    refused(
        1, "two files for one hour of one typhoon: .*HMW9.*expected one",
        "convert", tree, tmp_path / "X.zarr", "--manifest-dir", tmp_path / "m",
    )  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {"WP"}


def test_nothing_to_convert(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(1, "no raw frames found; expected", "convert", tmp_path / "empty", tmp_path / "X.zarr")
    refused(1, "no such file or folder", "convert", tmp_path / "none", tmp_path / "X.zarr")
    assert not (tmp_path / "X.zarr").exists()


def test_unknown_ids(home: Path, tmp_path: Path) -> None:
    refused(
        1, "no track '202110'; near it: .*202101",
        "split", home / "WP.zarr", "--eval-ids", "202110", "--out", tmp_path / "s.json",
    )  # fmt: skip
    refused(
        1, "no track 9; it has 201903, 202101, 202102",
        "convert", home / "WP", tmp_path / "X.zarr", "--ids", "9",
    )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_store_that_is_not_there_or_not_ours(home: Path, tmp_path: Path) -> None:
    words = ["--eval-ids", "202101", "--out", tmp_path / "s.json"]
    refused(1, "no store here; run `cli convert", "split", tmp_path / "no.zarr", *words)
    shutil.copytree(home / "WP.zarr", tmp_path / "new.zarr")
    root = tmp_path / "new.zarr" / "zarr.json"
    root.write_text(root.read_text().replace('"format_version": 2', '"format_version": 9'))
    refused(1, "store format 9, this eddy reads up to 2", "split", tmp_path / "new.zarr", *words)
    root.write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    refused(1, "not a finished store", "split", tmp_path / "new.zarr", *words)
    assert not (tmp_path / "s.json").exists()


def test_training_mistakes(home: Path, tmp_path: Path) -> None:
    words = ["train", *data(home), "--run", tmp_path / "run", *SMALL]
    refused(1, "patch_size 64 is larger than", *words, "--set", "training.patch_size=64")
    refused(2, "unknown setting training.batchsize; did you mean training.batch_size", *words,
            "--set", "training.batchsize=2")  # fmt: skip
    refused(2, "no such settings file", "train", tmp_path / "no.yaml")
    refused(2, "--resume: say which run", "train", "--resume")
    refused(1, "no training to resume here", *words, "--resume")
    text = (home / "WP.split.json").read_text()
    (tmp_path / "other.json").write_text(
        re.sub('"manifest_hash": "....', '"manifest_hash": "0000', text)
    )
    refused(1, "divides the store", *words, "--split", tmp_path / "other.json")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_model(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "run", tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    plain = torch.load(path, weights_only=True)
    plain["settings"]["model"] = {"name": "srgan"}
    torch.save(plain, path)
    refused(1, "checkpoint of the model srgan, not of tempogan",
            "train", "--run", tmp_path / "run", "--resume")  # fmt: skip


def contents(store: Path) -> dict[str, object]:
    """Every file's bytes; of the root's the JSON without what the store's name is part of."""
    files = {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    root = json.loads(files.pop("zarr.json"))
    assert store.name in root["attributes"].pop("history")
    del root["attributes"]["digest"]
    return {**files, "zarr.json": root}


def test_the_disk_is_full(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halfway through the second track: the first one stays, and running again ends the same."""
    from pipeline import shard

    real, frames = shard.ShardWriter.append, []

    def full(self: shard.ShardWriter, frame: np.ndarray) -> None:
        frames.append(1)
        if len(frames) == 9:
            raise OSError(28, "No space left on device", str(tmp_path / "X.zarr"))
        real(self, frame)

    words = ["convert", home / "WP", tmp_path / "X.zarr", "--manifest-dir", tmp_path,
             "--workers", 1]  # fmt: skip
    monkeypatch.setattr(shard.ShardWriter, "append", full)
    refused(1, "no space left on device.*run the same command again", *words)
    assert len(list((tmp_path / "X.zarr").glob("20*"))) == 1
    assert not list((tmp_path / "X.zarr").glob(".*"))
    refused(1, "not a finished store", "split", tmp_path / "X.zarr", "--eval-ids", "201903")
    monkeypatch.setattr(shard.ShardWriter, "append", real)
    assert run(*words).exit_code == 0
    assert contents(tmp_path / "X.zarr") == contents(home / "WP.zarr")


def test_our_own_defects_keep_their_trace(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    from pipeline import evaluate

    def broken(*args: object, **named: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(evaluate, "evaluate", broken)
    result = run("evaluate", home / "run")
    assert isinstance(result.exception, RuntimeError)


@pytest.mark.slow
def test_the_demo_beats_bicubic_and_shows_where_to_look(tmp_path: Path) -> None:
    """As users run it: a process of its own, with all cores."""
    words = [sys.executable, "-c", "import cli; cli.app()", "demo", "--out", tmp_path / "demo"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    scores = json.loads((tmp_path / "demo" / "run" / "scores.json").read_text())
    assert scores["model"]["rmse"] < scores["bicubic_means"]["rmse"] < scores["bicubic"]["rmse"]
    named = [Path(line.strip()) for line in done.stdout.splitlines() if line.startswith("  /")]
    assert {path.suffix for path in named} == {".png", ".mp4", ".nc", ".html"}
    assert all(path.stat().st_size > 1000 for path in named)
    assert [line for line in done.stdout.splitlines() if line.startswith("Next ")] == [
        "Next      cli inspect data/WP --quick"
    ]
    assert "agora.ex.nii.ac.jp" in done.stdout.splitlines()[-2]


def test_a_reader_that_has_seen_enough_is_no_mistake(home: Path) -> None:
    command = f"{sys.executable} -c 'import cli; cli.app()' inspect {home / 'WP'} --json - | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "frames" in done.stderr  # it was at work
    assert "pipe" not in done.stderr
    assert "Error" not in done.stderr


def test_the_demo_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    refused(1, "holds something else than a demo", "demo", "--out", tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
