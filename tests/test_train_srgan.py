"""The loop with stages, a frozen network beside the players, rests and other learning rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from models._vgg import layers
from pipeline import checkpoint, settings, steps, train, trainer
from pipeline.engine import make_fabric
from pipeline.errors import UsageError, UserError
from pipeline.runlog import read_log

STEPS = 8  # 2 epochs of 4: 8 frames of one storm, 2 a batch
SMALL = [
    "model.name=srgan",
    "model.n_residual_blocks=1",
    "model.width=8",
    "model.fine_width=4",
    "model.discriminator_width=4",
    "model.pretrain_steps=3",
    "training.sequence_length=1",
    "training.patch_size=16",
    "training.batch_size=2",
    "training.epochs=2",
    "training.log_every_steps=1",
    "training.validation_crops=4",
    "training.sample_every_epochs=0",
]


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Path]) -> Path:
    """With vgg.pth, too."""
    home = make_data(storms=2, hours=8, size=24)
    write_vgg(home / "vgg.pth")
    return home


def made(of: settings.RunSettings) -> trainer.Trainer:
    return trainer.Trainer.of(of, Path("none"))


def write_vgg(file: Path) -> None:
    """Of torchvision's form, with the layers up to conv2_2."""
    torch.manual_seed(3)
    torch.save({f"features.{k}": v for k, v in layers(2, 2, True).state_dict().items()}, file)


def small(data: Path, *more: str) -> settings.RunSettings:
    made, _ = settings.load(None, [*SMALL, *more])
    return settings.located(made, data / "WP.zarr", data / "WP.split.json")


def with_vgg(file: Path) -> list[str]:
    return ["model.content=vgg", "model.vgg_layer=[2, 2]", f"model.vgg_weights={file}"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.in_run(run, "last")).weights


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def undisturbed(data: Path) -> Path:
    """A run with VGG content that nobody interrupted."""
    train.train(small(data, *with_vgg(data / "vgg.pth")), data / "undisturbed")
    return data / "undisturbed"


def logged(run: Path) -> dict[str, list[int]]:
    """By name of a loss, the steps at which it was written."""
    found: dict[str, list[int]] = {}
    for line in read_log(run):
        for name in line:
            if name.startswith("loss/"):
                found.setdefault(name, []).append(line["step"])
    return found


def test_both_stages_are_logged(undisturbed: Path) -> None:
    steps = logged(undisturbed)
    assert steps["loss/content"] == steps["loss/generator"] == list(range(1, STEPS + 1))
    adversarial = ["adversarial", "discriminator", "d_real", "d_fake", "anchor"]
    assert all(steps[f"loss/{name}"] == list(range(4, STEPS + 1)) for name in adversarial)
    board = EventAccumulator(str(undisturbed / "tensorboard")).Reload()
    assert set(steps) <= set(board.Tags()["scalars"])


def test_every_epoch_is_judged_and_the_best_is_kept(undisturbed: Path) -> None:
    """Saving nothing but the last epoch's weights is how a run is lost to its last epoch."""
    files = {p.stem for p in (undisturbed / "checkpoints").iterdir()}
    assert files == {"best", "last", "previous"}
    assert [n["epoch"] for n in read_log(undisturbed) if "validation/rmse_model" in n] == [1, 2]


def test_a_frozen_network_is_in_no_checkpoint(data: Path, undisturbed: Path) -> None:
    saved = checkpoint.load(checkpoint.in_run(undisturbed, "last"))
    assert saved.averaged is not None
    for held in (saved.weights, saved.averaged):
        assert {name.split(".")[0] for name in held} == {"generator", "discriminator"}
    sizes = [p.stat().st_size for p in (undisturbed / "checkpoints").iterdir()]
    assert max(sizes) < (data / "vgg.pth").stat().st_size


@pytest.mark.parametrize("stop_after", [2, 3, 6])
def test_stopped_in_either_stage_and_resumed_equals_undisturbed(
    data: Path, undisturbed: Path, tmp_path: Path, stop_after: int, stop_in: Callable[..., None]
) -> None:
    """In pre-training, at its last step, and among discriminators; the weights' file moved."""
    stop_in(stop_after)
    write_vgg(tmp_path / "here.pth")
    first = train.train(small(data, *with_vgg(tmp_path / "here.pth")), tmp_path / "run")
    assert first.position.step == stop_after
    (tmp_path / "here.pth").rename(tmp_path / "there.pth")
    with pytest.raises(UserError, match=r"here\.pth: no such file of VGG19 weights"):
        train.train(small(data, *with_vgg(tmp_path / "here.pth")), tmp_path / "run", resume=True)
    again = small(data, *with_vgg(tmp_path / "there.pth"))
    assert train.train(again, tmp_path / "run", resume=True).position.step == STEPS
    assert same(weights(tmp_path / "run"), weights(undisturbed))


RECIPES = [
    ["model.arch=published", "model.content=mse", "training.patch_size=20", "training.ema=0"],
    ["training.precision=bf16", "model.content=l1", "model.rest_above=0.001"],
    ["training.accumulate=2", "training.schedule=halve", "training.sequence_length=2"],
]


@pytest.mark.parametrize("more", RECIPES, ids=lambda more: more[0])
def test_every_recipe_resumes_exactly(
    data: Path, tmp_path: Path, more: list[str], stop_in: Callable[..., None]
) -> None:
    more = [*more, "model.pretrain_steps=1", "training.log_every_steps=2"]
    whole = train.train(small(data, *more), tmp_path / "whole").position.step
    stop_in(whole // 2)
    assert train.train(small(data, *more), tmp_path / "run").stopped
    assert train.train(small(data, *more), tmp_path / "run", resume=True).position.step == whole
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_trained_model_is_used_without_vgg(data: Path, tmp_path: Path) -> None:
    write_vgg(tmp_path / "vgg.pth")
    short = ["training.epochs=1", "model.pretrain_steps=0"]
    train.train(small(data, *with_vgg(tmp_path / "vgg.pth"), *short), tmp_path / "run")
    (tmp_path / "vgg.pth").unlink()
    model = checkpoint.load(checkpoint.in_run(tmp_path / "run", "best")).model()
    assert model(torch.zeros(1, 1, 1, 6, 6)).shape == (1, 1, 1, 24, 24)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "model.content=vgg",
            r"model srgan: content vgg needs the weights of VGG19: download "
            r"https://download.pytorch.org/models/vgg19-dcbb9e9d.pth .* set model.vgg_weights",
        ),
        ("model.content=vgg|model.vgg_weights=no.pth", "no.pth: no such file of VGG19 weights"),
        ("model.content=vgg|model.vgg_weights=x|model.vgg_layer=[3, 9]", "no convolution 9 in"),
        ("model.factors=[2, 3]", "multiply to 6, the scale is 4"),
        ("model.arch=published|model.content=mse", "batch norm after 4 halvings needs more"),
        ("model.output=relu", "output relu needs a lowest value"),
        ("training.lr_of={critic: 1e-4}", "srgan has no critic; it has generator, discriminator"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_written(
    data: Path, tmp_path: Path, override: str, told: str
) -> None:
    with pytest.raises(UserError, match=told) as error:
        train.train(small(data, *override.split("|")), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


class Resting(nn.Module):
    """Two players; the first learns at even steps only."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(1, 1), nn.Linear(1, 1)

    def players(self) -> dict[str, nn.Module]:
        return {"one": self.one, "two": self.two}

    def losses(self, x: torch.Tensor, y: torch.Tensor, step: int) -> Iterator[tuple]:
        loss = self.one(x).square().mean()
        yield "one", loss.detach() if step % 2 else loss, {"one": loss.detach()}
        yield "two", self.two(x).square().mean(), {}


def test_a_player_that_rests_is_left_as_it_is() -> None:
    """Not even momentum moves it: its optimizer is not stepped."""
    torch.manual_seed(0)
    t = settings.TrainSettings(device="cpu")
    model, fabric = Resting(), make_fabric(t)
    optimizers = {
        name: fabric.setup_optimizers(torch.optim.Adam(net.parameters(), lr=0.1))
        for name, net in model.players().items()
    }
    batches = [(torch.ones(2, 1), torch.ones(2, 1))] * 2

    def stand() -> list[torch.Tensor]:
        return [p.detach().clone() for p in model.parameters()]

    at = [stand()]
    for step in (0, 1, 2):
        parts = steps.update(fabric, model, optimizers, batches, step, 1.0).parts  # type: ignore[arg-type]
        assert set(parts) == {"one"}
        at.append(stand())
    moved = [[not torch.equal(a, b) for a, b in zip(*pair, strict=True)] for pair in pairwise(at)]
    assert moved == [[True] * 4, [False, False, True, True], [True] * 4]
    assert optimizers["one"].state_dict()["state"][0]["step"] == 2


def test_a_discriminator_that_wins_rests_in_the_loop(data: Path) -> None:
    more = ["model.pretrain_steps=0", "model.rest_above=0.01", "model.condition=false"]
    more += ["training.lr_of={generator: 1e-9, discriminator: 1e-2}", "training.schedule=constant"]
    one = made(small(data, *more))
    rested: list[bool] = []
    while len(rested) < 40:
        for micro in one.batches(0, 0):
            before = [p.detach().clone() for p in one.model.discriminator.parameters()]
            parts = steps.update(
                one.fabric,
                one.model,
                one.optimizers,
                [micro],
                len(rested),
                one.settings.training.clip,
            ).parts
            after = one.model.discriminator.parameters()
            still = all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
            rested.append(still)
            assert parts["d_rests"] == still
    assert any(rested)
    assert not all(rested)


SCHEDULES: list[tuple[str, list[float]]] = [  # of lr at 0, 49, 50 and 90 %
    ("training.schedule=constant", [1, 1, 1, 1]),
    ("training.schedule=halve", [1, 1, 0.5, 0.5]),
    ("training.schedule=halve|training.drop=0.1", [1, 1, 0.1, 0.1]),
    ("training.schedule=halve|training.milestones=[0.5, 0.75]", [1, 1, 0.5, 0.25]),
    ("training.schedule=halve|training.milestones=[]", [1, 1, 1, 1]),
]


@pytest.mark.parametrize(("override", "shares"), SCHEDULES)
def test_learning_rates_over_a_run(data: Path, override: str, shares: list[float]) -> None:
    more = [
        *override.split("|"),
        "training.epochs=25",
        "training.lr=0.01",
        "training.lr_of={discriminator: 0.02}",
    ]
    one = made(small(data, *more))
    (micro,) = islice(one.batches(0, 0), 1)
    for done, share in zip((0, 0.49, 0.5, 0.9), shares, strict=True):
        one.position.step = round(one.total_steps * done)
        rates = one.rates(one.position.step)
        one.step([micro])
        assert rates == pytest.approx(
            {"lr/generator": 0.01 * share, "lr/discriminator": 0.02 * share}
        )
        groups = [g["lr"] for o in one.optimizers.values() for g in o.param_groups]
        assert groups == list(rates.values())


@pytest.mark.parametrize("bad", ["milestones=[1.5]", "milestones=0.5", "drop=0", "schedule=step"])
def test_bad_schedules_are_refused(bad: str) -> None:
    with pytest.raises(UsageError, match=rf"--set training.{bad.split('=')[0]}"):
        settings.load(None, [f"training.{bad}"])


def test_progress_tells_the_model_and_the_usual_baseline() -> None:
    scores = {"model": 0.12345, "bicubic": 0.2, "nearest": 0.3, "lanczos": 0.4}
    assert train.told(scores, " mm") == "model 0.123 mm, bicubic 0.200 mm"
