"""What goes wrong in a training is found, named with its step and frames, and never saved."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from pipeline import checkpoint, engine, settings, steps, train, trainer
from pipeline.errors import UserError
from pipeline.health import LOOKS, Health, Place, Unhealthy
from pipeline.runlog import read_log
from pipeline.steps import Batch, Outcome
from pipeline.trainer import Trainer

SMALL = [  # 8 steps in each of 2 epochs
    "training.patch_size=32",
    "training.batch_size=2",
    "training.epochs=2",
    "training.log_every_steps=1000",
    "training.validation_crops=2",
    "training.sample_every_epochs=0",
]
TEMPOGAN = ["model.n_residual_blocks=1", "model.width=4", "model.warmup_steps=1"]
SRGAN = [
    "model.name=srgan", "model.n_residual_blocks=1", "model.width=4", "model.fine_width=4",
    "model.discriminator_width=4", "model.pretrain_steps=1",
]  # fmt: skip
ST_RAINNET = ["model.name=st_rainnet", "model.hidden=[4,4]", "task.past=2", "task.future=1"]


def small(data: Path, *more: str) -> settings.RunSettings:
    made, _ = settings.load(None, [*SMALL, *more])
    return settings.located(made, data / "WP.zarr", data / "WP.split.json")


def in_step(
    patch: pytest.MonkeyPatch, step: int, spoil: Callable[[Outcome], None]
) -> list[list[Batch]]:
    """Have that step (counted from 1, over a whole training) come to something else.

    Returns what every step is given, as it goes.
    """
    real: Callable[..., Outcome] = steps.update
    seen: list[list[Batch]] = []

    def update(fabric, model, optimizers, batches, at, clip):  # type: ignore[no-untyped-def]
        seen.append(batches)
        made = real(fabric, model, optimizers, batches, at, clip)
        if at + 1 == step:
            spoil(made)
        return made

    patch.setattr(trainer, "update", update)
    return seen


def weights(run: Path) -> dict[str, Tensor]:
    return checkpoint.load(run / "checkpoints" / "last.ckpt").weights


# ----------------------------------------------------------------------------------- by itself


def health(*, overflows: bool = False) -> Health:
    def shown(epoch: int, batches: range) -> list[str]:
        return [f"{epoch}:{batch}" for batch in batches]

    return Health(Path("run"), shown, overflows)


def place(step: int) -> Place:
    return Place(step, 7, range(2 * step, 2 * step + 2))


def look(it: Health, name: str, *values: float, first: int = 1) -> None:
    it.look([(place(first + i), {"loss/x": 1.0, name: value}) for i, value in enumerate(values)])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["loss/content", "player/generator", "grad_norm/generator"])
def test_the_first_step_that_is_no_number_is_named(name: str, bad: float) -> None:
    with pytest.raises(Unhealthy) as error:
        look(health(), name, 1, 2, bad, 3, math.nan)
    told = str(error.value)
    assert told.startswith(
        f"run: {name} is no longer finite at step 3 (of the windows 7:6, 7:7); lower training.lr"
    )
    assert "\n" not in told


def test_half_precision_may_overflow_in_gradients_alone() -> None:
    look(health(overflows=True), "grad_norm/generator", 1, math.inf, math.nan, 2)
    with pytest.raises(Unhealthy, match="loss/content is no longer finite at step 2"):
        look(health(overflows=True), "loss/content", 1, math.inf)


@pytest.mark.parametrize(
    ("before", "now", "explodes"),
    [
        ([0.5, 0.4], 999, False),  # of a small loss, 1 is what is usual
        ([0.5, 0.4], 1001, True),
        ([1e-6], 1, False),  # as an adversarial loss grows when discriminators begin to play
        ([30, 20, 10], 19_000, False),
        ([30, 20, 10], 21_000, True),
        ([-30, -20, -10], -21_000, True),  # hinge's may be below 0
    ],
)
def test_an_explosion_is_a_thousand_times_what_was_usual(
    before: list[float], now: float, explodes: bool
) -> None:
    it = health()
    look(it, "player/generator", *before)
    expected = pytest.raises(Unhealthy, match=r"has exploded to .* at step 5 ")
    with expected if explodes else nullcontext():
        look(it, "player/generator", before[0], now, *before, first=4)


def test_each_player_has_its_own_measure() -> None:
    it = health()
    it.look([(place(1), {"player/a": 1000.0, "player/b": 1.0})])
    it.look([(place(2), {"player/a": 5000.0, "player/b": 1.0})])
    with pytest.raises(Unhealthy, match="player/b has exploded"):
        it.look([(place(3), {"player/a": 5000.0, "player/b": 5000.0})])


def test_an_explosion_among_the_first_steps_is_none_of_what_is_usual() -> None:
    with pytest.raises(Unhealthy, match=r"player/generator has exploded to 1e\+06 at step 19"):
        look(health(), "player/generator", *[1.0] * 18, 1e6, 1e6)


def test_of_two_things_the_first_is_told() -> None:
    with pytest.raises(Unhealthy, match=r"exploded to 2e\+03 at step 2"):
        look(health(), "player/generator", 1, 2000, math.nan)
    steps = [
        (place(1), {"player/a": 1.0, "player/b": 1.0}),
        (place(2), {"player/a": 1.0, "player/b": 9999.0}),
        (place(3), {"player/a": 9999.0, "player/b": 1.0}),
    ]
    with pytest.raises(Unhealthy, match=r"player/b has exploded to 1e\+04 at step 2"):
        health().look(steps)


def watched(it: Health, *, sure: bool, looks: int, which: str = "_s") -> None:
    for _ in range(looks):
        logit = 9.0 if sure else 0.1
        it.watch({f"loss/d_real{which}": logit, f"loss/d_fake{which}": -logit}, 40)


@pytest.mark.parametrize(
    ("which", "told"), [("_t", "the discriminator t tells"), ("", "the discriminator tells")]
)
def test_a_pinned_discriminator_is_told_of_once(
    capsys: pytest.CaptureFixture[str], which: str, told: str
) -> None:
    it = health()
    watched(it, sure=True, looks=LOOKS - 1, which=which)
    assert not capsys.readouterr().err
    watched(it, sure=True, looks=1, which=which)
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(
        f"Note: step 40: {told} truth from what is made without fail (D(real) 1.000"
    )
    assert "model.rest_above" in said
    watched(it, sure=True, looks=20, which=which)
    assert not capsys.readouterr().err


def test_a_discriminator_that_recovers_or_is_half_right_is_not_told_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    it = health()
    for _ in range(4):
        watched(it, sure=True, looks=LOOKS - 1)
        watched(it, sure=False, looks=1)
    for _ in range(20):  # all is real to it, or nothing is
        it.watch({"loss/d_real_s": 9.0, "loss/d_fake_s": 9.0}, 40)
        it.watch({"loss/d_real_s": -9.0, "loss/d_fake_s": -9.0}, 40)
        it.watch({"loss/content": 9.0}, 40)
    assert not capsys.readouterr().err


def test_one_discriminator_s_looks_are_not_another_s(capsys: pytest.CaptureFixture[str]) -> None:
    it = health()
    for _ in range(LOOKS):
        it.watch(
            {"loss/d_real_s": 9, "loss/d_fake_s": -9, "loss/d_real_t": 1, "loss/d_fake_t": -1}, 40
        )
    said = capsys.readouterr().err
    assert "the discriminator s tells" in said
    assert "discriminator t" not in said


def test_logits_of_any_size_are_judged() -> None:
    health().watch({"loss/d_real": 1e4, "loss/d_fake": -1e4}, 40)
    health().watch({"loss/d_real": -1e4, "loss/d_fake": 1e4}, 40)


# ------------------------------------------------------------------------------- in a training


def hours_of(it: Trainer, epoch: int, batches: range) -> list[tuple[str, ...]]:
    """Track, first and last hour of the windows that the loader cuts in these batches."""
    found = []
    for row in it.loader.crops(epoch).window[batches.start * 2 : batches.stop * 2]:  # two a batch
        number, first = it.loader.windows[row]
        track = it.loader.tracks[number]
        ends = (datetime.fromtimestamp(int(track.times[at]), UTC) for at in (first, first + 2))
        found.append((track.id, *(f"{end:%Y-%m-%d %H:%M}" for end in ends)))
    return found


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("step", [3, 7])
def test_the_very_windows_of_the_bad_step_are_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, accumulate: int
) -> None:
    """In an epoch or the next one; the log is written long after."""
    asked = small(data, *TEMPOGAN, f"training.accumulate={accumulate}", "training.epochs=4")
    seen = in_step(monkeypatch, step, lambda made: made.parts["content"].fill_(math.nan))
    with pytest.raises(
        UserError, match=rf"loss/content is no longer finite at step {step} "
    ) as error:
        train.train(asked, tmp_path / "run")
    told = re.findall(r"(\d{6}) (\S+ \S+) to (\d+-\d+-\d+ \d+:\d+)", str(error.value))
    it = Trainer.of(asked, Path("none"), engine.make_fabric(asked.training))
    epoch, at = divmod((step - 1) * accumulate, 8)
    batches = range(at, at + accumulate)
    assert told == hours_of(it, epoch, batches)
    assert len(told) == 2 * accumulate
    again = islice(it.batches(epoch, at), accumulate)  # and these are what it was trained with
    for (x, y), (its_x, its_y) in zip(seen[step - 1], again, strict=True):
        assert torch.equal(x, its_x)
        assert torch.equal(y, its_y)


def test_a_gradient_that_is_no_number_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though every loss of that step is one: the step after it would blame a loss."""
    real = trainer.update

    def update(fabric, model, optimizers, batches, at, clip):  # type: ignore[no-untyped-def]
        bent = model.generator.tail[0].bias.register_hook(
            lambda slope: slope * math.inf if at + 1 == 4 else slope
        )
        try:
            return real(fabric, model, optimizers, batches, at, clip)
        finally:
            bent.remove()

    monkeypatch.setattr(trainer, "update", update)
    with pytest.raises(UserError, match="grad_norm/generator is no longer finite at step 4 "):
        train.train(small(data, *TEMPOGAN), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_overflows_of_half_precision_are_left_out_of_the_log(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's GradScaler steps over them, and its scale sinks; here only the watch is told so."""

    def overflow(made: Outcome) -> None:
        made.norms["forecaster"] = torch.tensor(math.inf)

    asked = small(data, *ST_RAINNET, "training.log_every_steps=4")
    in_step(monkeypatch, 3, overflow)
    with pytest.raises(UserError, match="grad_norm/forecaster is no longer finite at step 3 "):
        train.train(asked, tmp_path / "fp32")
    monkeypatch.setattr(
        trainer, "Health", lambda run, shown, overflows: Health(run, shown, overflows=True)
    )
    train.train(asked, tmp_path / "run")
    norms = [
        line["grad_norm/forecaster"]
        for line in read_log(tmp_path / "run")
        if "lr/forecaster" in line
    ]
    assert norms
    assert all(map(math.isfinite, norms))


def test_a_loss_that_explodes_stops_the_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(made: Outcome) -> None:
        made.losses["generator"] = made.losses["generator"] * 1e6

    in_step(monkeypatch, 6, explode)
    asked = small(data, *TEMPOGAN, "training.log_every_steps=4")
    with pytest.raises(UserError, match=r"player/generator has exploded to .* at step 6 "):
        train.train(asked, tmp_path / "run")


def test_an_adversarial_loss_that_begins_at_nothing_may_grow(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer.update

    def update(fabric, model, optimizers, batches, at, clip):  # type: ignore[no-untyped-def]
        made = real(fabric, model, optimizers, batches, at, clip)
        made.losses["generator"] = torch.tensor(1e-6 * 10 ** min(at, 6))
        return made

    monkeypatch.setattr(trainer, "update", update)
    asked = small(data, *TEMPOGAN, "training.log_every_steps=1", "training.epochs=1")
    assert train.train(asked, tmp_path / "run").position.step == 8


@pytest.mark.parametrize("every", [2, 1000])
def test_the_last_checkpoint_is_from_before_and_leads_on(
    data: Path, tmp_path: Path, every: int
) -> None:
    """It is finite, and resuming from it gives what would have been without the bad step."""
    asked = small(
        data, *SRGAN, "training.checkpoint_every_steps=3", f"training.log_every_steps={every}"
    )
    train.train(asked, tmp_path / "whole")

    def spoil(made: Outcome) -> None:
        """As a bad gradient does it: nothing can be taken back."""
        made.losses["generator"] = torch.tensor(math.nan)
        for p in spoilt.model.parameters():
            p.data.fill_(math.nan)

    with pytest.MonkeyPatch.context() as patch:
        kept = Trainer.of

        def of(*given: object) -> Trainer:
            nonlocal spoilt
            spoilt = kept(*given)  # type: ignore[arg-type]
            return spoilt

        spoilt: Trainer = None  # type: ignore[assignment]
        patch.setattr(Trainer, "of", of)
        in_step(patch, 8, spoil)
        with pytest.raises(UserError, match="player/generator is no longer finite at step 8 "):
            train.train(asked, tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert saved.training["position"]["step"] == 6
    assert saved.averaged
    for value in (*saved.weights.values(), *saved.averaged.values()):
        assert value.isfinite().all()
    train.train(asked, tmp_path / "run", resume=True)
    one, other = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert max(line["step"] for line in read_log(tmp_path / "run")) == 16


def pinned(monkeypatch: pytest.MonkeyPatch, logits: Callable[[int], float]) -> None:
    """Have the discriminator be as sure as this, by step."""
    real = trainer.update

    def update(fabric, model, optimizers, batches, at, clip):  # type: ignore[no-untyped-def]
        made = real(fabric, model, optimizers, batches, at, clip)
        made.parts["d_real"] = torch.tensor(logits(at))
        made.parts["d_fake"] = -made.parts["d_real"]
        return made

    monkeypatch.setattr(trainer, "update", update)


@pytest.mark.parametrize(("recovers", "told"), [(False, 1), (True, 0)])
def test_a_training_tells_of_a_pinned_discriminator_once(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recovers: bool,
    told: int,
) -> None:
    pinned(monkeypatch, lambda at: 0.0 if recovers and at % 5 == 4 else 20.0)
    train.train(small(data, *SRGAN, "training.log_every_steps=1"), tmp_path / "run")
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("tells truth from what is made without fail") == told
    if told:
        assert "Note: step 5: the discriminator tells truth" in said


@pytest.mark.parametrize(
    ("own", "names"),
    [
        (TEMPOGAN, "player/generator player/discriminators grad_norm/generator "
         "grad_norm/discriminators loss/d_real_s loss/d_fake_s loss/d_real_t loss/d_fake_t"),
        (SRGAN, "player/generator player/discriminator grad_norm/generator "
         "grad_norm/discriminator loss/d_real loss/d_fake"),
        (ST_RAINNET, "player/forecaster grad_norm/forecaster loss/content"),
    ],
    ids=["tempogan", "srgan", "st_rainnet"],
)  # fmt: skip
def test_norms_and_verdicts_are_logged(
    data: Path, tmp_path: Path, own: list[str], names: str
) -> None:
    asked = small(
        data, *own, "training.log_every_steps=3", "training.epochs=1", "training.clip=1e-4"
    )
    train.train(asked, tmp_path / "run")
    last = [line for line in read_log(tmp_path / "run") if "steps_per_second" in line][-1]
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for name in names.split():
        shown = board.Scalars(name)[-1]
        assert (shown.step, shown.value) == (last["step"], pytest.approx(last[name]))
        if name.startswith("grad_norm/"):
            assert last[name] > 1e-4  # from before it was clipped


# ------------------------------------------------------------------------------- who is ahead


def test_a_discriminator_that_is_ahead_rests_while_the_other_one_learns(data: Path) -> None:
    """Its weights do not move at all, whatever momentum they have."""
    more = [
        *TEMPOGAN,
        "model.warmup_steps=0",
        "model.rest_above=0.01",
        "training.schedule=constant",
    ]
    more += ["training.lr_of={generator: 1e-9, discriminators: 1e-3}"]
    asked = small(data, *more)
    it = Trainer.of(asked, Path("none"), engine.make_fabric(asked.training))
    judges = it.model.discriminators
    rested: list[tuple[bool, bool]] = []
    while len(rested) < 24:
        for batch in it.batches(len(rested) // 8, 0):
            before = {n: [p.detach().clone() for p in judges[n].parameters()] for n in judges}
            parts = it.step([batch]).parts
            still = {
                n: all(
                    torch.equal(a, b)
                    for a, b in zip(judges[n].parameters(), before[n], strict=True)
                )
                for n in judges
            }
            rested.append((still["spatial"], still["temporal"]))
            assert (parts["d_rests_s"], parts["d_rests_t"]) == rested[-1]
            for s in "st":
                ahead = parts[f"d_real_{s}"] - parts[f"d_fake_{s}"] > 0
                assert ahead or not parts[f"d_rests_{s}"]
    assert len(set(rested)) > 2  # now and then one rests while the other one learns
    assert {(False, False), (True, True)} <= set(rested)


def test_without_rest_above_nobody_rests(data: Path) -> None:
    asked = small(data, *TEMPOGAN, "model.warmup_steps=0")
    it = Trainer.of(asked, Path("none"), engine.make_fabric(asked.training))
    made = it.step(list(islice(it.batches(0, 0), 1)))
    assert not [name for name in made.parts if "rests" in name]
    assert made.norms["discriminators"] > 0
