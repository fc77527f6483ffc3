"""The loop: exact resume, honest refusals, what a run leaves behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import BaseModel
from typer.testing import CliRunner

import cli
import models
from pipeline import (
    atomic,
    checkpoint,
    demands,
    manifest,
    runlog,
    settings,
    shipped,
    split,
    steps,
    train,
    trainer,
)
from pipeline.errors import UsageError, UserError
from pipeline.runlog import read_log

SMALL = [
    "model.n_residual_blocks=1",
    "model.width=8",
    "model.warmup_steps=2",
    "training.patch_size=32",
    "training.batch_size=2",
    "training.epochs=2",
    "training.log_every_steps=2",
    "training.validation_crops=4",
    "training.sample_every_epochs=0",
]
# A third of the time, where nothing depends on who plays; and where both players must, with 10
# steps in an epoch
CONTENT = ["model.lambda_adv_s=0", "model.lambda_adv_t=0"]
SINGLE = ["training.sequence_length=1", "model.lambda_adv_t=0"]


def small(data: Path, *more: str) -> settings.RunSettings:
    made, _ = settings.load(None, [*SMALL, *more])
    return settings.located(made, data / "WP.zarr", data / "WP.split.json")


def made(of: settings.RunSettings) -> trainer.Trainer:
    return trainer.Trainer.of(of, Path("none"))


def scripted(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Have each validation find the next of these RMSEs."""
    found = iter(scores)
    monkeypatch.setattr(
        trainer.Trainer, "validate", lambda self: {"model": next(found), "bicubic": 1.0}
    )


def weights(run: Path, which: str = "last") -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.in_run(run, which)).weights


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def undisturbed(data: Path) -> Path:
    """A run of 2 epochs of 8 steps that nobody interrupted."""
    train.train(small(data), data / "undisturbed")
    return data / "undisturbed"


def test_a_run_leaves_settings_log_and_checkpoints(data: Path, undisturbed: Path) -> None:
    assert {p.name for p in undisturbed.iterdir()} == {
        "settings.yaml", "scaling.json", "about.json", "metrics.jsonl", "tensorboard",
        "checkpoints",
    }  # fmt: skip
    names = {p.name for p in (undisturbed / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    lines = read_log(undisturbed)
    validated = [line for line in lines if "validation/rmse_model" in line]
    assert [line["step"] for line in validated] == [8, 16]  # 2 tracks x 8 triplets / batch of 2
    assert all("validation/rmse_bicubic" in line for line in validated)
    assert lines[-2]["lr/generator"] < lines[0]["lr/generator"]  # cosine
    assert made(small(data)).rates(1).items() <= lines[0].items()  # of the second step
    assert list((undisturbed / "tensorboard").glob("events.*"))


@pytest.mark.parametrize(
    "stop_after",
    [pytest.param(n, marks=pytest.mark.slow) if n in (1, 11) else n for n in (1, 5, 8, 11)],
)
def test_stopped_and_resumed_equals_undisturbed(
    data: Path, undisturbed: Path, tmp_path: Path, stop_after: int, stop_in: Callable[..., None]
) -> None:
    """SIGTERM in warm-up, mid-epoch, at an epoch's last step, and in the second epoch."""
    stop_in(stop_after)
    run = tmp_path / "run"
    first = train.train(small(data), run)
    assert first.stopped
    assert first.position.step == stop_after
    second = train.train(small(data), run, resume=True)
    assert second.position.step == 16
    assert same(weights(run), weights(undisturbed))
    averaged = [checkpoint.load(checkpoint.in_run(r, "best")).averaged for r in (run, undisturbed)]
    assert averaged[0] is not None
    assert averaged[1] is not None
    assert same(*averaged)  # type: ignore[arg-type]
    scores = [
        [line for line in read_log(r) if "validation/rmse_model" in line]
        for r in (run, undisturbed)
    ]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    "more",
    [
        ["training.precision=bf16"],
        ["training.accumulate=2", "model.r1_gamma=1", "model.r1_every=2"],
        ["model.arch=eddy", "training.ema=0", "training.schedule=constant"],
        ["scaling.kind=standard", "training.sequence_length=2", "model.adversarial=hinge"],
    ],
    ids=lambda more: more[0],
)
def test_every_recipe_resumes_exactly(
    data: Path, tmp_path: Path, more: list[str], stop_in: Callable[..., None]
) -> None:
    more = [*more, "training.epochs=1"]
    train.train(small(data, *more), tmp_path / "whole")
    stop_in(3)
    assert train.train(small(data, *more), tmp_path / "run").stopped
    train.train(small(data, *more), tmp_path / "run", resume=True)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_training_says_where_it_runs_and_from_where_it_goes_on(
    data: Path, tmp_path: Path, stop_in: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    of = small(data, *CONTENT, "training.log_every_steps=1")
    stop_in(11)
    train.train(of, run)
    said = capfd.readouterr().err
    assert "Note: trains in fp32, on the CPU, 1 thread; torch finds no GPU here" in said
    assert "Stopping after this step, and saving then; Ctrl-C again stops at once" in said
    assert re.search(r"train: 8/16 steps.*  epoch 1: RMSE model [\d.]+ K, bicubic [\d.]+ K", said)
    assert "goes on" not in said
    train.train(of, run, resume=True)
    said = capfd.readouterr().err
    assert "Note: goes on after step 11 of 16, in epoch 2 of 2" in said
    assert re.search(r"train: 16/16 steps.*  loss \d", said)
    train.train(of, run, resume=True)
    assert "goes on after" not in capfd.readouterr().err  # nothing is left


def test_told_to_stop_while_it_validates_it_takes_no_further_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validate(self: trainer.Trainer) -> dict[str, float]:
        if self.position.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"model": 1.0, "bicubic": 1.0}

    monkeypatch.setattr(trainer.Trainer, "validate", validate)
    of, run = small(data, *CONTENT), tmp_path / "run"
    done = train.train(of, run)
    assert (done.position.step, done.stopped) == (8, "told to stop; --resume goes on")
    done = train.train(of, run, resume=True)
    assert (done.position.step, done.stopped) == (16, "")


def test_stopped_before_its_first_step_is_a_sentence(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(*_: object) -> None:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL  # which would end this test
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer.Trainer, "of", of)
    words = ["--store", data / "WP.zarr", "--split", data / "WP.split.json", "--run", tmp_path]
    said = CliRunner().invoke(cli.app, ["train", *map(str, words)])
    assert said.exit_code == 143
    assert "Stopped: nothing was saved yet; the same command starts over" in said.output


def test_several_devices_where_there_is_no_gpu(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = small(data, "training.devices=2")
    with pytest.raises(UsageError, match=r"devices is 2, and torch finds no GPU here; leave it"):
        train.train(of, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    demands.refuse_shared_cpu(small(data, "training.devices=2", "training.device=cpu").training)
    monkeypatch.setattr(checkpoint, "usable_device", lambda _: torch.device("cuda"))
    demands.refuse_shared_cpu(of.training)


@pytest.mark.parametrize(
    ("seconds", "epochs", "more", "told"),
    [
        (1.0, 1000, [], r"the CPU takes 2\.2 h, and more when all players take part\. Quicker: a "
         r"GPU, `cli train tempogan_cpu`, made for CPUs, or fewer --set training.epochs=N; --dry"),
        (1.0, 1000, CONTENT, r"the CPU takes 2\.2 h\. Quicker"),
        (1.0, 100, [], None),
    ],
)  # fmt: skip
def test_a_training_that_a_cpu_will_be_long_at_says_so(
    data: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, epochs: int, more: list[str],
    told: str | None,
) -> None:  # fmt: skip
    """After ten seconds of steps, the first of which does not count."""
    now = 0.0
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(train, "for_cpus", lambda _: [] if more else ["tempogan_cpu"])
    one = made(small(data, *more, f"training.epochs={epochs}"))
    one.position.players = 2 if more else 1  # so far
    watch = train.Watch(one)
    said = []
    for step in range(1, 13):
        now += 60.0 if step == 1 else seconds
        one.position.step = step
        said.append(watch.told())
    assert said[:10] == [None] * 10
    assert said[10] is not None
    assert re.search(told, said[10]) if told else said[10] == ""


@pytest.mark.parametrize(
    ("name", "smaller"),
    [
        ("tempogan", ["tempogan_cpu"]),
        ("tempogan_cpu", []),
        ("simvp_typhoon", ["simvp_typhoon_cpu"]),
        ("moving_mnist", ["moving_mnist_cpu"]),
        ("srgan_precipitation", []),
    ],
)
def test_what_is_made_for_cpus_is_found_by_model_and_scaling(name: str, smaller: list[str]) -> None:
    of, _ = settings.load(shipped.files()[name])
    assert train.for_cpus(of) == smaller
    less, _ = settings.load(shipped.files()[name], ["training.patch_size=32"])
    assert train.for_cpus(less) == []


def test_slurm_s_signal_before_the_end_saves_too(
    data: Path, tmp_path: Path, stop_in: Callable[..., None]
) -> None:
    stop_in(1, signal.SIGUSR1)
    assert train.train(small(data), tmp_path / "run").stopped
    assert checkpoint.load(tmp_path / "run/checkpoints/last.ckpt").training["position"]["step"] == 1


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    data: Path,
    undisturbed: Path,
    tmp_path: Path,
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    last = run / "checkpoints" / "last.ckpt"
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:-1000])
    elif damage == "gone":
        last.unlink()
    else:
        last.write_text("not a checkpoint")
    train.train(small(data), run, resume=True)
    assert "Going on from previous.ckpt, step 8" in capsys.readouterr().err
    assert same(weights(run), weights(undisturbed))  # bit for bit as if nothing had happened


@pytest.mark.slow
def test_killed_and_resumed_equals_undisturbed(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """kill -9 at a random moment after the first epoch's checkpoint: nothing can be tidied up."""
    command = [
        sys.executable, "-c", "import torch; torch.set_num_threads(1); import cli; cli.app()",
        "train", "--run", str(tmp_path), "--store", str(data / "WP.zarr"),
        "--split", str(data / "WP.split.json"), *(word for s in SMALL for word in ("--set", s)),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, "ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    (tmp_path / "checkpoints" / ".last.ckpt.1.tmp").write_bytes(b"half")  # what a kill may leave
    subprocess.run(
        [*command[:4], "--run", str(tmp_path), "--resume"], check=True, capture_output=True
    )
    assert same(weights(tmp_path), weights(undisturbed))


def test_accumulated_batches_give_the_gradient_of_the_large_batch(data: Path) -> None:
    """For a plain content loss and plain descent: two batches of 2 step like one of 4."""
    plain = small(data, "model.lambda_adv_s=0", "model.lambda_adv_t=0", "training.epochs=1")
    ends = []
    for joined in (False, True):
        one = made(plain)
        start = {k: v.clone() for k, v in one.model.state_dict().items()}
        descent = torch.optim.SGD(one.model.generator.parameters(), lr=1.0)
        (xa, ya), (xb, yb) = list(one.batches(0, 0))[:2]
        micro = [(torch.cat([xa, xb]), torch.cat([ya, yb]))] if joined else [(xa, ya), (xb, yb)]
        optimizers = {"generator": one.fabric.setup_optimizers(descent)}
        steps.update(one.fabric, one.model, optimizers, micro, 0, 0.0)
        ends.append({k: v - start[k] for k, v in one.model.state_dict().items()})
    assert ends[0]["generator.tail.3.weight"].abs().max() > 0
    for name, step in ends[0].items():
        torch.testing.assert_close(step, ends[1][name], msg=name)


def test_accumulated_batches_meet_the_same_opponent(data: Path) -> None:
    """No batch's generator is judged by discriminators from before their step."""
    one = made(small(data))
    seen, real = [], one.model._fool

    def watched(*args: object) -> object:
        seen.append(next(iter(one.model.discriminators.parameters())).detach().clone())
        return real(*args)

    one.model._fool = watched
    before = next(iter(one.model.discriminators.parameters())).detach().clone()
    steps.update(one.fabric, one.model, one.optimizers, list(one.batches(0, 0))[:3], 100, 1.0)
    assert len(seen) == 3
    assert all(torch.equal(seen[0], other) for other in seen)
    assert not torch.equal(seen[0], before)


def test_accumulation_steps_once_for_several_batches(data: Path, tmp_path: Path) -> None:
    more = [*CONTENT, "training.accumulate=3", "training.epochs=1"]
    done = train.train(small(data, *more), tmp_path / "run")
    assert done.position.step == 2  # 8 batches: two times three, the rest is left out


def test_what_goes_in_is_drawn_before_the_first_step(data: Path, tmp_path: Path) -> None:
    drawing = [
        *CONTENT,
        "training.sequence_length=1",
        "training.epochs=1",
        "training.sample_every_epochs=1",
    ]
    quiet = small(data, *drawing[:-1])
    train.train(small(data, *drawing), tmp_path / "drawn")
    train.train(quiet, tmp_path / "quiet")
    files = sorted((tmp_path / "drawn/samples").iterdir())
    assert [file.name for file in files] == ["epoch-0000.png", "epoch-0001.png"]
    assert not (tmp_path / "quiet/samples").exists()
    kept, same = weights(tmp_path / "drawn"), weights(tmp_path / "quiet")
    assert all(torch.equal(kept[name], same[name]) for name in kept)
    before = files[0].stat().st_mtime_ns
    longer = small(data, *drawing, "training.epochs=2")
    train.train(longer, tmp_path / "drawn", resume=True)
    assert files[0].stat().st_mtime_ns == before


def test_periodic_checkpoints_and_early_stop(data: Path, tmp_path: Path) -> None:
    more = ["training.checkpoint_every_epochs=1", "training.patience=1", "training.epochs=50"]
    more += [*CONTENT, "training.lr=1e-9", "training.ema=0"]
    done = train.train(small(data, *more), tmp_path / "run")
    assert "no better" in done.stopped
    assert done.position.epoch < 50
    assert (tmp_path / "run" / "checkpoints" / "epoch-0001.ckpt").exists()


def test_a_best_within_an_epoch_counts_for_early_stopping(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 5, 6, 4, 7, 8, 9, 8, 9)  # in the middle and at the end of each epoch
    more = ["training.patience=2", "training.epochs=50", "training.validate_every_steps=5"]
    done = train.train(small(data, *SINGLE, *more), tmp_path / "run")
    assert done.stopped == "no better for 2 epochs"
    at = done.position
    assert (at.epoch, at.best, at.best_epoch, at.stale_epochs) == (4, 4, 2, 2)


@pytest.mark.parametrize("cut", [False, True])
def test_the_best_is_chosen_anew_when_discriminators_join(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_in: Callable[..., None],
    cut: bool,
) -> None:
    """What content alone made has the lower RMSE; it is kept, but is not what was asked for."""
    more = [*SINGLE, "model.warmup_steps=10", "training.epochs=3", "training.patience=2"]
    scripted(monkeypatch, 5, 7, 6)
    run = tmp_path / "run"
    if cut:  # in the step in which they join
        stop_in(11)
        assert train.train(small(data, *more), run).stopped
    done = train.train(small(data, *more), run, resume=cut)
    assert (done.position.best, done.position.best_epoch) == (6, 3)
    epochs = {
        name: checkpoint.load(checkpoint.in_run(run, name)).training["position"]["epoch"]
        for name in ("pretrained", "best")
    }
    assert epochs == {"pretrained": 1, "best": 3}


def test_the_command_says_in_which_epoch_the_best_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 5, 6)
    made = {"training.epochs": 1, "training.validate_every_steps": 4}
    words = [
        word
        for key in (*SMALL, *CONTENT, *(f"{k}={v}" for k, v in made.items()))
        for word in ("--set", key)
    ]
    where = [
        "--store",
        data / "WP.zarr",
        "--split",
        data / "WP.split.json",
        "--run",
        tmp_path / "run",
    ]
    said = CliRunner().invoke(cli.app, ["train", *map(str, where), *words])
    assert said.exit_code == 0, said.output
    assert "8 steps, 1 epoch. Best validation RMSE 5.000 K in epoch 1" in said.output


def test_validation_within_an_epoch_loses_no_loss(data: Path, tmp_path: Path) -> None:
    more = [*CONTENT, "training.validate_every_steps=3", "training.log_every_steps=4"]
    added, real = [], runlog.Log.write

    def counted(self: runlog.Log, values: dict[str, float], *at: int) -> None:
        if "steps_per_second" in values:
            added.append(len(self.steps))
        real(self, values, *at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runlog.Log, "write", counted)
        train.train(small(data, *more), tmp_path / "run")
    assert sum(added) == 16
    lines = read_log(tmp_path / "run")
    validated = [line["step"] for line in lines if "validation/rmse_model" in line]
    assert validated == [3, 6, 8, 9, 12, 15, 16]  # an epoch's last step once
    losses = [line["step"] for line in lines if "loss/content" in line]
    assert losses == [3, 4, 6, 8, 9, 12, 15, 16]


def test_best_is_the_epoch_with_the_lowest_validation_rmse(undisturbed: Path) -> None:
    scores = {
        line["epoch"]: line["validation/rmse_model"]
        for line in read_log(undisturbed)
        if "validation/rmse_model" in line
    }
    best = checkpoint.load(checkpoint.in_run(undisturbed, "best"))
    assert best.training["position"]["epoch"] == min(scores, key=lambda e: scores[e])


def test_what_a_run_was_trained_with_is_told_as_far_as_it_is_known(
    undisturbed: Path, tmp_path: Path
) -> None:
    assert runlog.read_about(undisturbed)["torch"] == torch.__version__
    assert runlog.read_about(tmp_path) == {}
    for damaged in ('{"torch": ', "[1]", "\0"):
        (tmp_path / "about.json").write_text(damaged)
        assert runlog.read_about(tmp_path) == {}


def test_a_run_folder_is_not_overwritten(data: Path, undisturbed: Path) -> None:
    before = (undisturbed / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(UserError, match="already holds a training; add --resume"):
        train.train(small(data), undisturbed)
    assert (undisturbed / "checkpoints" / "last.ckpt").read_bytes() == before


def test_two_trainings_do_not_share_a_run(data: Path, tmp_path: Path) -> None:
    with (
        atomic.claimed(tmp_path / "run", "held"),
        pytest.raises(UserError, match="another training is writing here"),
    ):
        train.train(small(data), tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_resume_refuses_another_model_and_other_settings(data: Path, undisturbed: Path) -> None:
    other = small(data).model_copy(update={"model": {"name": "srgan"}})
    with pytest.raises(UserError, match="checkpoint of the model tempogan, not of srgan"):
        train.train(other, undisturbed, resume=True)
    with pytest.raises(UserError, match=r"cannot change training.beta2 \(was 0.999, now 0.5\)"):
        train.train(small(data, "training.beta2=0.5"), undisturbed, resume=True)


def test_what_a_training_that_went_wrong_is_told_to_change_may_be_changed(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stop_in: Callable[..., None],
) -> None:
    single = [*SINGLE, "training.epochs=1"]
    stop_in(3)
    train.train(small(data, *single), tmp_path / "run")
    more = ["training.lr=1e-4", "training.clip=0.5", "training.lr_of.discriminators=1e-5"]
    capsys.readouterr()
    assert not train.train(small(data, *single, *more), tmp_path / "run", resume=True).stopped
    said = capsys.readouterr().err
    assert "training.clip 0.5, not 1.0; training.lr 0.0001, not 0.0005" in said
    assert "training.lr_of.discriminators 1e-05" in said
    lines = read_log(tmp_path / "run")
    assert lines[0]["lr/generator"] > 1e-4 > lines[-2]["lr/generator"]
    assert lines[-2]["lr/discriminators"] < 1e-5


def test_resume_without_a_checkpoint(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint here"):
        train.train(small(data), tmp_path / "nothing", resume=True)


def test_resume_refuses_other_eval_tracks(data: Path, tmp_path: Path) -> None:
    """The best checkpoint was chosen on the old ones."""
    split.split(data / "WP.zarr", tmp_path / "s.json", eval_ids=["202103"], test_ids=["202102"])
    made = small(data, *CONTENT, "training.epochs=1")
    first = settings.located(made, None, tmp_path / "s.json")
    train.train(first, tmp_path / "run")
    split.split(data / "WP.zarr", tmp_path / "s.json", eval_ids=["202102"], test_ids=["202103"])
    with pytest.raises(UserError, match="trained on another store or split"):
        train.train(first, tmp_path / "run", resume=True)


def test_checkpoints_between_epochs(data: Path, tmp_path: Path) -> None:
    made = small(data, *CONTENT, "training.checkpoint_every_steps=3", "training.lr=1e-9")
    saved = []

    def noted(path: Path, state: checkpoint.Checkpoint) -> None:
        saved.append((path.stem, state.training["position"]["step"]))

    real, checkpoint.save = checkpoint.save, noted
    try:
        train.train(made, tmp_path / "run")
    finally:
        checkpoint.save = real
    assert [step for name, step in saved if name == "last"] == [3, 6, 8, 9, 12, 15, 16]


def test_a_longer_training_may_go_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = small(data, *CONTENT)
    train.train(small(data, *CONTENT, "training.epochs=1"), tmp_path / "run")
    capsys.readouterr()
    done = train.train(longer, tmp_path / "run", resume=True)
    assert done.position.epoch == 2
    told = " ".join(capsys.readouterr().err.split())
    assert (  # half of a cosine from 100 % to 1 %, and the last of 8 steps of one half as long
        "with training.epochs 2, not 1, the schedule cosine goes on at 50.5 % of training.lr, "
        "where it would have been at 4.77 %" in told
    )
    train.train(longer, tmp_path / "run", resume=True)
    assert "goes on at" not in capsys.readouterr().err


def test_refuses_the_split_of_another_store(data: Path, tmp_path: Path) -> None:
    text = json.loads((data / "WP.split.json").read_text())
    (tmp_path / "s.json").write_text(json.dumps({**text, "manifest_hash": "0" * 64}))
    wrong = settings.located(small(data), None, tmp_path / "s.json")
    with pytest.raises(UserError, match=r"divides the store 'WP\.zarr' of conversion 0{12},"):
        train.train(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.patch_size=64", "patch_size 64 is larger than the 48x48 frames"),
        ("training.patch_size=30", "30x30 pixels cannot be coarsened 4 times"),
        (
            "training.sequence_length=11",
            "no window of 11 usable frames at equal steps, the longest run is 10; make "
            "training.sequence_length smaller",
        ),
        ("training.lr_of={critic: 1e-4}", "tempogan has no critic; it has generator"),
        ("training.device=tpu", "expected auto, cpu, cuda or cuda:1"),
        ("training.precision=fp16|training.device=cpu", "fp16 needs a GPU"),
        ("model.arch=eddy|scaling.kind=standard", "needs y within -1..1"),
        ("model.arch=eddy|training.patch_size=16", "the spatial discriminator needs 32 by 32"),
        ("task.coarsening=bicubic", "consistent: true needs x to be area means"),
        ("model.arch=eddy|task.factor=2", "arch 'eddy' is for scale 4"),
    ],
)
def test_settings_that_do_not_fit_the_data(
    data: Path, tmp_path: Path, override: str, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        train.train(small(data, *override.split("|")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("every", [2, 1000])
@pytest.mark.parametrize("validate_every", [0, 3])
def test_a_loss_that_is_no_number_stops_before_anything_is_saved(
    data: Path, tmp_path: Path, every: int, validate_every: int
) -> None:
    broken = [
        "training.lr=1e30",
        "training.clip=0",
        "training.ema=0",
        f"training.log_every_steps={every}",
        f"training.validate_every_steps={validate_every}",
    ]
    with pytest.raises(UserError, match=r"(no longer finite|has exploded to .*) at step"):
        train.train(small(data, *broken), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_model_that_is_no_number_anymore_is_a_sentence(data: Path, tmp_path: Path) -> None:
    """Where the last step spoilt it, whose loss was still one."""
    one = made(small(data, "training.ema=0"))
    with torch.no_grad():
        next(one.model.generator.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="what the model says is no longer finite at step 0"):
        one.validate()


def test_validation_is_of_the_model_as_it_is_used(data: Path) -> None:
    one = made(small(data, "training.ema=0"))
    learning: list[bool] = []
    one.model.register_forward_hook(lambda net, *_: learning.append(net.training))
    one.validate()
    assert learning == [False, False]  # 4 windows, 2 at a time
    assert one.model.training


def test_a_gpu_with_too_little_memory_is_a_sentence(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(trainer, "update", full)
    with pytest.raises(UserError, match=r"too little memory .* make training.batch_size smaller"):
        train.train(small(data), tmp_path / "run")


CONFIGS = [file for name, file in shipped.files().items() if name != "upstream"]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_recipe_is_understood_whole(file: Path) -> None:
    found, notes = settings.load(file)
    assert found.model_name in models.names()
    assert not notes or file.suffix == ".json"  # the specification's own has keys of another loop


def test_the_specification_config_means_what_it_says() -> None:
    file = Path(__file__).parent.parent / "configs" / "tempogan_eddy.json"
    made, notes = settings.load(file)
    assert not notes
    assert made.task.factor == 4
    assert made.model_settings["n_residual_blocks"] == 8
    assert made.training.lr_of == {"generator": 1e-4, "discriminators": 1e-4}
    assert made.model_settings["lambda_adv_t"] == 1e-3
    assert made.model_settings["arch"] == "eddy"


def test_the_specification_key_without_effect_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model": {"in_channels": 1, "upsample_factor": 4},'
        ' "training": {"num_workers": 4, "lr_g": 0.0003}, "device": "cpu"}'
    )
    made, notes = settings.load(tmp_path / "config.json")
    assert made.training.device == "cpu"
    assert made.training.lr_of == {"generator": 3e-4}
    assert [note.split(" ")[0] for note in notes] == ["model.in_channels", "training.num_workers"]


def test_a_bad_value_is_blamed_on_whoever_set_it(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("training: {epochs: 3}\nmodel: {width: wide}")
    with pytest.raises(UsageError, match=r"^--set training.lr=fast: training.lr: 'fast'"):
        settings.load(None, ["training.epochs=3", "training.lr=fast"])
    with pytest.raises(UsageError, match=r"c.yaml: model.width: 'wide'"):
        settings.load(tmp_path / "c.yaml", ["training.lr=fast"])
    with pytest.raises(UsageError, match=r"^--set training=4: training is 4; expected settings"):
        settings.load(None, ["training=4"])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "training.batchsize=4",
            "unknown setting training.batchsize; did you mean training.batch_size?",
        ),
        ("model.widht=4", "unknown setting model.widht; did you mean model.width?"),
        ("training.batch_size=0", "training.batch_size: 0: input should be greater than 0"),
        ("model.name=unet", "no model 'unet'; the models are"),
        ("nonsense", "expected KEY=VALUE"),
        ("traning.lr=1", "unknown setting traning; did you mean training?"),
    ],
)
def test_unknown_and_bad_settings_are_named(override: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        settings.load(None, [override])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_that_do_not_go_together_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: {name: simvp}\ntask: {past: 3, outside: mean}")
    with pytest.raises(UsageError) as error:
        settings.load(tmp_path / "c.yaml")
    told = "task: outside mean needs a region; give one, or use seen"
    assert str(error.value) == f"{tmp_path / 'c.yaml'}: {told}"
    with pytest.raises(UsageError) as error:
        settings.load(None, ["model.name=simvp", "task.outside=mean"])
    assert str(error.value) == f"--set task.outside=mean: {told}"


def test_a_setting_that_is_missing_is_named() -> None:
    class Needed(BaseModel):
        box: int
        side: int

    with pytest.raises(UsageError, match=r"^a.yaml: part.box: field required$"):
        settings.section(Needed, {"side": 1}, "part", {"part.side": "a.yaml"})


def test_a_setting_that_another_overrules_is_noted(tmp_path: Path) -> None:
    """But not one that a run had anyway."""
    one, notes = settings.load(None, ["training.schedule=onecycle", "training.beta1=0.5"])
    assert [note.split(":")[0] for note in notes] == ["training.beta1 has no effect"]
    assert not settings.load(None, ["training.schedule=cosine", "training.beta1=0.5"])[1]
    settings.write(tmp_path / "settings.yaml", one)
    assert not settings.load(None, ["training.epochs=3"], settings.of_run(tmp_path))[1]


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_reading_ahead_is_switched_in_yaml(tmp_path: Path, word: str) -> None:
    """To which on and off are truth values."""
    (tmp_path / "c.yaml").write_text(f"data: {{read_ahead: {word}}}")
    assert settings.load(tmp_path / "c.yaml")[0].data.read_ahead == word
    made, _ = settings.load(None, [f"data.read_ahead={word}"])
    assert made.data.read_ahead == word
    settings.write(tmp_path / "settings.yaml", made)
    assert settings.load(None, (), settings.of_run(tmp_path))[0] == made


def test_where_data_lies_changes_nothing_else_about_it(tmp_path: Path) -> None:
    made, _ = settings.load(None, ["data.threads=5", "data.read_ahead=off", "data.store=a.zarr"])
    data = settings.located(made, tmp_path / "b.zarr").data
    assert (data.threads, data.read_ahead) == (5, "off")
    assert data.store == tmp_path / "b.zarr"
    assert data.split == Path("data_manifest/b.split.json").resolve()
    assert settings.located(made).data.store == Path("a.zarr").resolve()


@pytest.mark.parametrize(
    ("channel", "wind"),
    [
        ({"name": "wind", "units": "m s-1", "standard_name": "eastward_wind"}, True),
        ({"name": "x", "units": "m s-1", "standard_name": "x_wind"}, True),
        ({"name": "u", "units": "m s**-1"}, True),
        ({"name": "V10", "units": "m/s"}, True),
        ({"name": "10u", "units": "m s-1"}, True),
        ({"name": "v_500", "units": "m s-1"}, True),
        ({"name": "uwnd", "units": ""}, True),
        ({"name": "u", "units": "K"}, False),
        ({"name": "w", "units": "m s-1", "standard_name": "upward_air_velocity"}, False),
        ({"name": "si10", "units": "m s-1", "standard_name": "wind_speed"}, False),
        ({"name": "tp", "units": "mm"}, False),
    ],
)
def test_what_a_wind_is(channel: dict[str, str], wind: bool) -> None:
    assert demands.is_wind(channel) is wind


def test_json_may_hold_tabs(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{\n\t"training": {\n\t\t"epochs": 3\n\t}\n}')
    assert settings.load(tmp_path / "c.json")[0].training.epochs == 3
    (tmp_path / "d.json").write_text('{"training": {"epochs": 3}, // why\n}')
    with pytest.raises(UsageError, match="not readable as YAML or JSON"):
        settings.load(tmp_path / "d.json")


def test_yaml_tags_run_nothing(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("training: !!python/object/apply:os.system ['true']")
    with pytest.raises(UsageError, match="not readable as YAML"):
        settings.load(tmp_path / "evil.yaml")


def test_a_pickle_in_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"format": checkpoint.FORMAT, "weights": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        checkpoint.load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


def test_a_cut_off_checkpoint_is_a_sentence(undisturbed: Path, tmp_path: Path) -> None:
    whole = (undisturbed / "checkpoints" / "last.ckpt").read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut.ckpt").write_bytes(whole[:size])
        with pytest.raises(UserError, match="not a readable checkpoint"):
            checkpoint.load(tmp_path / "cut.ckpt")


NARROW = {  # where the published widths would take minutes; everybody plays from the second step on
    "tempogan": ["n_residual_blocks=1", "width=8", "warmup_steps=1"],
    "srgan": ["n_residual_blocks=1", "width=8", "discriminator_width=4", "pretrain_steps=1"],
    "simvp": ["hid_s=8", "hid_t=16", "n_s=2", "n_t=2"],
    "pastnet": ["width=16", "codes=32", "code_width=8", "hid_t=16", "n_t=2", "embed=16", "patch=8"],
    "st_rainnet": ["hidden=[4,4]"],
}


@pytest.mark.parametrize("name", models.names())
def test_every_model_resumed_equals_undisturbed(
    data: Path, tmp_path: Path, name: str, stop_in: Callable[..., None]
) -> None:
    """Stopped in the middle of an epoch, with accumulation: weights, averages and codebooks too."""
    own = [f"model.{setting}" for setting in NARROW.get(name, ())]
    if models.find(name).TASK == "forecast":
        own += ["task.past=3", "task.future=2"]
    asked = [*own, *(s for s in SMALL if "training" in s), "training.epochs=1"]
    asked += [f"model.name={name}", "training.accumulate=2", "training.schedule=onecycle"]
    made = settings.located(settings.load(None, asked)[0], data / "WP.zarr", data / "WP.split.json")
    assert train.train(made, tmp_path / "whole").position.epoch == 1
    stop_in(2)
    assert train.train(made, tmp_path / "run").position.step == 2
    train.train(made, tmp_path / "run", resume=True)
    one, other = (checkpoint.load(tmp_path / r / "checkpoints/last.ckpt") for r in ("run", "whole"))
    assert one.training["position"] == other.training["position"]
    assert same(one.weights, other.weights)
    assert one.averaged is not None
    assert other.averaged is not None
    assert same(one.averaged, other.averaged)


def test_the_manifest_default_is_used_when_no_split_is_named(data: Path) -> None:
    assert manifest.split_file(Path("m"), data / "WP.zarr") == Path("m/WP.split.json")
