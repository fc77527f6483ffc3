"""torch.compile: tried out first, told of where it is not to be had, and in no checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import checkpoint, compilation, settings, train
from pipeline.runlog import read_log
from pipeline.trainer import Trainer

STEPS = 6  # 2 epochs of 3: 8 frames of one storm, 2 a batch, 3 a window
SMALL = [
    "model.n_residual_blocks=1",
    "model.width=4",
    "model.warmup_steps=2",
    "model.temporal_pool=1",
    "training.patch_size=16",
    "training.batch_size=2",
    "training.epochs=2",
    "training.log_every_steps=1",
    "training.validation_crops=3",
    "training.sample_every_epochs=0",
]


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Path]) -> Path:
    return make_data(storms=2, hours=8, size=32)


def small(data: Path, *more: str) -> settings.RunSettings:
    made, _ = settings.load(None, [*SMALL, *more])
    return settings.located(made, data / "WP.zarr", data / "WP.split.json")


@pytest.fixture(scope="module")
def plain(data: Path) -> Path:
    """A run without a compiler."""
    train.train(small(data), data / "plain")
    return data / "plain"


def saved(run: Path, which: str = "last") -> checkpoint.Checkpoint:
    return checkpoint.load(run / "checkpoints" / f"{which}.ckpt")


def assert_the_same(run: Path, plain: Path) -> None:
    """Bit for bit, averages and random numbers too."""
    one, other = saved(run), saved(plain)
    assert one.averaged
    assert other.averaged
    for ours, its in ((one.weights, other.weights), (one.averaged, other.averaged)):
        assert ours.keys() == its.keys()
        assert all(torch.equal(value, its[name]) for name, value in ours.items())
    ours, its = (of.training["random"][0]["torch"] for of in (one, other))
    assert torch.equal(ours, its)
    assert one.training["position"] == other.training["position"]


Compiled = Callable[[nn.Module, Any], Any]


def compiles_to(patch: pytest.MonkeyPatch, call: Compiled) -> list[dict[str, Any]]:
    """Have a compiler make this of every network; what each was asked for, as it goes."""
    asked: list[dict[str, Any]] = []

    def compile(self: nn.Module, **how: Any) -> None:
        asked.append(how)
        self._compiled_call_impl = lambda *args: call(self, *args)

    patch.setattr(nn.Module, "compile", compile)
    return asked


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Notes that speak of it."""
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("Note:") and "compile" in line]


def refuses(module: nn.Module, **how: Any) -> None:
    raise RuntimeError("no compiler\n\n  is here")


def fails(module: nn.Module, *args: Tensor) -> Tensor:
    raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, ValueError("gcc\ndied"), None)


def wrong(module: nn.Module, *args: Tensor) -> Tensor:
    return module.forward(*args) * 1.2


def wrong_backwards(module: nn.Module, *args: Tensor) -> Tensor:
    """Says the same, and learns otherwise."""
    said = module.forward(*args)
    return said.detach() + 1.2 * (said - said.detach())


def no_number(module: nn.Module, *args: Tensor) -> Tensor:
    return module.forward(*args) * float("nan")


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (None, "RuntimeError: no compiler is here"),
        (fails, "gcc died"),
        (wrong, "its results differ: "),
        (wrong_backwards, "its results differ: "),
        (no_number, "its results differ: nan instead of "),
    ],
    ids=["refuses", "fails", "wrong", "wrong backwards", "no number"],
)
def test_a_compiler_that_cannot_or_errs_is_told_of_and_not_used(
    data: Path,
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    call: Compiled | None,
    why: str,
) -> None:
    if call:
        compiles_to(monkeypatch, call)
    else:
        monkeypatch.setattr(nn.Module, "compile", refuses)
    train.train(small(data, "training.compile=on"), tmp_path / "run")
    (note,) = told(capsys)
    assert note.startswith(
        "Note: training.compile on is not to be had here, training goes on without: "
    )
    assert why in note
    assert_the_same(tmp_path / "run", plain)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's import of its own
@pytest.mark.parametrize("how", ["on", pytest.param("graphs", marks=pytest.mark.slow)])
def test_a_compiler_that_works_is_used_and_changes_no_name(
    data: Path,
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: str,
) -> None:
    called: list[nn.Module] = []

    def noted(module: nn.Module, *args: Tensor) -> Tensor:
        called.append(module)
        return module.forward(*args)

    asked = compiles_to(monkeypatch, noted)
    trainers: list[Trainer] = []
    of = Trainer.of
    monkeypatch.setattr(Trainer, "of", lambda *given: trainers.append(of(*given)) or trainers[-1])
    train.train(small(data, f"training.compile={how}"), tmp_path / "run")
    assert not told(capsys)
    mode = {"on": "default", "graphs": "reduce-overhead"}[how]
    assert asked == [{"mode": mode, "dynamic": False}] * 6  # three networks, tried out and used
    assert_the_same(tmp_path / "run", plain)
    model = trainers[0].model
    ours = [model.generator, *model.discriminators.values()]
    assert list(compilation.networks(model)) == ours
    assert trainers[0].replays is (how == "graphs")
    # The generator once a step; a discriminator on both kinds and again for the generator
    counts = [sum(module is network for module in called) for network in ours]
    assert counts == [STEPS, 2 * (STEPS - 2), 2 * (STEPS - 2)]


def test_rounding_otherwise_is_no_mistake(
    data: Path,
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And what is then trained with is what was compiled."""
    compiles_to(monkeypatch, lambda module, *args: module.forward(*args) * (1 + 1e-5))
    train.train(small(data, "training.compile=on"), tmp_path / "run")
    assert not told(capsys)
    one, other = saved(tmp_path / "run").weights, saved(plain).weights
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


def test_the_trial_looks_at_every_player(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At the first step discriminators do not play yet; one that is compiled wrongly is found."""

    def call(module: nn.Module, *args: Tensor) -> Tensor:
        of_frames = module.forward(*args)
        return of_frames + 1 if of_frames.ndim == 2 else of_frames

    compiles_to(monkeypatch, call)
    asked = small(data, "training.compile=on", "training.epochs=1")
    train.train(asked, tmp_path / "run")
    assert "its results differ" in told(capsys)[0]


def test_a_compiler_may_come_and_go_with_resume(
    data: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiles_to(monkeypatch, lambda module, *args: module.forward(*args))
    checkpoints = "training.checkpoint_every_steps=2"
    run = Path(shutil.copytree(plain, tmp_path / "run"))
    (run / "checkpoints" / "last.ckpt").unlink()  # to go on from the first epoch's
    asked = small(data, "training.compile=on", checkpoints)
    assert train.train(asked, run, resume=True).position.step == STEPS
    assert_the_same(run, plain)
    (run / "checkpoints" / "last.ckpt").unlink()
    train.train(small(data), run, resume=True)
    assert_the_same(run, plain)


def test_a_player_is_one_network_or_several() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(1, 1)
            self.more = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)})
            self.aside = nn.Linear(1, 1)

        def players(self) -> dict[str, nn.Module]:
            return {"one": self.one, "more": self.more}

    model = Model()
    assert list(compilation.networks(model)) == [model.one, model.more["a"], model.more["b"]]


def test_inside_without_it_runs_as_written() -> None:
    """What torch itself compiles; with its own tracer, which needs no compiler of C++."""

    class Network(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    network, traced = Network(), []

    def backend(graph: Any, inputs: Any) -> Any:
        traced.append(inputs)
        return graph.forward

    network.compile(backend=backend)
    with compilation.without():
        network(torch.zeros(1, 2))
    assert not traced
    network(torch.zeros(1, 2))
    assert len(traced) == 1
    with compilation.without():  # another shape: validation's last batch
        network(torch.zeros(7, 2))
    assert len(traced) == 1


COMPILER = shutil.which("g++") or shutil.which("clang++")


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler here, which torch.compile needs on a CPU")
@pytest.mark.filterwarnings("ignore")  # what torch's own compiler warns of differs by version
def test_compiled_on_a_cpu_it_learns_the_same(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spatial = "model.lambda_adv_t=0"  # each network takes half a minute
    train.train(small(data, spatial), tmp_path / "plain")
    train.train(small(data, spatial, "training.compile=on"), tmp_path / "run")
    assert not told(capsys)
    one, other = saved(tmp_path / "run"), saved(tmp_path / "plain")
    assert one.weights.keys() == other.weights.keys()
    assert one.averaged
    assert one.averaged.keys() == other.weights.keys()
    for name, value in one.weights.items():
        torch.testing.assert_close(value, other.weights[name], rtol=1e-2, atol=2e-3, msg=name)
    for line, its in zip(*map(read_log, (tmp_path / "run", tmp_path / "plain")), strict=True):
        names = [n for n in line if n.startswith(("loss/content", "player/", "validation/"))]
        assert names
        for name in names:
            assert line[name] == pytest.approx(its[name], rel=1e-3), name
    model = one.model()  # and is used without a compiler
    assert model(torch.zeros(1, 3, 1, 8, 8)).isfinite().all()
