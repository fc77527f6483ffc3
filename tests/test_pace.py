"""How long a training takes, as a dry run tells it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import engine, pace, rehearse, settings, train, trainer
from pipeline.budget import Case, Practice
from pipeline.pace import Stage, Stopwatch, growing, stage_of
from pipeline.settings import RunSettings
from pipeline.steps import LATE

SMALL = {
    "tempogan": ["model.n_residual_blocks=1", "model.width=8"],
    "srgan": ["model.n_residual_blocks=1", "model.width=8", "model.discriminator_width=8"],
    "st_rainnet": ["model.hidden=[4,4]", "task.past=3", "task.future=2"],
}
TRAINING = [
    "training.patch_size=32",
    "training.batch_size=4",
    "training.epochs=3",
    "training.validation_crops=4",
]  # 4 steps in an epoch, of triplets


def asked(data: Path, name: str, *more: str) -> RunSettings:
    made, _ = settings.load(None, [f"model.name={name}", *SMALL[name], *TRAINING, *more])
    return settings.located(made, data / "WP.zarr", data / "WP.split.json")


def staged(found: dict[int, list[pace.Timed]], batch: int, whole: int) -> Stage:
    return stage_of(found, batch, whole, players=["generator"], first=1, steps=10)


def test_a_whole_step_is_the_usual_one_with_its_wait() -> None:
    stage = staged({2: [(0.0, 9.0)], 4: [(0.1, 1.0), (0.1, 1.2), (0.1, 50.0)]}, 4, 4)
    assert stage.seconds == pytest.approx(1.3)
    assert stage.waiting == pytest.approx(0.1)
    assert stage.timed == 3
    assert stage.rough  # one took 50 times as long


def test_the_rest_of_a_step_is_extrapolated_from_two_sizes() -> None:
    """What threads lose by waiting for each other is in every step, however few its windows."""
    found = {2: [(0.0, 3.0), (0.0, 2.5)], 4: [(0.2, 3.0), (0.2, 3.0), (0.2, 3.1)]}
    stage = staged(found, 8, 8)
    assert stage.seconds == pytest.approx(0.2 + 3.0 + 4 * 0.25)  # 0.5 s more for 2 more windows
    assert not stage.rough
    assert staged(found, 16, 16).rough  # four times as many windows as were timed
    found[2] = [(0.0, 0.1), (0.0, 0.1)]  # as of a machine that got busy meanwhile
    assert staged(found, 8, 8).seconds == pytest.approx(0.2 + 6.0)  # as many times the windows
    found[2] = [(0.0, 7.0), (0.0, 7.0)]
    assert staged(found, 8, 8).seconds == pytest.approx(0.2 + 3.0)


def test_every_accumulated_batch_is_waited_for() -> None:
    stage = staged({4: [(0.1, 1.0)] * 3}, 4, 12)
    assert stage.waiting == pytest.approx(0.3)
    assert stage.seconds == pytest.approx(0.3 + 3.0)


@pytest.mark.parametrize(
    ("least", "most", "batch", "sizes"),
    [
        (2, 16, 16, [2, 4, 8, 16]),
        (2, 6, 6, [2, 4, 6]),
        (2, 12, 4, [2, 4, 8, 12]),
        (2, 6, 3, [2, 3, 6]),
        (2, 4, 1, [2, 4]),
        (1, 1, 1, [1]),
    ],
)
def test_steps_grow_by_whole_batches(least: int, most: int, batch: int, sizes: list[int]) -> None:
    assert list(growing(least, most, batch)) == sizes


class Fake(Stopwatch):
    """Its steps take as long as they are said to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, work: Callable[[int], float]) -> None:
        self.now, self.work, self.taken = 0.0, work, 0
        monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def step(self, number: int, windows: int) -> pace.Timed:
        self.taken += 1
        seconds = self.work(windows) * (10 if self.taken == 1 else 1)  # to warm up
        self.now += seconds
        return 0.0, seconds


@pytest.mark.parametrize(
    ("of_one", "timed", "truth"),
    [(0.01, 16, 0.16), (0.1, 8, 1.6), (0.3, 4, 4.8), (2.0, 4, 32.0)],
)
def test_steps_are_warmed_up_and_bounded_in_time(
    monkeypatch: pytest.MonkeyPatch, of_one: float, timed: int, truth: float
) -> None:
    """On a quick machine whole steps, on a slow one parts of them; of each a few."""
    watch = Fake(monkeypatch, lambda windows: of_one * windows)
    found = watch.steps(0, [2, 4, 8, 16])
    stage = staged(found, 16, 16)
    assert stage.windows == timed
    assert stage.timed >= (pace.LEAST if of_one < 2 else 2)
    assert stage.seconds == pytest.approx(truth)
    cold = 20 * of_one
    assert watch.now - cold <= max(2 * pace.SECONDS + 16 * of_one, 12 * of_one)


def test_a_busy_machine_is_not_taken_for_a_slower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other: 1 s of every step, whatever its size."""
    watch = Fake(monkeypatch, lambda windows: 1.0 + 0.05 * windows)
    assert staged(watch.steps(0, [2, 4, 6]), 6, 6).seconds == pytest.approx(1.3)


@pytest.mark.parametrize(
    ("name", "more", "joined"),
    [
        ("tempogan", ["model.warmup_steps=5"], 5),
        pytest.param("tempogan", ["model.warmup_steps=500"], 12, marks=pytest.mark.slow),  # never
        ("tempogan", ["model.lambda_adv_s=0", "model.lambda_adv_t=0"], 0),  # alone for good
        pytest.param("srgan", ["model.pretrain_steps=7"], 7, marks=pytest.mark.slow),
        ("st_rainnet", [], 0),
    ],
)
def test_when_all_players_take_part(data: Path, name: str, more: list[str], joined: int) -> None:
    of = asked(data, name, *more)
    one = trainer.Trainer.of(of, Path("none"), engine.make_fabric(of.training))
    assert Practice(Case.of(one, of), of.training.patch_size).joined(12) == joined


def test_a_dry_run_times_both_stages_and_adds_them_up(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "SECONDS", 0.05)
    took = {0: 0.5, pace.AFTER: 2.0, LATE: 9.0}

    def step(self: Stopwatch, number: int, windows: int) -> pace.Timed:
        return 0.1, took[number] * windows / 4

    monkeypatch.setattr(Stopwatch, "step", step)
    monkeypatch.setattr(Stopwatch, "validation", lambda *_: 7.0)
    done = rehearse.rehearse(asked(data, "tempogan", "model.warmup_steps=5"))
    assert done.pace
    first, second = done.pace.stages
    assert (first.players, first.first, first.steps) == (["generator"], 1, 5)
    assert (second.players, second.first, second.steps) == (["generator", "discriminators"], 6, 7)
    assert done.seconds == pytest.approx(5 * 0.6 + 7 * 2.1 + 3 * 7.0)
    told = dict(done.rows())
    assert "generator alone until step 5, all players from then on" in told["Steps"]
    assert "600 ms per step until step 5, 16.7% of it waiting for data" in told["Time"]
    assert "2.1 s per step from step 6 on, 4.8% of it waiting" in told["Time"]
    assert "39 s for all, 13 s per epoch, with validation (54% of it)" in told["Time"]


def test_validations_within_epochs_count(data: Path) -> None:
    of = asked(data, "tempogan", "training.validate_every_steps=2")
    unknown = dict.fromkeys(rehearse.Rehearsal.__dataclass_fields__)
    one = rehearse.Rehearsal(**{**unknown, "settings": of, "steps_per_epoch": 4})  # type: ignore
    assert one.validations == 3 * 2  # after step 2, and at the end; step 4 is that end


@pytest.mark.parametrize(("load", "busy"), [(0.9, False), (4.0, True)])
def test_a_busy_machine_is_said_to_be_busy(
    data: Path, monkeypatch: pytest.MonkeyPatch, load: float, busy: bool
) -> None:
    monkeypatch.setattr(pace.os, "getloadavg", lambda: (load * pace.cores(), 0.0, 0.0))
    monkeypatch.setattr(Stopwatch, "step", lambda *_: (0.0, 0.5))
    monkeypatch.setattr(pace, "SECONDS", 0.01)
    done = rehearse.rehearse(asked(data, "st_rainnet"))
    told = dict(done.rows())["Time"]
    assert ("other work keeps this machine busy" in told) == busy
    assert told.startswith("roughly ") == busy


@pytest.mark.slow
def test_a_short_training_takes_as_long_as_was_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of other work, so only about."""
    monkeypatch.setattr(pace, "SECONDS", 0.3)
    of = asked(data, "tempogan", "model.warmup_steps=12", "training.epochs=6",
               "training.sample_every_epochs=0")  # fmt: skip
    told = rehearse.rehearse(of).seconds
    begun = time.perf_counter()
    train.train(of, tmp_path / "run")
    took = time.perf_counter() - begun
    assert told
    assert took / 6 < told < 2 * took
