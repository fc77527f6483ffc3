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
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

import models
from pipeline import checkpoint, engine, settings, store, train
from pipeline.errors import UsageError, UserError
from pipeline.loader import Loader
from pipeline.runlog import read_log
from pipeline.settings import TrainSettings
from pipeline.sources.synthetic import MISSING

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
# A gradient that is nothing but rounding (a verdict's bias, of which truth and what is made ask the
# opposite) makes Adam step by the whole rate: tempogan's discriminators are given a small one.
GENTLY = "training.lr_of={discriminators: 1e-6}"
# Everything takes part, discriminators from the third step on. Without what is each process's own:
# batch norm, of which a CPU's sees its share of the batch (pastnet's residual blocks), and codes
# that are revived from the first process's vectors alone.
OF_MODEL = {
    "tempogan": [
        "n_residual_blocks=1", "width=8", "warmup_steps=2", "r1_gamma=1", "r1_every=2",
        "rest_above=0.003",
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
    server.kill()  # nothing of it is wanted any more, and to end by itself takes it seconds
    server.communicate()


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
def data(make_data: Callable[..., Path]) -> Path:
    """With pixels missing."""
    return make_data(storms=3, hours=10, size=48, damage=lose_columns)


def lose_columns(file: Path) -> None:
    """In some hours more, in others less."""
    hour = int(file.name[8:10])
    if hour in (2, 5, 6):
        with h5py.File(file, "a") as opened:
            (pixels,) = (item for item in opened.values() if item.ndim == 2)
            pixels[:, 10 : 10 + 4 * hour] = MISSING


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
        norms = {name for name in line if name.startswith("grad_norm/")}
        rest = {name: value for name, value in line.items() if name not in norms}
        assert {name: its[name] for name in rest} == pytest.approx(rest, rel=tolerance, abs=1e-6)
        for name in norms:
            assert its[name] == pytest.approx(line[name], rel=10 * tolerance, abs=1e-5)
        assert its.keys() == line.keys()


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


def gently(name: str) -> list[str]:
    return [GENTLY] if name == "tempogan" else []


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow) if n in ("pastnet", "simvp", "srgan") else n
        for n in models.names()
    ],
)
def test_two_processes_train_as_one(data: Path, tmp_path: Path, start: Start, name: str) -> None:
    asked = of_model(name, "training.epochs=2", *gently(name))
    two = start(words(data, tmp_path / "two", asked), tmp_path / "said")
    one = alone(data, tmp_path / "one", asked)
    both_done(two)
    lines = [line for line in logged(one) if "validation/rmse_model" not in line]
    assert len(lines) >= 4
    assert len(logged(one)) == len(lines) + 2  # validated after each epoch
    players = checkpoint.load(one / "checkpoints" / "last.ckpt").training["optimizers"]
    assert {f"grad_norm/{player}" for player in players} <= lines[-1].keys()
    assert_alike(one, tmp_path / "two", tolerance=1e-4)
    assert apart(weights(one), weights(tmp_path / "two")) < 1e-5
    assert not two[1].said  # one of them speaks for both
    assert "grad" not in two[0].said


@pytest.mark.slow
def test_accumulated_and_clipped(data: Path, tmp_path: Path, start: Start) -> None:
    """The norm that is clipped is that of the whole batch's gradient; and discriminators rest."""
    more = ["training.accumulate=2", "training.clip=0.001", "training.crops_per_window=2"]
    asked = of_model("tempogan", "training.epochs=2", "training.lr=1e-2", *more, GENTLY)
    two = start(words(data, tmp_path / "two", asked), tmp_path / "said")
    one = alone(data, tmp_path / "one", asked)
    both_done(two)
    assert_alike(one, tmp_path / "two", tolerance=1e-4)
    lines = [line for line in logged(one) if "grad_norm/generator" in line]
    assert len(lines) == 8
    assert all(line["grad_norm/generator"] > 0.001 for line in lines)
    # Found 6e-5: gradients clipped to so little differ more by rounding, and Adam makes it steps
    assert apart(weights(one), weights(tmp_path / "two")) < 5e-4


# ------------------------------------------------------------------------------ stop and resume

AT_STEP = """
import os, signal
from pipeline import trainer

real, seen = trainer.update, []

def counted(*args):
    seen.append(1)
    made = real(*args)
    if len(seen) == {step}:
        {then}
    return made

trainer.update = counted
"""


def at_step(step: int, then: str) -> str:
    """Python for one process: what is to happen in that step, counted from the start."""
    return AT_STEP.format(step=step, then=then)


def by_rank(rank: int, text: str) -> list[str]:
    return ["", text] if rank else [text, ""]


@pytest.fixture(scope="module")
def whole(data: Path, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes' run of 4 epochs of 4 steps that nobody interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    both_done(start(words(data, run, of_model("srgan")), run.with_name("said")))
    return run


def position(run: Path) -> dict[str, Any]:
    state = checkpoint.load(run / "checkpoints" / "last.ckpt").training
    assert len(state["random"]) == 2  # of each process
    return state["position"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("told", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_one_is_told_to_stop_and_all_do(
    data: Path, tmp_path: Path, start: Start, whole: Path, told: int
) -> None:
    """In step 9 of one process; both notice it at the tenth, in the middle of an epoch."""
    run, asked = tmp_path / "run", of_model("srgan")
    stop = at_step(9, "os.kill(os.getpid(), signal.SIGTERM)")
    both_done(start(words(data, run, asked), tmp_path / "first", before=by_rank(told, stop)))
    assert position(run)["step"] == train.AGREED_EVERY
    assert position(run)["batch"] % 4
    both_done(start([*words(data, run, asked), "--resume"], tmp_path / "second"))
    assert position(run) == position(whole)
    assert same(weights(run), weights(whole))
    assert logged(run) == logged(whole)


@pytest.mark.slow
def test_what_two_began_one_ends_and_the_other_way_round(
    data: Path, tmp_path: Path, start: Start
) -> None:
    asked = of_model("srgan")
    stop = at_step(10, "os.kill(os.getpid(), signal.SIGTERM)")
    one = start(words(data, tmp_path / "one", asked), tmp_path / "1", count=1, before=[stop])
    two = start(words(data, tmp_path / "two", asked), tmp_path / "2", before=[stop])
    reference = alone(data, tmp_path / "reference", asked)
    both_done([*one, *two])
    again = start([*words(data, tmp_path / "one", asked), "--resume"], tmp_path / "3")
    made = settings.load(None, asked, settings.of_run(tmp_path / "two"))[0]
    assert train.train(made, tmp_path / "two", resume=True).position.step == 16
    both_done(again)
    for run in (tmp_path / "one", tmp_path / "two"):
        assert apart(weights(run), weights(reference)) < 1e-5
        assert_alike(reference, run, tolerance=1e-4)


# -------------------------------------------------------------------------------- sudden ends


HALF = """
whole = trainer.checkpoint.torch.save

def half(plain, file, **more):
    if more:  # not a checkpoint, but a tensor on its way to another process
        return whole(plain, file, **more)
    open(file, "wb").write(b"PK")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_kill_9_of_one_ends_the_other(
    data: Path, tmp_path: Path, start: Start, whole: Path, killed: int
) -> None:
    """The first while it writes a checkpoint, the second in a step."""
    run, asked = tmp_path / "run", of_model("srgan")
    checkpoints = "training.checkpoint_every_steps=5"
    kill = at_step(7, "os.kill(os.getpid(), signal.SIGKILL)")
    if not killed:
        write = "trainer.checkpoint.torch.save = half"
        kill = at_step(10, write) + HALF
    both = start(
        words(data, run, [*asked, checkpoints]), tmp_path / "first", before=by_rank(killed, kill)
    )
    assert both[killed].ended() == -signal.SIGKILL
    since = time.monotonic()
    assert both[1 - killed].ended() == 1
    assert time.monotonic() - since < 15
    assert "Traceback" not in both[0].said
    assert "Traceback" not in both[1].said
    if killed:
        assert both[0].said.count("Error:") == 1
        assert "run the same command again with --resume" in both[0].said
    assert position(run)["step"] == (5 if killed else 8)
    both_done(start([*words(data, run, asked), "--resume"], tmp_path / "second"))
    assert {p.name for p in (run / "checkpoints").iterdir()} == {
        "best.ckpt", "last.ckpt", "previous.ckpt",
    }  # fmt: skip
    assert same(weights(run), weights(whole))


def test_what_is_no_number_is_told_once(data: Path, tmp_path: Path, start: Start) -> None:
    """By the first process, though only the second one saw it."""
    run = tmp_path / "run"
    asked = of_model("st_rainnet", "training.log_every_steps=1000", "training.patch_size=16")
    bad = at_step(2, "made.parts['content'] = made.parts['content'] * float('nan')")
    both = start(words(data, run, asked), tmp_path / "said", before=["", bad])
    assert [process.ended() for process in both] == [1, 1]
    assert both[0].said.count("Error:") == 1
    assert "loss/content is no longer finite at step 2 (of the windows 20210" in both[0].said
    assert "Traceback" not in both[0].said
    assert not both[1].said
    assert not (run / "checkpoints").exists()


def test_a_disk_that_refuses_is_told_once(data: Path, tmp_path: Path, start: Start) -> None:
    """By the first process; the others do not wait for what it never wrote."""
    full = """
import errno
from pipeline import trainer

def full(path, state):
    raise OSError(errno.ENOSPC, "No space left on device", str(path))

trainer.checkpoint.save = full
"""
    asked = of_model("st_rainnet", "training.patch_size=16")
    both = start(words(data, tmp_path / "run", asked), tmp_path / "said", before=[full, ""])
    assert [process.ended() for process in both] == [1, 1]
    assert both[0].said.count("Error:") == 1
    assert "no space left on device" in both[0].said
    assert not both[1].said


# ---------------------------------------------------------------------------------- refusals


def test_what_cannot_be_shared_is_one_sentence(data: Path, tmp_path: Path, start: Start) -> None:
    asked = of_model("st_rainnet", "training.batch_size=3")
    both = start(words(data, tmp_path / "run", asked), tmp_path / "said")
    assert [process.ended() for process in both] == [1, 1]
    assert both[0].said.splitlines()[-1] == (  # there is a note on storms that are mirrored
        "Error: training.batch_size 3 cannot be shared among 2 devices; use a multiple of that"
    )
    assert not both[1].said
    assert not (tmp_path / "run").exists()


def test_another_number_than_torchrun_s_is_refused(
    data: Path, tmp_path: Path, start: Start
) -> None:
    asked = of_model("st_rainnet", "training.devices=4")
    both = start(words(data, tmp_path / "run", asked), tmp_path / "said")
    assert [process.ended() for process in both] == [2, 2]
    assert both[0].said.strip() == (
        "Error: training.devices is 4, but torchrun or SLURM started 2 processes here; leave it out"
    )
    assert not (tmp_path / "run").exists()


def test_devices_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    several = TrainSettings(device="cuda:1", devices=2)
    with pytest.raises(UserError, match="no such GPU here"):
        engine.make_fabric(several)
    monkeypatch.setattr(checkpoint, "usable_device", torch.device)
    with pytest.raises(UsageError, match=r"cuda:1 is one GPU, and training.devices is 2; use cuda"):
        engine.make_fabric(several)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"devices is 2, and this machine has 1 GPU"):
        engine.make_fabric(several.model_copy(update={"device": "cuda"}))


@pytest.mark.slow
def test_a_run_named_after_the_time_is_one_folder(data: Path, tmp_path: Path, start: Start) -> None:
    """Though one process asks the clock later than the other."""
    where = f"import os, time; os.chdir({str(tmp_path)!r})"
    asked = of_model("st_rainnet", "training.epochs=1", "training.patch_size=16")
    without = words(data, tmp_path, asked)
    place = without.index("--run")
    without[place : place + 2] = []
    both_done(start(without, tmp_path / "said", before=[where, f"{where}; time.sleep(1.2)"]))
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "checkpoints" / "last.ckpt").is_file()


# ------------------------------------------------------------------------------ the launchers

CLI = [sys.executable, str(ROOT / "cli.py"), "train"]
TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
    "--",  # else it takes --run for one of its own
    str(ROOT / "cli.py"), "train",
]  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300"}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["its own", "torchrun"])
def test_launched_as_a_person_does(data: Path, tmp_path: Path, whole: Path, launcher: str) -> None:
    """The very weights of processes that were given torchrun's variables."""
    run, asked = tmp_path / "run", of_model("srgan")
    own = launcher == "its own"
    command = CLI if own else TORCHRUN
    devices = ["training.devices=2"] if own else []
    done = subprocess.run(
        [*command, *words(data, run, [*asked, *devices])],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("16 steps, 4 epochs") == 1
    assert "Traceback" not in done.stderr
    assert same(weights(run), weights(whole))
    assert logged(run) == logged(whole)
    assert json.loads((run / "about.json").read_text())["devices"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["first", "second"])
def test_kill_9_where_it_launched_the_other_itself(data: Path, tmp_path: Path, killed: str) -> None:
    run = tmp_path / "run"
    asked = [*of_model("st_rainnet"), "training.devices=2", "training.checkpoint_every_steps=5"]
    process = subprocess.Popen(
        [*CLI, *words(data, run, [*asked, "training.epochs=100000"])],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    last = run / "checkpoints" / "last.ckpt"
    until = time.monotonic() + SOON
    while not last.exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    (child,) = map(
        int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    )
    os.kill(process.pid if killed == "first" else child, signal.SIGKILL)
    since = time.monotonic()
    _, said = process.communicate(timeout=SOON)
    while running(child):
        assert time.monotonic() < since + 15
        time.sleep(0.05)
    assert time.monotonic() - since < 15
    assert process.returncode == (-signal.SIGKILL if killed == "first" else 1)
    assert "Traceback" not in said
    if killed == "second":
        assert said.count("Error:") == 1
    epoch = checkpoint.load(last).training["position"]["epoch"]
    made = settings.load(
        None, [f"training.epochs={epoch + 1}", "training.devices=1"], settings.of_run(run)
    )[0]
    assert train.train(made, run, resume=True).position.epoch == epoch + 1


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
