"""What a training would need: counted on shapes, held against real tensors; and what fits."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import cli
import models
from pipeline import (
    budget,
    convert,
    engine,
    loader,
    pace,
    rehearse,
    settings,
    split,
    steps,
    train,
    trainer,
)
from pipeline.budget import Budget, Case, Living, Practice
from pipeline.errors import UsageError, UserError
from pipeline.settings import RunSettings
from pipeline.sources.options import Options
from pipeline.sources.synthetic_world import World, write

SMALL = [
    "training.patch_size=32",
    "training.batch_size=4",
    "training.epochs=3",
    "training.validation_crops=4",
]
NARROW = {
    "tempogan": ["n_residual_blocks=1", "width=8"],
    "srgan": ["n_residual_blocks=1", "width=8", "discriminator_width=8", "discriminator_blocks=4"],
    "simvp": ["hid_s=8", "hid_t=16", "n_s=2", "n_t=2"],
    "pastnet": [
        "width=16",
        "codes=32",
        "code_width=8",
        "hid_t=16",
        "n_t=2",
        "embed=16",
        "res_layers=1",
    ],
    "st_rainnet": ["hidden=[4,4]"],
}


def small(name: str, *more: str) -> list[str]:
    own = [f"model.{setting}" for setting in NARROW.get(name, ())]
    if models.find(name).TASK == "forecast":
        own += ["task.past=3", "task.future=2"]
    return [f"model.name={name}", *own, *SMALL, *more]


def asked(data: Path, name: str = "tempogan", *more: str) -> RunSettings:
    made, _ = settings.load(None, small(name, *more))
    return settings.located(made, data / "WP.zarr", data / "WP.split.json")


def case(of: RunSettings) -> Case:
    alone = of.training.model_copy(update={"devices": 1})
    return Case.of(trainer.Trainer.of(of, Path("none"), engine.make_fabric(alone)), of)


@pytest.mark.parametrize(
    ("text", "bytes"),
    [
        ("12GB", 12 * 10**9),
        ("12 gib", 12 * 2**30),
        ("800MB", 8 * 10**8),
        ("24g", 24 * 10**9),
        ("0.5T", 5 * 10**11),
        ("11.5GiB", 11.5 * 2**30),
    ],
)
def test_sizes_of_cards(text: str, bytes: int) -> None:
    assert budget.bytes_of(text) == bytes


@pytest.mark.parametrize("text", ["12", "GB", "-1GB", "0GB", "12 GBit", "12,5GB", "1e3GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=f"--memory {re.escape(text)}: expected a size, as in 12"):
        budget.bytes_of(text)


def test_storages_are_counted_once_while_they_live() -> None:
    with Living(has_values=True) as living:
        one = torch.zeros(1000)  # 4000 bytes: 8 blocks of 512
        view, moved = one[10:], one.view(10, 100).T
        assert living.now == living.peak == 4096
        two = one + 1
        del one
        assert living.now == 2 * 4096  # the views keep it
        del view, moved
        assert living.now == 4096
        two.add_(1)
        assert (living.now, living.peak) == (4096, 2 * 4096)
    del two
    assert living.now == 0


@pytest.fixture(scope="module")
def gan(data: Path) -> Budget:
    few = ("training.batch_size=2", "model.lambda_adv_t=0")
    return Budget(case(asked(data, "tempogan", *few)))


@pytest.fixture(scope="module")
def rainnet(data: Path) -> Budget:
    return Budget(case(asked(data, "st_rainnet")))


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("st_rainnet", "fp32"),
        ("st_rainnet", "bf16"),
        pytest.param("tempogan", "bf16", marks=pytest.mark.slow),
        *(
            pytest.param(name, "fp32", marks=pytest.mark.slow)
            for name in models.names()
            if name != "st_rainnet"
        ),
    ],
)
def test_shapes_need_what_values_need(data: Path, name: str, precision: str) -> None:
    """The count without values is that of real steps on real tensors, of all players."""
    posed = case(asked(data, name, f"training.precision={precision}"))
    shapes, values = (Practice(posed, 32, has_values=v) for v in (False, True))
    assert shapes.kept == pytest.approx(values.kept, rel=1e-3)
    found, expected = shapes.peak(2, 2), values.peak(2, 2)
    assert found == pytest.approx(expected, rel=5e-3)
    assert found > shapes.kept


def test_what_is_kept_is_weights_moments_and_average(data: Path) -> None:
    """Four numbers a parameter: itself, two of Adam's, and its average."""
    wide = ("st_rainnet", "model.hidden=[64,64]")
    made = Practice(case(asked(data, *wide)), 32)
    numbers = sum(p.numel() for p in made.model.parameters())
    assert made.kept == pytest.approx(4 * 4 * numbers, rel=0.02)
    without = Practice(
        case(asked(data, "st_rainnet", "model.hidden=[64,64]", "training.ema=0")), 32
    )
    assert without.kept == pytest.approx(3 * 4 * numbers, rel=0.02)


def test_more_batches_at_once_add_alike(gan: Budget) -> None:
    """So that sixteen need not be tried: counted for five, and put together of two and three."""
    made = gan.practice
    told = made.peak(2, 5)
    with made.counted():
        batches = [made.batch(2) for _ in range(5)]
        frames = [torch.empty(2, *made.frames) for _ in range(budget.ON_THEIR_WAY)]
        made.living.peak = 0
        made.step(batches)
        del frames
    assert told == made.living.peak
    assert told > made.peak(2, 2) > made.peak(2)  # a pass of the generator each


def test_all_players_take_part(gan: Budget) -> None:
    """Also where a training begins without its discriminators."""
    made = gan.practice
    with made.counted():
        batch = made.batch(2)
        made.living.peak = 0
        made.step([batch], 0)  # within the warm-up
        del batch
    assert made.living.peak < made.peak(2) - 1_000_000
    assert made.step_macs > 4 * made.forward_macs


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 4])
def test_the_way_back_costs_twice_the_way_there(kind: type[nn.Module], groups: int) -> None:
    """Input and kernel each as much; of convolutions in groups torch says otherwise."""
    layer = kind(8, 16, 3, stride=2, groups=groups)  # type: ignore[call-arg]
    x = torch.randn(2, 8, 9, 9, requires_grad=True)
    with FlopCounterMode(display=False) as there:
        y = layer(x)
    with budget.flops() as back:
        y.sum().backward()
    assert back.get_total_flops() == 2 * there.get_total_flops()
    places = y[0, 0] if kind is nn.Conv2d else x[0, 0]  # each meets all of the kernel
    assert there.get_total_flops() == 2 * 2 * places.numel() * 8 * 16 // groups * 9


def test_macs_are_of_one_window(data: Path) -> None:
    made = Practice(case(asked(data, "simvp")), 32)
    twice = Practice(case(asked(data, "simvp", "training.patch_size=48")), 48)
    assert twice.forward_macs == pytest.approx(made.forward_macs * (48 / 32) ** 2, rel=0.01)
    assert 2.9 < made.step_macs / made.forward_macs <= 3  # x itself needs no gradient


def test_batches_that_make_the_same_step(data: Path) -> None:
    made = ("training.batch_size=6", "training.accumulate=2")
    assert case(asked(data, "tempogan", *made)).batches() == [1, 2, 3, 4, 6, 12]
    assert case(asked(data, "tempogan", *made, "training.devices=2")).batches() == [2, 4, 6, 12]


@pytest.mark.parametrize(
    ("name", "more", "patches"),
    [
        ("tempogan", [], [24, 16, 8, 4]),  # 0.75, 0.5 ... of 32, multiples of the factor
        ("tempogan", ["task.factor=5", "training.patch_size=40"], [30, 20, 15, 10, 5]),
        ("simvp", ["training.patch_size=null"], [32, 24, 16, 8, 6]),  # of 48
    ],
)
def test_patches_to_try(data: Path, name: str, more: list[str], patches: list[int]) -> None:
    assert case(asked(data, name, *more)).patches() == patches


def test_the_largest_batch_that_fits(rainnet: Budget) -> None:
    made, posed = rainnet, rainnet.case
    needs = {b: made.choice(made.practice, b).needs for b in posed.batches()}
    assert list(needs) == [1, 2, 4]
    assert needs[1] < needs[2] < needs[4] == made.present.needs
    t = posed.settings.training
    for batch, more in ((4, 1), (2, 2), (1, 4)):
        found = made.fitting(needs[batch])
        assert found
        assert (found.batch_size, found.accumulate, found.patch) == (batch, more, 32)
    assert made.fitting(needs[4]).words(t) == []  # type: ignore[union-attr]
    assert made.fitting(needs[4] - 1).words(t) == [  # type: ignore[union-attr]
        "--set training.batch_size=2",
        "--set training.accumulate=2",
    ]


@pytest.mark.slow
def test_a_smaller_patch_where_no_batch_fits(gan: Budget) -> None:
    least = min(gan.choice(gan.practice, b).needs for b in gan.case.batches())
    found = gan.fitting(least - 1)
    assert found
    assert found.needs < least
    assert found.patch == 24
    with pytest.raises(ValueError, match="the spatial discriminator needs 16 by 16"):
        Practice(gan.case, 8)
    smallest = min(
        gan.choice(practice, b).needs
        for practice in (Practice(gan.case, 16),)
        for b in gan.case.batches()
    )
    found = gan.fitting(smallest)
    assert found
    assert (found.patch, found.needs) == (16, smallest)
    assert gan.fitting(smallest - 1) is None  # 8 is refused, not proposed


def test_what_is_proposed_can_be_pasted(data: Path, rainnet: Budget) -> None:
    of = rainnet.case.settings
    room = rainnet.present.needs - 10_000
    found = rainnet.fitting(room)
    assert found
    pasted = asked(data, "st_rainnet", *" ".join(found.words(of.training)).split()[1::2])
    again = Budget(case(pasted))
    assert again.present.needs == found.needs <= room
    windows = pasted.training.batch_size * pasted.training.accumulate
    assert windows == of.training.batch_size * of.training.accumulate
    told = budget.advice(of, found, room)
    assert told.startswith("--set training.")


def test_a_model_that_fits_nowhere_is_said_to(gan: Budget) -> None:
    assert gan.fitting(budget.CONTEXT) is None
    told = budget.advice(gan.case.settings, None, budget.CONTEXT)
    assert told == (
        "nothing fits 600 MB, whatever the batch and patch: try training.precision bf16, "
        "a smaller model"
    )


def said(data: Path, *words: str) -> str:
    line = ["train", "--store", str(data / "WP.zarr"), "--split", str(data / "WP.split.json")]
    found = CliRunner().invoke(cli.app, [*line, *words], env={"COLUMNS": "200"})
    assert found.exit_code == 0, found.output
    return found.output


@pytest.mark.parametrize(
    "name",
    [n if n == "st_rainnet" else pytest.param(n, marks=pytest.mark.slow) for n in models.names()],
)
def test_a_dry_run_of_every_model(
    data: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "SECONDS", 0.05)
    monkeypatch.chdir(tmp_path)
    words = [word for setting in small(name) for word in ("--set", setting)]
    told = said(data, *words, "--dry-run", "--memory", "12GB")
    one = trainer.Trainer.of(asked(data, name), tmp_path, engine.make_fabric(asked(data).training))
    numbers = sum(p.numel() for p in one.model.parameters())
    assert f"Model   {name}, {numbers:,} parameters: " in told
    assert f"Steps   {one.steps_per_epoch} per epoch, {one.total_steps} in 3 epochs; each" in told
    rests = name in ("tempogan", "srgan")  # until step 500 and more
    assert ("; generator alone: the others would join after more steps than that" in told) == rests
    windows = len(one.loader.windows)
    assert f"{windows} training windows, {windows} shown per epoch; 4 validation windows" in told
    assert "12 GB hold it as it is" in told
    assert re.search(r"MACs +[\d.]+ [kMG] for the answer to one window, [\d.]+ [kMG] for", told)
    assert re.search(
        r"Time +(roughly )?[\d.]+ (ms|s|min) for all, [\d.]+ m?s per epoch, with", told
    )
    assert re.search(r" +[\d.]+ (ms|s) per step, [\d.]+% of it waiting for data", told)
    assert "CPU, 1 thread" in told
    assert not os.listdir(tmp_path)  # nothing is left behind


def test_a_dry_run_for_several_devices(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SECONDS", 0.01)
    of = asked(data, "st_rainnet", "training.crops_per_window=3")
    alone = rehearse.rehearse(of)
    t = of.training
    two = of.model_copy(update={"training": t.model_copy(update={"devices": 2})})
    both = rehearse.rehearse(two)
    one = trainer.Trainer.of(of, Path("none"), engine.make_fabric(t))
    rank = loader.Loader(
        one.loader.tracks, window=5, patch=32, batch=2, crops_per_window=3, rank=1, ranks=2
    )
    assert both.steps_per_epoch == len(rank)
    assert alone.steps_per_epoch == len(one.loader)
    assert both.present.batch_size == 4
    assert both.present.tensors < alone.present.tensors
    assert both.pace
    assert both.pace.stages[0].windows == 2  # one device's share
    with pytest.raises(UserError, match="batch_size 4 cannot be shared among 3 devices"):
        rehearse.rehearse(of.model_copy(update={"training": t.model_copy(update={"devices": 3})}))


def test_steps_too_long_to_wait_for_are_timed_in_part(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "SECONDS", 1e-4)
    of = asked(data, "st_rainnet", "training.accumulate=2")
    done = rehearse.rehearse(of)
    assert done.pace
    (stage,) = done.pace.stages
    assert (stage.windows, stage.timed) == (4, 2)  # after two steps of 2
    assert "2 steps of 4 of 8 windows timed here" in dict(done.rows())["Time"]


def test_a_machine_with_too_little_memory_times_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "available", lambda: 10_000)
    done = rehearse.rehearse(asked(data, "st_rainnet"))
    assert done.pace is None
    assert dict(done.rows())["Time"].startswith("not known: this machine has too little memory")


def test_forecasts_of_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole frames, a region, and what lies outside it from the batch's next window."""
    monkeypatch.setattr(pace, "SECONDS", 0.01)
    world = World(steps=124)
    write(tmp_path / "world.nc", world)
    made = convert.ConvertSettings(options=Options(variables=("rain",), track_by="month"))
    paths = tmp_path / "world.zarr", tmp_path / "split.json"
    convert.convert(tmp_path / "world.nc", paths[0], made, manifests=tmp_path, workers=1)
    split.split(*paths, eval_last=0.5)
    region = ",".join(map(str, world.box(1)))
    found, _ = settings.load(
        None,
        [
            *small("st_rainnet", "training.patch_size=null", "training.augment=false"),
            f"task.region=[{region}]",
            "task.outside=other_date",
        ],
    )
    of = settings.located(found, *paths)
    done = rehearse.rehearse(of, 10**9)
    assert done.geometry.x == (3, 1, 10, 30)
    assert done.proposed == done.present
    posed = case(of)
    assert posed.batches() == [2, 4]  # of one window there is no next one
    assert posed.patches() == []  # a place does not move
    assert Budget(posed).fitting(budget.CONTEXT + 200_000) is None


def test_options_of_a_dry_run(data: Path) -> None:
    runner = CliRunner()
    told = runner.invoke(cli.app, ["train", "--memory", "12GB"])
    assert told.exit_code == 2
    assert "--memory: what fits into so much is for a --dry-run" in told.output
    where = ["--store", str(data / "WP.zarr"), "--split", str(data / "WP.split.json")]
    told = runner.invoke(cli.app, ["train", *where, "--dry-run", "--memory", "12"])
    assert told.exit_code == 2
    assert "expected a size" in told.output
    assert "devices: 3" in runner.invoke(cli.app, ["train", "--devices", "3", "--show"]).output


def test_a_dry_run_is_of_one_process(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "started", lambda: (2, 1))
    with pytest.raises(UsageError, match="a dry run is of one process"):
        rehearse.rehearse(asked(data))


def test_a_gpu_with_too_little_memory_comes_with_a_proposal(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rainnet: Budget
) -> None:
    def full(*args: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(trainer, "update", full)
    monkeypatch.setattr(budget, "memory_of", lambda name: 10**9)
    monkeypatch.setattr(budget, "CONTEXT", 0)  # else it is most of what so small a model needs
    told = r"too little memory for this training; --set training\.batch_size"
    with pytest.raises(UserError, match=told) as e:
        train.train(rainnet.case.settings, tmp_path / "run")
    fits = rainnet.fitting(int(budget.LESS * rainnet.present.needs))
    assert fits
    assert fits.batch_size < 4
    assert " ".join(fits.words(rainnet.t)) in str(e.value)


@pytest.mark.gpu
def test_the_estimate_is_near_what_a_gpu_gives_out(data: Path) -> None:
    """At the published width, so that workspaces are no more than tensors."""
    wide = ("model.width=64", "model.n_residual_blocks=8", "training.batch_size=16")
    of = asked(data, "tempogan", *wide, "training.precision=bf16", "training.device=cuda")
    made = Budget(case(of))
    one = trainer.Trainer.of(of, Path("none"), engine.make_fabric(of.training))
    source = one.batches(0, 0)
    for batch in (next(source), next(source)):  # the first makes states, and tries algorithms
        torch.cuda.reset_peak_memory_stats()
        steps.update(one.fabric, one.model, one.optimizers, [batch], steps.LATE, of.training.clip)
    found = torch.cuda.max_memory_allocated()
    assert found == pytest.approx(made.present.tensors, rel=0.3)
    assert torch.cuda.max_memory_reserved() < made.present.needs
