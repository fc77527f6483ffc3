"""Several processes share a training: the same losses, the same files, one voice, one end.

Each process is real: what torchrun would set is set, and `cli train` runs in it. To import torch
takes seconds, so that one server does it once, and every process is forked from there.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

import models
from pipeline import checkpoint, convert, settings, split, store, train
from pipeline.loader import Loader
from pipeline.runlog import read_log
from pipeline.sources.synthetic import MISSING, Storm, write_tree

ROOT = Path(__file__).parents[1]
SOON = 60.0  # seconds, for a run of a few steps on a busy machine
SHARED = [  # 4 steps in each of 4 epochs
    "training.patch_size=32",
    "training.batch_size=4",
    "training.epochs=4",
    "training.log_every_steps=1",
    "training.validation_crops=4",
    "training.sample_every_epochs=0",
    "training.device=cpu",
    "training.lr=1e-3",
]
# Everything takes part, discriminators from the third step on. Without what is each process's own:
# batch norm, of which a CPU's sees its share of the batch (pastnet's residual blocks), and codes
# that are revived from the first process's vectors alone.
OF_MODEL = {
    "tempogan": [
        "n_residual_blocks=1", "width=8", "warmup_steps=2", "r1_gamma=1", "r1_every=2",
        "rest_above=0.02",
    ],
    "srgan": [
        "n_residual_blocks=1", "width=8", "fine_width=4", "discriminator_width=4",
        "pretrain_steps=2", "lambda_adversarial=0.01",
    ],
    "simvp": ["hid_s=8", "hid_t=16", "n_s=2", "n_t=2"],
    "pastnet": [
        "width=16", "codes=32", "code_width=8", "hid_t=16", "n_t=2", "embed=16", "patch=8",
        "res_layers=0", "revive_below=0",
    ],
    "st_rainnet": ["hidden=[4,4]"],
}  # fmt: skip
SERVER = """
import json, os, sys, time, traceback
import torch
import cli
from pipeline import settings, train, trainer

def run(env, words, out, before):
    os.environ.update(env)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{out}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    torch.set_num_threads(1)
    code = 0
    try:
        exec(before, {})
        sys.argv = [cli.__file__, *words]
        cli.app()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else bool(end.code)
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    what, *given = json.loads(line)
    if what == "start":
        answer = os.fork()
        if not answer:
            run(*given)
    else:
        (pid, seconds), answer = given, None
        until = time.monotonic() + seconds
        while answer is None and time.monotonic() < until:
            ended, status = os.waitpid(pid, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else time.sleep(0.02)
    print(json.dumps(answer), flush=True)
"""


@dataclass
class Process:
    pid: int
    out: Path
    ask: Callable[..., Any]
    code: int | None = None

    def ended(self, seconds: float = SOON) -> int:
        """Its exit code; negative: the signal that ended it."""
        if self.code is None:
            self.code = self.ask("wait", self.pid, seconds)
            assert self.code is not None, f"still running; it has said: {self.said}"
        return self.code

    @property
    def said(self) -> str:
        """On standard error."""
        return Path(f"{self.out}.err").read_text()


Start = Callable[..., list[Process]]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts `cli train` with these words in so many processes, as torchrun does."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin
    assert server.stdout
    asked, told = server.stdin, server.stdout
    started: list[Process] = []

    def ask(*what: object) -> Any:
        print(json.dumps(what), file=asked, flush=True)
        return json.loads(told.readline())

    def begin(words: Sequence[str], out: Path, count: int = 2, before: Sequence[str] = ()) -> Any:
        """before: Python that each process runs first."""
        port = free_port()
        made = []
        for rank in range(count):
            mine = str(out.with_name(f"{out.name}-{rank}"))
            env = as_torchrun(rank, count, port) if count > 1 else {}
            first = before[rank] if rank < len(before) else ""
            pid = ask("start", env, ["train", *words], mine, first)
            made.append(Process(pid, Path(mine), ask))
        started.extend(made)
        return made

    yield begin
    for process in started:
        if process.code is None:
            os.kill(process.pid, signal.SIGKILL)
    asked.close()
    server.wait()
    told.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def as_torchrun(rank: int, count: int, port: int) -> dict[str, str]:
    found = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": 0,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "TORCHELASTIC_RUN_ID": "a-test",
    }
    return {name: str(value) for name, value in found.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WP.zarr, of three storms of 10 hours, 48x48, with pixels missing, and WP.split.json."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("data")
    storms = [
        Storm(f"20210{n}", datetime(2021, 7, n, tzinfo=UTC), hours=10, latitude=10.0 + n)
        for n in (1, 2, 3)
    ]
    write_tree(home / "WP", storms, size=48)
    for storm in storms:
        for hour in (2, 5, 6):
            with h5py.File(home / "WP" / "image" / storm.id / storm.file_name(hour), "a") as file:
                (pixels,) = (item for item in file.values() if item.ndim == 2)
                pixels[:, 10 : 10 + 4 * hour] = MISSING
    asked = convert.ConvertSettings(max_missing=0.9)
    convert.convert(home / "WP", home / "WP.zarr", asked, manifests=home, workers=1)
    split.split(home / "WP.zarr", home / "WP.split.json", eval_ids=["202103"])
    return home


def of_model(name: str, *more: str) -> list[str]:
    own = [f"model.{setting}" for setting in OF_MODEL.get(name, ())]
    if models.find(name).TASK == "forecast":
        own += ["task.past=3", "task.future=2"]
    return [f"model.name={name}", *SHARED, *own, *more]


def words(data: Path, run: Path, asked: Sequence[str]) -> list[str]:
    where = ["--store", data / "WP.zarr", "--split", data / "WP.split.json", "--run", run]
    return [*map(str, where), *(word for setting in asked for word in ("--set", setting))]


def alone(data: Path, run: Path, asked: Sequence[str]) -> Path:
    """The same training in one process: this one."""
    made = settings.located(settings.load(None, asked)[0], data / "WP.zarr", data / "WP.split.json")
    train.train(made, run)
    return run


def both_done(processes: Sequence[Process]) -> None:
    assert [p.ended() for p in processes] == [0] * len(processes), [p.said for p in processes]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / "checkpoints" / "last.ckpt").weights


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The size of the difference, as a share of the size of all weights."""
    assert a.keys() == b.keys()
    one, two = (torch.cat([w[k].double().flatten() for k in a]) for w in (a, b))
    return float((one - two).norm() / one.norm())


def logged(run: Path) -> list[dict[str, float]]:
    """What each line says, but for how fast it was."""
    return [
        {name: value for name, value in line.items() if name != "steps_per_second"}
        for line in read_log(run)
    ]


def assert_alike(one: Path, other: Path, tolerance: float) -> None:
    for line, its in zip(logged(one), logged(other), strict=True):
        assert its == pytest.approx(line, rel=tolerance, abs=1e-6)


# --------------------------------------------------------------------------- the same training


def test_the_processes_shares_hold_other_numbers_of_seen_pixels(data: Path) -> None:
    """Else nobody would notice a mean of means."""
    tracks = [store.open_store(data / "WP.zarr").track(id) for id in ("202101", "202102")]
    of = partial(Loader, tracks, window=3, patch=32, threads=0)
    first, second = (list(of(batch=2, rank=rank, ranks=2).epoch(0)) for rank in (0, 1))
    seen = [[int((~b.isnan()).sum()) for b in batches] for batches in (first, second)]
    assert all(a != b for a, b in zip(*seen, strict=True))
    whole = list(of(batch=4).epoch(0))  # sample by sample the very same batch
    for a, b, all_of_it in zip(first, second, whole, strict=True):
        joined = torch.stack([a, b], 1).flatten(0, 1)
        assert torch.equal(joined.nan_to_num(-1), all_of_it.nan_to_num(-1))


@pytest.mark.parametrize("name", models.names())
def test_two_processes_train_as_one(data: Path, tmp_path: Path, start: Start, name: str) -> None:
    asked = of_model(name, "training.epochs=2")
    both_done(start(words(data, tmp_path / "two", asked), tmp_path / "said"))
    one = alone(data, tmp_path / "one", asked)
    assert len([line for line in logged(one) if "validation/rmse_model" in line]) == 2
    players = len(checkpoint.load(one / "checkpoints/last.ckpt").training["optimizers"])
    assert len([name for name in logged(one)[-2] if name.startswith("player/")]) == players
    assert_alike(one, tmp_path / "two", tolerance=1e-3)
    assert apart(weights(one), weights(tmp_path / "two")) < 1e-3


@pytest.mark.parametrize(
    "more",
    [
        ["training.accumulate=2", "training.clip=0.01"],
        ["training.precision=bf16", "training.clip=0"],
        ["training.crops_per_window=3", "training.batch_size=6", "model.adversarial=hinge"],
    ],
    ids=lambda more: more[0],
)
def test_with_every_recipe(data: Path, tmp_path: Path, start: Start, more: list[str]) -> None:
    asked = of_model("tempogan", "training.epochs=2", *more)
    both_done(start(words(data, tmp_path / "two", asked), tmp_path / "said"))
    one = alone(data, tmp_path / "one", asked)
    tolerance = 0.02 if "training.precision=bf16" in more else 1e-3
    assert_alike(one, tmp_path / "two", tolerance)
