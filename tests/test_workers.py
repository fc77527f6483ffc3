"""One piece of work over many jobs: here and in a pool alike, and no process left behind."""

import importlib
import multiprocessing
import os
import threading
from pathlib import Path
from types import ModuleType

import pytest

from pipeline import workers
from pipeline.errors import UserError
from pipeline.workers import WorkerDied, for_each

ERRANDS = """
import os, signal, time

def square(job, advance):
    for _ in range(job):
        advance()
    return job * job

def fail(job, advance):
    if job == 2:
        raise FileNotFoundError(2, "No such file or directory", "/data/2")
    return job

def die(job, advance):
    if job == 2:
        time.sleep(1)  # the others are done
        os.kill(os.getpid(), signal.SIGKILL)
    return job
"""


@pytest.fixture
def errands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Work that other processes can import."""
    (tmp_path / "errands.py").write_text(ERRANDS)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.reload(importlib.import_module("errands"))


class Bar:
    def __init__(self) -> None:
        self.steps, self.notes = 0, []

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.steps += steps
        self.notes += [note] if note else []


@pytest.mark.parametrize("count", [1, 2])
def test_every_job_is_done_and_counted(errands, count):
    bar = Bar()
    jobs = {str(n): n for n in range(5)}
    done = dict(for_each(errands.square, jobs, bar.advance, count))
    assert done == {"0": 0, "1": 1, "2": 4, "3": 9, "4": 16}
    assert bar.steps == 0 + 1 + 2 + 3 + 4
    assert set(bar.notes) <= set(jobs)


@pytest.mark.parametrize("count", [1, 2])
def test_what_the_work_raises_is_raised_here(errands, count):
    done = []
    with pytest.raises(FileNotFoundError, match="/data/2"):
        done.extend(for_each(errands.fail, {"a": 1, "b": 2, "c": 3}, Bar().advance, count))
    assert count > 1 or done == [("a", 1)]


def test_a_killed_process_is_a_sentence_that_names_what_it_was_at(errands):
    told = (
        r"^a worker process died at one of b(, c)? \(out of memory\?\); "
        r"run the same command again, with fewer --workers$"
    )
    with pytest.raises(WorkerDied, match=told):
        list(for_each(errands.die, {"a": 1, "b": 2, "c": 3, "d": 4}, Bar().advance, 2))


def test_no_jobs_are_no_work(errands):
    assert list(for_each(errands.square, {}, Bar().advance)) == []


def test_as_many_processes_as_this_one_may_use_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert workers.cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert workers.cores() == os.cpu_count()


class EndsItsProcess:
    """A job that ends the process which receives it, as the kernel does when memory is short."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_process_killed_while_it_counts_does_not_hang_the_others(monkeypatch):
    context = multiprocessing.get_context("spawn")
    steps, over = context.Value("q", 0), threading.Event()
    held = threading.Thread(target=lambda: steps.get_lock().acquire() and over.wait())
    held.start()
    told = []

    def work():
        jobs = {"a": EndsItsProcess(), "b": EndsItsProcess()}
        with pytest.raises(UserError, match="a worker process died at one of a, b"):
            list(for_each(abs, jobs, lambda *_: None, 2))
        told.append(True)

    with monkeypatch.context() as patch:
        patch.setattr(context, "Value", lambda *_: steps)
        working = threading.Thread(target=work, daemon=True)
        working.start()
        working.join(20)
        over.set()
        held.join()
    assert told
