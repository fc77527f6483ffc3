"""A long training takes no more memory, outlives any end, and runs nothing that it finds."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

import cli
import models
from pipeline import atomic, checkpoint, settings, train, trainer
from pipeline.runlog import read_log

ROOT = Path(__file__).parents[1]
SMALL = [
    "training.batch_size=4",
    "training.patch_size=32",
    "training.validation_crops=4",
    "training.sample_every_epochs=0",
    "training.device=cpu",
]
NARROW = {
    "tempogan": ["n_residual_blocks=1", "width=8", "warmup_steps=2", "temporal_pool=1"],
    "srgan": [
        "n_residual_blocks=1", "width=8", "fine_width=4", "discriminator_width=8",
        "pretrain_steps=2",
    ],
    "simvp": ["hid_s=8", "hid_t=32", "n_s=2", "n_t=2"],
    "pastnet": ["width=16", "codes=32", "code_width=8", "hid_t=32", "n_t=2", "embed=16", "patch=8"],
    "st_rainnet": ["hidden=[16,16]"],
}  # fmt: skip

every_model = pytest.mark.parametrize("name", models.names())


def of_model(name: str, *more: str) -> list[str]:
    own = [f"model.{setting}" for setting in NARROW.get(name, ())]
    if models.find(name).TASK == "forecast":
        own += ["task.past=3", "task.future=2"]
    return [f"model.name={name}", *SMALL, *own, *more]


def small(data: Path, name: str, *more: str) -> settings.RunSettings:
    made, _ = settings.load(None, of_model(name, *more))
    return settings.located(made, data / "WP.zarr", data / "WP.split.json")


# Each line it reads is the arguments of one work, which a process of its own does: what is measured
# or killed is that, with nothing of other tests in it, and torch is imported once.
SERVER = """
import gc, json, os, sys
from pathlib import Path
import torch
from pipeline import settings, train, trainer

def asked(words, home):
    made, _ = settings.load(None, words)
    return settings.located(made, Path(home, "WP.zarr"), Path(home, "WP.split.json"))

def counted(then):
    real, seen = trainer.update, []

    def update(*args):
        made = real(*args)
        seen.append(1)
        then(len(seen), args)
        return made

    trainer.update = update

def train_told(words, home, run, resume):
    '''Says when a step is done.'''
    counted(lambda step, args: print("step", flush=True))
    train.train(asked(words, home), Path(run), resume=resume)

def measure(words, home, run, at):
    '''At these steps: resident bytes, live tensors and their bytes; and a model's own bytes.'''
    found, resident = [], os.sysconf("SC_PAGESIZE")

    def look(step, args):
        if step not in at:
            return
        gc.collect()
        live = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held = sum(t.untyped_storage().nbytes() for t in live)
        own = sum(p.nbytes for p in args[1].parameters())
        found.append((pages * resident, len(live), held, own))
        if len(found) == len(at):
            print(json.dumps(found), flush=True)
            os._exit(0)

    counted(look)
    train.train(asked(words, home), Path(run))

for line in sys.stdin:
    what, *given = json.loads(line)
    pid = os.fork()
    if not pid:
        torch.set_num_threads(1)
        os.dup2(os.open(given[2] + ".err", os.O_WRONLY | os.O_CREAT), 2)
        globals()[what](*given)
        os._exit(0)
    print(pid, flush=True)
    print("end", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Server:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = 0  # of who does the present work

    def lines(self, *work: object) -> Iterator[str]:
        """What one work says, to "end" and its exit code."""
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(work), file=self.process.stdin, flush=True)
        self.pid = int(self.process.stdout.readline())
        for line in self.process.stdout:
            yield line.strip()
            if line.startswith("end"):
                return


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.process.communicate()


# ---------------------------------------------------------------------------------------- memory

LOOKS = (51, 126, 201)  # steps, each the first after the log was written


@pytest.mark.slow
@every_model
def test_two_hundred_steps_take_no_more_memory_than_fifty(
    data: Path, tmp_path: Path, server: Server, name: str
) -> None:
    """With validation and checkpoints in it. The bounds are a quarter of a model's weights a step.

    Resident memory shows what torch holds outside of Python; it comes to rest after some epochs.
    """
    more = ["training.epochs=100", "training.crops_per_window=6"]
    more += ["training.checkpoint_every_steps=20", "training.log_every_steps=5"]
    more += ["training.patch_size=16"]
    words = of_model(name, *more)
    told, end = server.lines("measure", words, str(data), str(tmp_path / "run"), LOOKS)
    assert end == "end 0"
    looks = [
        dict(zip(("resident", "tensors", "held", "own"), look, strict=True))
        for look in json.loads(told)
    ]
    first, middle, last = looks
    own = last["own"]
    assert own > 200_000  # else no bound would mean anything
    for before, steps in ((first, 150), (middle, 75)):
        assert last["resident"] - before["resident"] < steps * own / 4
        assert abs(last["held"] - before["held"]) < own
        assert abs(last["tensors"] - before["tensors"]) < 10
    assert len(read_log(tmp_path / "run")) > 40  # 201 steps were logged, and some epochs validated


# ------------------------------------------------------------------------------------ many deaths

ENDLESS = [
    "training.checkpoint_every_steps=4",
    "training.log_every_steps=1",
    "training.crops_per_window=2",
]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / "checkpoints" / "last.ckpt").weights


def assert_as_undisturbed(run: Path, whole: Path) -> None:
    """Weights, averages, optimizers, position, log; and nothing is left lying about."""
    one, other = (checkpoint.load(r / "checkpoints" / "last.ckpt") for r in (run, whole))
    assert one.averaged
    assert other.averaged
    assert_equal(one.weights, other.weights)
    assert_equal(one.averaged, other.averaged)
    assert_equal(one.training, other.training)
    names = [sorted(p.name for p in (r / "checkpoints").iterdir()) for r in (run, whole)]
    assert names[0] == names[1]
    logs = [
        [{k: v for k, v in line.items() if k != "steps_per_second"} for line in read_log(r)]
        for r in (run, whole)
    ]
    assert logs[0] == logs[1]


def assert_equal(one: Any, other: Any) -> None:
    """Bit for bit, however deep."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, list):
        for ours, its in zip(one, other, strict=True):
            assert_equal(ours, its)
    else:
        assert one == other


@pytest.mark.slow
def test_killed_ten_times_it_ends_with_the_same_weights(
    data: Path, tmp_path: Path, server: Server
) -> None:
    """kill -9 at any moment: in steps, in validation, while a checkpoint is written."""
    more = [*ENDLESS, "training.epochs=14", "training.patch_size=16"]  # of 8 steps each
    words = of_model("tempogan", *more)
    train.train(small(data, "tempogan", *more), tmp_path / "whole")
    run, deaths = tmp_path / "run", 0
    draw = random.Random(0)
    while True:
        resume = (run / "checkpoints" / "last.ckpt").exists()
        last = draw.randint(1, 12) if deaths < 10 else None
        end = ""
        steps = 0
        for line in server.lines("train_told", words, str(data), str(run), resume):
            steps += line == "step"
            if steps == last and line == "step":
                time.sleep(draw.random() * 0.05)
                os.kill(server.pid, signal.SIGKILL)
            end = line
        if last is None:
            break
        assert end == f"end {-signal.SIGKILL}", Path(f"{run}.err").read_text()
        deaths += 1
    assert end == "end 0", Path(f"{run}.err").read_text()
    assert deaths == 10
    assert_as_undisturbed(run, tmp_path / "whole")


class Died(BaseException):
    """Nobody catches it."""


class Deaths:
    """Lets a training die at one of its places, the n-th time it comes there."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.place, self.left = "", 0
        self.happened: list[str] = []
        update, validate, sync = trainer.update, trainer.Trainer.validate, atomic.sync

        def updated(*args: Any) -> Any:
            self.at("before an update")
            made = update(*args)
            self.at("after an update")
            return made

        def validated(of: Any) -> Any:
            self.at("before a validation")
            found = validate(of)
            self.at("after a validation")
            return found

        def synced(path: Path) -> None:
            of_checkpoint = "checkpoints" in str(path)
            if of_checkpoint and path.suffix == ".tmp":
                self.at("before a rename")
            sync(path)
            if of_checkpoint and path.is_dir():
                self.at("after a rename")

        patch.setattr(trainer, "update", updated)
        patch.setattr(trainer.Trainer, "validate", validated)
        patch.setattr(atomic, "sync", synced)

    def at(self, place: str) -> None:
        if place == self.place:
            self.left -= 1
            if not self.left:
                self.happened.append(place)
                self.place = ""
                raise Died(place)


PLACES = {  # and at which of the times that it comes there, at the latest
    "before an update": 4,
    "before a rename": 3,
    "after a validation": 1,
    "after an update": 4,
    "after a rename": 3,
    "before a validation": 1,
}


@pytest.mark.slow
@every_model
def test_every_model_survives_ten_ends_anywhere(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked = small(data, name, *ENDLESS, "training.epochs=10", "training.patch_size=16")
    train.train(asked, tmp_path / "whole")
    run = tmp_path / "run"
    deaths, draw = Deaths(monkeypatch), random.Random(name)
    expected = [place for place, _ in zip(cycle(PLACES), range(10), strict=False)]
    for place in expected:
        deaths.place, deaths.left = place, draw.randint(1, PLACES[place])
        with pytest.raises(Died):
            train.train(asked, run, resume=(run / "checkpoints" / "last.ckpt").exists())
    assert deaths.happened == expected
    train.train(asked, run, resume=True)
    assert_as_undisturbed(run, tmp_path / "whole")


# ----------------------------------------------------------------------------- a hostile run folder


@pytest.fixture(scope="module")
def short(data: Path) -> Path:
    """A run of two epochs, with last.ckpt and previous.ckpt."""
    made = small(data, "st_rainnet", "training.epochs=2", "training.patch_size=16")
    train.train(made, data / "short")
    return data / "short"


class Touch:
    """A pickle that makes a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def poisoned(file: Path, ran: Path, how: str) -> None:
    """A checkpoint sound in all else, with a payload; it does run where anyone lets it."""
    plain = torch.load(file, weights_only=True)
    if how == "among random numbers":
        plain["training"]["random"][0]["cuda"] = Touch(ran)
    else:
        plain["weights"]["network.last.bias"] = Touch(ran)
    if how == "old format":
        torch.save(plain, file, _use_new_zipfile_serialization=False)
    elif how == "bare pickle":
        file.write_bytes(pickle.dumps(plain, protocol=2))
    else:
        torch.save(plain, file)
    if how == "bare pickle":
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert ran.exists()
    ran.unlink()


FORMS = ["among random numbers", "among weights", "old format", "bare pickle"]


def resumed(run: Path, *more: str) -> Any:
    return CliRunner().invoke(cli.app, ["train", "--run", str(run), "--resume", *more])


@pytest.mark.parametrize("how", FORMS)
def test_a_payload_in_both_checkpoints_runs_nothing(short: Path, tmp_path: Path, how: str) -> None:
    run, ran = Path(shutil.copytree(short, tmp_path / "run")), tmp_path / "ran"
    for name in ("last", "previous"):
        poisoned(run / "checkpoints" / f"{name}.ckpt", ran, how)
    said = resumed(run)
    assert not ran.exists()
    assert said.exit_code == 1, said.output
    assert said.output.count("Error:") == 1
    assert "not a readable checkpoint" in said.output
    assert "weights_only" not in said.output  # torch's own advice is to switch it off


@pytest.mark.parametrize("how", FORMS)
def test_a_payload_in_the_last_checkpoint_is_gone_past(
    short: Path, tmp_path: Path, how: str
) -> None:
    run, ran = Path(shutil.copytree(short, tmp_path / "run")), tmp_path / "ran"
    poisoned(run / "checkpoints" / "last.ckpt", ran, how)
    said = resumed(run)
    assert not ran.exists()
    assert said.exit_code == 0, said.output
    assert "Going on from previous.ckpt" in " ".join(said.output.split())
    one, other = weights(run), weights(short)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


TAGS = [
    "!!python/object/apply:os.system ['touch {}']",
    "!!python/object/new:os.system ['touch {}']",
    "!!python/object/apply:subprocess.getoutput [touch {}]",
    "!!python/name:os.system",
]


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_in_a_run_s_settings_runs_nothing(short: Path, tmp_path: Path, tag: str) -> None:
    run, ran = Path(shutil.copytree(short, tmp_path / "run")), tmp_path / "ran"
    file = run / "settings.yaml"
    assert "epochs: 2\n" in file.read_text()
    file.write_text(file.read_text().replace("epochs: 2\n", f"epochs: {tag.format(ran)}\n"))
    said = resumed(run)
    assert not ran.exists()
    assert said.exit_code == 2, said.output
    assert f"Error: {file}: not readable as YAML" in " ".join(said.output.split())


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_in_a_setting_runs_nothing(tmp_path: Path, tag: str) -> None:
    ran = tmp_path / "ran"
    override = f"training.epochs={tag.format(ran)}"
    said = CliRunner().invoke(cli.app, ["train", "--run", str(tmp_path / "run"), "--set", override])
    assert not ran.exists()
    assert said.exit_code == 2, said.output
    assert "is not a YAML value" in said.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_in_json_is_a_word_or_no_json(tmp_path: Path, tag: str) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "quoted.json").write_text(json.dumps({"training": {"epochs": tag.format(ran)}}))
    (tmp_path / "bare.json").write_text(f'{{"training": {{"epochs": {tag.format(ran)}}}}}')
    for name, told in (("quoted", "epochs"), ("bare", "not readable as YAML or JSON")):
        said = CliRunner().invoke(cli.app, ["train", str(tmp_path / f"{name}.json")])
        assert not ran.exists()
        assert said.exit_code == 2, said.output
        assert told in said.output


def test_the_tags_would_run_where_anyone_let_them(tmp_path: Path) -> None:
    for number, tag in enumerate(TAGS[:3]):
        ran = tmp_path / str(number)
        with suppress(Exception):  # what it ran is no settings
            yaml.unsafe_load(tag.format(ran))
        assert ran.exists()
