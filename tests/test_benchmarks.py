"""The benchmarks run and print what they promise; never how fast anything is."""

import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import models
from pipeline import score_files
from pipeline.scorecard import Judge, Yardstick
from pipeline.scores import Scores, TrackScores
from pipeline.sources import synthetic

FOLDER = Path(__file__).parents[1] / "benchmarks"
TINY = ("--quick", "--size", "128", "--frames", "12")


def run(script: str, tmp_path: Path, *options: str) -> tuple[str, dict]:
    """What it prints, and its --json."""
    done = started(script, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "work").glob("eddy-benchmark-*")), "left behind"
    return done.stdout, json.loads((tmp_path / "told.json").read_text())


def started(script: str, tmp_path: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, FOLDER / script, "--json", "told.json", "--work", "work", *options],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


def compared(told: dict) -> set[tuple[str, str]]:
    return {(row["what"], row["reference"]) for row in told["rows"]}


def check_rows(printed: str, told: dict) -> None:
    assert told["machine"]["CPU"] in printed
    for row in told["rows"]:
        assert row["what"].strip() in printed
        assert row["low"] <= row["figure"] <= row["high"]
        if row["reference"]:
            assert row["ratio"] is not None
            assert row["reference"] in printed
    for what in told["skipped"]:
        assert f"skipped: {what}" in printed


@pytest.mark.slow
def test_convert(tmp_path):
    """On a given tree; the loader's on drawn frames."""
    synthetic.write_tree(tmp_path / "raw", [synthetic.Storm(hours=5)], size=128)
    printed, told = run("convert.py", tmp_path, "--tree", "raw", *TINY)
    check_rows(printed, told)
    assert "5 of raw" in printed
    rows = compared(told)
    assert ("wall", "h5py, astype, zarr-python") in rows
    assert ("wall", "read, inflate, write, fsync") in rows
    assert ("user CPU", "read and inflate") in rows
    assert ("wall, 2 processes", "1 process") in rows
    assert ("--codec zstd, wall", "zarr-python's defaults") in rows
    assert ("peak memory, a track of 80", "a track of 8") in rows


@pytest.mark.slow
def test_loader(tmp_path):
    printed, told = run("loader.py", tmp_path, *TINY)
    check_rows(printed, told)
    rows = compared(told)
    for what in ("64 crops", "whole frames of 128"):
        for reference in ("memcpy", "H5 files", "zarr-python"):
            assert (what, reference) in rows
    assert ("128 crops, --codec zstd", "zarr-python, same store") in rows
    assert ("step with a batch of 128 crops", "the step alone") in rows
    assert {"open and map 50 tracks", "memory gained, store of 1 MiB"} <= {what for what, _ in rows}
    named = {reference.split(",")[0] for _, reference in rows} | set(told["skipped"])
    assert {"zarrs", "tensorstore", "mosaicml-streaming", "litdata", "webdataset"} <= named


def test_a_tree_of_another_form_is_refused(tmp_path, tiny):
    tiny.track()  # its pixels lie in one piece
    done = started("convert.py", tmp_path, "--tree", str(tiny.root), *TINY)
    assert done.returncode == 1
    assert "not in deflated chunks" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# ---- training


@pytest.fixture
def script(monkeypatch):
    """Imports one of them, as it imports what lies beside it."""

    def found(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(FOLDER)
        return importlib.import_module(name)

    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", models.names())
def test_train(name, tmp_path, monkeypatch, capsys, script):
    torch.set_num_threads(1)
    monkeypatch.setenv("COLUMNS", "200")
    told = tmp_path / "told.json"
    words = ["--model", name, "--device", "cpu", "--work", str(tmp_path / "work"), "--json"]
    script("train").main([*words, str(told), *TINY])
    assert not list((tmp_path / "work").glob("eddy-benchmark-*")), "left behind"
    told = json.loads(told.read_text())
    check_rows(capsys.readouterr().out, told)
    rows = compared(told)
    tempogan = name == "tempogan"
    for ours in ("tempogan eddy", "tempogan residual") if tempogan else (name,):
        assert (f"{ours}, loader", f"{ours}, held") in rows
        assert (f"{ours}, held", "matmul of 256, fp32") in rows
        assert {(f"{ours}, waits for data", ""), (f"{ours}, asking for a batch", "")} <= rows
        assert ((f"{ours}, held", "plain loop, held") in rows) == tempogan
        assert ((f"{ours}, held, CPU time", "plain loop, held") in rows) == tempogan
        assert ((f"{ours}, loader", "plain loop, H5 files") in rows) == tempogan
    assert ((f"{name}, tensors by the dry run", "") in rows) != tempogan  # of one training alone


def test_train_without_a_gpu_says_so(tmp_path, script):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    for name, words in (("train", ["--device", "cuda"]), ("gpu", []), ("gpu", ["--device", "cpu"])):
        with pytest.raises(SystemExit, match="GPU") as raised:
            script(name).main(words)
        assert isinstance(raised.value.code, str)  # which Python prints, and exits 1
        assert "\n" not in raised.value.code


def test_figures_stand_beside_goals(script):
    """Twice the plain loop: enough on a CPU, not on a GPU."""
    train, common = script("train"), script("_common")
    found = {
        "ours, loader": [1.96, 1.96],
        "ours, held": [2.0, 2.0],
        train.PLAIN: [0.1, 0.1],
        train.PLAIN_HELD: [1.0, 1.0],
    }
    reached = {}
    for device in ("cpu", "cuda"):
        report = common.Report("")
        flops = {"ours": 3 * 10**9, train.PLAIN_HELD: 5 * 10**9}
        products = {"fp32": [10.0, 10.0], "bf16": [24.0, 24.0]}
        args = train.parsed(["--precision", "bf16"])
        train.tell(args, report, torch.device(device), found, flops, products, "matmul")
        rows = {(row.what, row.reference): row for row in report.rows}
        waits = rows["ours, waits for data", ""]
        assert waits.figure == pytest.approx(2.0)  # percent
        assert (waits.target, waits.reached) == ("< 3 %", True)
        assert rows["ours, held", "matmul, bf16"].ratio == pytest.approx(0.25)  # 2/s x 3 of 24
        assert rows[train.PLAIN_HELD, "matmul, fp32"].ratio == pytest.approx(0.5)
        row, end = rows["ours, held", train.PLAIN_HELD], rows["ours, loader", train.PLAIN]
        assert row.ratio == pytest.approx(2.0)
        assert end.ratio == pytest.approx(19.6)
        reached[device] = (row.target, row.reached, end.target, end.reached)
    assert reached["cpu"] == (">= 1.8", True, "-", None)
    assert reached["cuda"] == (">= 4", False, ">= 30", False)


def test_a_stretch_times_its_steps_and_nothing_else(script):
    steps, others = [], []

    def slept() -> None:
        steps.append(1)
        time.sleep(0.01)

    def around() -> None:
        others.append(1)
        time.sleep(0.2)

    stretch = script("train").Stretch(
        slept, torch.device("cpu"), seconds=0.05, log_every=2, before=around, after=around
    )
    assert stretch.count in (2, 4, 6)  # about 5, of which whole pairs
    before = len(steps)
    rate = stretch()
    assert len(steps) - before == stretch.count
    assert len(others) == 4
    assert 10 < rate <= 100  # with the 0.4 s around it, it would be below
    assert 0 < stretch.cpu[-1] < 0.01  # asleep


def test_cpu_time_stands_beside_the_goal(script):
    train, common = script("train"), script("_common")
    report = common.Report("")
    cpu = {"ours, held": [2.0, 2.0], train.PLAIN_HELD: [3.0, 5.0]}
    train.tell_cpu(train.parsed([]), report, ["ours"], cpu)
    (row,) = report.rows
    assert (row.figure, row.its_figure, row.ratio) == (2.0, 4.0, 2.0)
    assert (row.target, row.reached) == (">= 1.8", True)


def test_the_plain_loop_asks_its_generator_eight_times(script):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    loop = script("_plain").Plain(torch.device("cpu"))
    learning, shapes = [], set()

    def seen(module, args, output):
        learning.append(torch.is_grad_enabled())
        shapes.add(tuple(output.shape))

    loop.generator.register_forward_hook(seen)
    networks = (loop.generator, loop.spatial, loop.temporal)
    before = [[p.clone() for p in network.parameters()] for network in networks]
    y = torch.rand(2, 3, 1, 32, 32) * 2 - 1
    loop.step(F.avg_pool2d(y.flatten(0, 1), 4).unflatten(0, (2, 3)), y)
    assert learning == [False] * 4 + [True] * 4
    assert shapes == {(2, 1, 32, 32)}
    for network, old in zip(networks, before, strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), old, strict=True))
    d_loss, g_loss = loop.told
    assert 2 < d_loss < 4  # four times log 2, when nothing is learnt yet
    assert 0 < g_loss < 2


def test_the_plain_loop_s_samples(tmp_path, script):
    """Whole frames, so that what was read is known: turned alike, and coarse by their means."""
    plain = script("_plain")
    frames = np.random.default_rng(0).uniform(200, 300, (4, 16, 16))
    files = [tmp_path / f"{n}.h5" for n in range(4)]
    for file, frame in zip(files, frames, strict=True):
        with h5py.File(file, "w") as opened:
            opened.create_dataset("Infrared", data=frame, compression="gzip")
    triplets = plain.Triplets([files, files[:2]], patch=16)
    assert len(triplets) == 2  # a track of two has none
    turned = set()
    for _ in range(30):
        x, y = triplets[1]
        assert x.shape == (3, 1, 4, 4)
        assert torch.allclose(x[:, 0, 0, 0], y[:, 0, :4, :4].mean((-2, -1)), atol=1e-6)
        kelvin = (y * 90 + 240)[:, 0].double().numpy()
        ways = [np.rot90(f, k, (1, 2)) for f in (frames[1:], frames[1:, :, ::-1]) for k in range(4)]
        (way,) = [n for n, way in enumerate(ways) if np.allclose(way, kelvin, atol=1e-3)]
        turned.add(way)
    assert len(turned) > 4


# ---- all that needs a GPU


def test_a_part_that_fails_loses_no_other(tmp_path, script):
    gpu, told = script("gpu"), tmp_path / "told.json"
    write = "import sys, pathlib; pathlib.Path(sys.argv[-1]).write_text('{\"rows\": [1]}')"
    codes = {
        "good": write,
        "bad": "raise SystemExit('broken')",
        "long": "import time; time.sleep(60)",
    }
    begun = time.monotonic()
    limits = {"good": 5.0, "bad": 5.0, "long": 1.0}
    found = {
        n: gpu.run(gpu.Part(n, ["-c", c], 5.0), told, limits[n], True) for n, c in codes.items()
    }
    assert time.monotonic() - begun < 15
    assert found["good"]["failed"] == ""
    assert found["good"]["rows"] == [1]
    assert found["bad"]["failed"] == "exit status 1"
    assert found["bad"]["output"] == ["broken"]
    assert found["long"]["failed"] == "not done in 1 s"


def test_gpu_s_table_is_of_its_file(tmp_path, capsys, script):
    row = script("_common").Row(
        "ours, held", 123.456, 120, 130, "/s", "plain", 20.0, 6.17, ">= 4", True
    )
    told = {
        "machine": {"device": "a GPU of 80 GiB, driver 1.2"},
        "parts": {
            "training": {"failed": "", "rows": [asdict(row)], "skipped": {"memory": "not there"}},
            "copies": {"failed": "exit status 1", "output": ["broken"]},
        },
    }
    (tmp_path / "gpu.json").write_text(json.dumps(told))
    script("gpu").main(["--markdown", str(tmp_path / "gpu.json")])
    assert capsys.readouterr().out == (
        "device: a GPU of 80 GiB, driver 1.2  \n\n"
        "| part | what | figure | rounds from .. to | reference | its figure | ratio | target | "
        "reached |\n|---|---|---|---|---|---|---|---|---|\n"
        "| training | ours, held | 123 /s | 120 .. 130 | plain | 20.0 /s | 6.17 x | >= 4 | yes |\n"
        "\n- training: skipped: memory: not there\n- copies: exit status 1\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("only", ["inference", "copies", "model srgan", "training, fp32"])
def test_gpu_s_parts_run_without_one(tmp_path, only):
    """At toy size."""
    printed, told = run("gpu.py", tmp_path, "--quick", "--device", "cpu", "--only", only)
    assert list(told["parts"]) == [only]
    assert told["parts"][only]["failed"] == ""
    assert told["parts"][only]["rows"]
    assert only in printed
    assert "CPU" in told["machine"]["device"]


@pytest.mark.slow
def test_superres_spectra(tmp_path):
    """Half of the amplitude is a quarter of the power, in every band and over all tracks."""
    yardstick = Yardstick(150, 330, "K", 5, "km")
    by_track = {}
    for seed, id in enumerate(("200001", "200002")):
        judge = Judge(yardstick, ("model", "bicubic", "bicubic_means"))
        random = torch.Generator().manual_seed(seed)
        truth = 250 + 10 * torch.randn(1, 512, 512, generator=random)
        half = 250 + (truth - 250) / 2
        judge.frame({"model": half, "bicubic": truth, "bicubic_means": half}, truth, follows=False)
        by_track[id] = TrackScores(judge.cards)
    told = score_files.sums(Scores(yardstick, by_track, {}))
    (tmp_path / "scores.sums.json").write_text(json.dumps(told))
    done = subprocess.run(
        [sys.executable, FOLDER / "superres_spectra.py", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    tables = done.stdout.strip().split("\n\n")
    assert [table.split(" | ")[0] for table in tables] == ["| 200001", "| 200002", "| all"]
    for table in tables:
        *_, bicubic, _, model = (row.split(" | ")[1:] for row in table.splitlines())
        assert bicubic == ["0.000", "1.000", "1.00", "1.00", "1.00", "- |"]
        assert float(model[0]) == pytest.approx(5, abs=0.02)
        assert model[2:] == ["0.25", "0.25", "0.25", "- |"]


# ---- the first hour


def test_a_command_is_watched(tmp_path, script):
    """When it made what, what it printed and when; nothing is left of it where it fails."""
    hour = script("first_hour")
    made = tmp_path / "made"
    code = f"import time; time.sleep(.3); open({str(made)!r}, 'w'); print('now'); time.sleep(.3)"
    seen = hour.watched([sys.executable, "-c", code], tmp_path, {"made": made.exists})
    assert 0.3 <= seen.seconds["made"] <= seen.ended - 0.2
    ((when, line),) = seen.lines
    assert line == "now"
    assert when <= seen.ended
    with pytest.raises(SystemExit, match=r"exit code 3\nno disk"):
        hour.watched([sys.executable, "-c", "print('no disk'); raise SystemExit(3)"], tmp_path)
    begun = time.monotonic()
    with pytest.raises(SystemExit, match=r"not done in 0 s"):
        hour.watched([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, limit=0.4)
    assert time.monotonic() - begun < 20


def test_a_command_is_stopped_when_all_was_seen(tmp_path, script):
    code = "import time; open('first', 'w'); time.sleep(.5); open('other', 'w'); time.sleep(60)"
    files = {name: (tmp_path / name).exists for name in ("first", "other")}
    seen = script("first_hour").watched([sys.executable, "-c", code], tmp_path, files, stop=True)
    assert 0.4 < seen.seconds["other"] - seen.seconds["first"] < seen.ended < 30


def test_firsts_are_found_when_they_are_whole(tmp_path, script):
    hour = script("first_hour")
    assert hour.first_step(tmp_path) is None
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 20, "ep')
    assert hour.first_step(tmp_path) is None
    log.write_text('{"step": 20, "epoch": 0}\n{"step": 40}\n')
    assert hour.first_step(tmp_path) == 20
    assert hour.first_picture(tmp_path) is None
    for number, name in enumerate(("b.mp4", "a.png")):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (number, number))
    assert hour.first_picture(tmp_path) == tmp_path / "b.mp4"
    assert hour.bytes_in(tmp_path) == log.stat().st_size


def test_a_projection_leaves_the_start_out(script):
    """5 s to start and 2 ms a frame, of 100 frames and of 800."""
    hour = script("first_hour")
    assert hour.further(5 + 100 * 0.002, 100, 5 + 800 * 0.002, 800) == pytest.approx(0.002)
    assert hour.further(6.0, 100, 5.9, 800) == 0  # noise


@pytest.mark.slow
def test_first_hour_of_a_tree(tmp_path):
    """Without the installation, which takes minutes."""
    options = ("--only", "tree", "--quick", "--size", "64", "--frames", "18")
    printed, told = run("first_hour.py", tmp_path, *options)
    check_rows(printed, told)
    rows = {row["what"]: row["figure"] for row in told["rows"]}
    parts = [rows[f"cli {name}"] for name in ("inspect --quick", "convert", "split")]
    step, picture = (
        rows["cli train: step 20 is logged"],
        rows["cli train: first picture after an epoch"],
    )
    assert min(step, picture, *parts) > 0
    assert rows["raw tree to first logged steps"] == pytest.approx(sum(parts) + step)
    assert rows["raw tree to first picture of the model"] == pytest.approx(sum(parts) + picture)
    assert "18 frames of drawn storms, 3 typhoons" in printed
