"""Converting on the workers of a dask scheduler: the same bytes, whoever dies on the way."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import cli
from pipeline import cluster, convert, elsewhere, sources, store, store_writer
from pipeline.convert import ConvertSettings, Crew
from pipeline.errors import UserError
from pipeline.sources.synthetic import Storm, write_tree
from pipeline.workers import WorkerDied

distributed = pytest.importorskip("distributed")


def until(true: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.005)


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


class Cluster:
    """A scheduler and its workers, as `dask scheduler` and `dask worker` start them."""

    def __init__(self, home: Path) -> None:
        self.home, self.file = home, home / "scheduler.json"
        self.processes: list[subprocess.Popen] = []
        self.start(
            "scheduler", "--host", "127.0.0.1", "--port", "0",
            "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(self.file),
        )  # fmt: skip
        until(self.file.is_file)
        self.workers = [self.worker(), self.worker()]

    def start(self, kind: str, *words: str) -> subprocess.Popen:
        with (self.home / f"{kind}.{len(self.processes)}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words],
                cwd=self.home,  # not where the tests are: paths must hold anywhere
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def worker(self) -> subprocess.Popen:
        words = ("--nthreads", "1", "--no-nanny", "--no-dashboard")
        return self.start("worker", "--scheduler-file", str(self.file), *words)

    def renew(self) -> None:
        """Another worker for each that ended."""
        self.workers = [w if w.poll() is None else self.worker() for w in self.workers]

    def end(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    yield started
    started.end()


@pytest.fixture
def crew(running: Cluster) -> Cluster:
    running.renew()
    return running


@pytest.fixture(scope="module")
def long_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tracks that take a worker a while."""
    root = tmp_path_factory.mktemp("long") / "raw"
    write_tree(root, [Storm(f"20210{n}", hours=200) for n in range(1, 7)], size=16)
    return root


def converted(root: Path, target: Path, **how) -> convert.Conversion:
    return convert.convert(root, target, ConvertSettings(), manifests=target.parent, **how)


def test_the_same_bytes_as_here(tiny, crew, monkeypatch):
    """Also from a folder that the workers are not in, and where a file is damaged."""
    tiny.track("202101")
    damaged = tiny.track("202102", range(4))[1]
    damaged.write_bytes(damaged.read_bytes()[:1000])
    tiny.table("202101", tiny.rows(range(6)))
    here = converted(tiny.root, tiny.home / "a/S.zarr", workers=1)
    monkeypatch.chdir(tiny.home)
    there = converted(Path("raw"), Path("b/S.zarr"), scheduler=str(crew.file))
    assert contents(tiny.home / "b/S.zarr") == contents(here.store)
    assert there.problems == here.problems
    assert len(there.problems) == 1


@pytest.mark.slow
def test_a_killed_worker_s_track_is_done_by_another(crew, long_release, tmp_path):
    here = converted(long_release, tmp_path / "a/S.zarr", workers=1)
    victim, target = crew.workers[0].pid, tmp_path / "b/S.zarr"
    words = ["convert", str(long_release), str(target), "--scheduler", str(crew.file)]
    at_work = subprocess.Popen(
        [sys.executable, cli.__file__, *words, "--manifest-dir", str(tmp_path / "m")],
        stdout=subprocess.DEVNULL,
    )
    until(lambda: list(target.glob(f".*.{victim}.*.tmp")))
    os.kill(victim, signal.SIGKILL)
    assert at_work.wait(60) == 0
    assert contents(target) == contents(here.store)
    assert {p.name for p in target.iterdir()} == {p.name for p in here.store.iterdir()}


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_too(crew, long_release, tmp_path, monkeypatch):
    here = converted(long_release, tmp_path / "a/S.zarr", workers=1)
    target = tmp_path / "b/S.zarr"

    def interrupted(*_: object) -> None:
        until(lambda: list(target.glob(".*.tmp")))  # others are at work
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "result_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            converted(long_release, target, scheduler=str(crew.file))
    with pytest.raises(UserError, match="interrupted"):
        store.open_store(target)
    until(lambda: not list(target.glob(".*.tmp")), 10)
    before = len(list(target.glob("20*")))
    time.sleep(0.5)
    assert len(list(target.glob("20*"))) == before < 6
    assert len(converted(long_release, target, scheduler=str(crew.file)).reused) == before
    assert contents(target) == contents(here.store)


def test_a_mistake_is_the_same_sentence_as_here(tiny, crew):
    tiny.track()
    damaged = tiny.track("202102", range(4))[1]
    damaged.write_bytes(b"")
    words = ["convert", tiny.root, tiny.home / "S.zarr", "--manifest-dir", tiny.home, "--strict"]
    told = []
    for how in (["--workers", "1"], ["--scheduler", crew.file]):
        result = CliRunner().invoke(cli.app, [str(word) for word in [*words, *how]])
        assert result.exit_code == 1, result.output
        told.append(result.stderr.splitlines()[-1])
    assert "not a readable HDF5 image" in told[0]
    assert told[0] == told[1]


def test_a_disk_that_refuses_a_worker_is_the_same_error_as_here(tiny, crew, monkeypatch):
    tiny.track()
    target = tiny.home / "S.zarr"

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cluster, "result_of", refuse)
    with pytest.raises(OSError, match="No space left") as caught:
        converted(tiny.root, target, scheduler=str(crew.file))
    assert caught.value.filename == str(target)


# who may work


def test_workers_of_another_version_are_refused_before_anything_is_written(tiny, crew, monkeypatch):
    tiny.track()
    target = converted(tiny.root, tiny.home / "S.zarr", workers=1).store
    tiny.write(6)
    before = contents(target)
    monkeypatch.setattr(cluster, "versions", lambda: {"zarr": "99"})
    with pytest.raises(
        UserError, match=r"worker tcp://.*: zarr \d.*, expected 99 as here; install"
    ):
        converted(tiny.root, target, scheduler=str(crew.file))
    monkeypatch.setattr(cluster, "versions", lambda: {"no-such-package": "1"})
    with pytest.raises(UserError, match="no-such-package none, expected 1 as here"):
        converted(tiny.root, target, scheduler=str(crew.file))
    assert contents(target) == before


def test_a_worker_of_another_version_that_comes_late_is_refused_too():
    with pytest.raises(UserError, match=r"worker .*: eddy .*, expected 0\.0\.1 as here"):
        cluster.on_worker({"eddy": "0.0.1"}, abs, 1)
    assert cluster.on_worker(cluster.versions(), lambda job, advance: job + 1, 1) == 2


def unreachable() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


def test_no_scheduler_is_a_sentence_and_touches_nothing(tiny, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.3)
    tiny.track()
    target = converted(tiny.root, tiny.home / "S.zarr", workers=1).store
    tiny.write(6)
    before = contents(target)
    (tiny.home / "text").write_text("[]")
    for scheduler, told in {
        unreachable(): r"tcp://.*: no dask scheduler answers \(Timed out .*; start one with",
        "foo://x:1": "no dask scheduler answers .*unknown address scheme 'foo'",
        str(tiny.home / "none.json"): "no such scheduler file; expected one that",
        str(tiny.home / "text"): "not a scheduler file of dask: no address in it",
    }.items():
        with pytest.raises(UserError, match=told):
            converted(tiny.root, target, scheduler=scheduler)
        with pytest.raises(UserError, match=told):
            converted(tiny.root, tiny.home / "new.zarr", scheduler=scheduler)
    assert contents(target) == before
    assert not (tiny.home / "new.zarr").exists()


def test_without_dask_there_is_a_way_to_it(tiny, monkeypatch):
    tiny.track()
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"pip install 'eddy\[cluster\]'"):
        converted(tiny.root, tiny.home / "S.zarr", scheduler="tcp://127.0.0.1:1")
    assert not (tiny.home / "S.zarr").exists()


def test_workers_and_a_scheduler_are_two_ways(tiny):
    words = ["convert", str(tiny.root), "--workers", "2", "--scheduler", "tcp://x:1"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2
    assert "give that or --scheduler" in result.stderr


# what may go wrong on the way, without waiting for it


class Client(SimpleNamespace):
    scheduler = SimpleNamespace(address="tcp://x:1")


def failed(error: BaseException) -> SimpleNamespace:
    def result() -> None:
        raise error

    return SimpleNamespace(result=result)


def test_a_track_that_ends_every_worker_is_a_sentence():
    worker = SimpleNamespace(address="tcp://y:2")
    error = distributed.scheduler.KilledWorker("key", worker, 3)
    with pytest.raises(WorkerDied, match="202101: 4 workers died of it, the last at tcp://y:2"):
        cluster.result_of(failed(error), "202101", Client())


@pytest.mark.parametrize(
    "error",
    [distributed.CancelledError("key"), distributed.comm.CommClosedError("closed")],
)
def test_a_lost_scheduler_is_a_sentence(error):
    with pytest.raises(UserError, match="tcp://x:1: the connection to the dask scheduler is lost"):
        cluster.result_of(failed(error), "202101", Client())


def test_a_defect_is_raised_as_it_is_unless_versions_explain_it(monkeypatch):
    client = Client(run=lambda *_, **__: {"tcp://y:2": "0.0.1"})
    with pytest.raises(UserError, match=r"worker tcp://y:2: eddy 0\.0\.1, expected"):
        cluster.result_of(failed(AttributeError("no such name")), "202101", client)
    client = Client(run=lambda *_, **__: {"tcp://y:2": OSError("just died")})
    with pytest.raises(AttributeError, match="no such name"):
        cluster.result_of(failed(AttributeError("no such name")), "202101", client)


def test_no_workers_are_told_of_and_not_waited_for_for_ever(monkeypatch):
    notes = []
    nobody = Client(nthreads=dict)
    assert cluster.nobody_works(nobody, time.monotonic(), lambda n, note: notes.append(note))
    assert notes == ["no worker is at tcp://x:1 yet"]
    with pytest.raises(UserError, match="no worker for 10 minutes; start some with `dask worker"):
        cluster.nobody_works(nobody, time.monotonic() - 601, lambda *_: None)
    somebody = Client(nthreads=lambda: {"tcp://y:2": 1})
    assert not cluster.nobody_works(somebody, 0, lambda *_: None)


@pytest.mark.slow
def test_a_scheduler_without_workers_waits_for_them(tiny, crew, monkeypatch):
    for worker in crew.workers:
        worker.kill()
        worker.wait()
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(cluster, "IDLE_SECONDS", 0.3)
    tiny.track()
    with pytest.raises(UserError, match="no worker for"):
        converted(tiny.root, tiny.home / "S.zarr", scheduler=str(crew.file))
    monkeypatch.setattr(cluster, "IDLE_SECONDS", 60)
    monkeypatch.setattr(cluster, "nobody_works", lambda *_: crew.renew() or True)
    assert converted(tiny.root, tiny.home / "S.zarr", scheduler=str(crew.file)).triplets == 4


# one track, two machines


@pytest.fixture
def job(tiny, monkeypatch) -> convert.Job:
    monkeypatch.setattr(elsewhere, "SEEN_SECONDS", 0)
    tiny.track()
    release = sources.scan(tiny.root)
    return convert.plan(release, tiny.home / "S.zarr", ConvertSettings(), False)[0][0]


def test_a_worker_that_sees_another_store_says_so(job):
    with pytest.raises(UserError, match=r"does not see this conversion at .*S.zarr; expected"):
        elsewhere.convert_elsewhere(1, job, lambda *_: None)
    assert not job.store.exists()
    later = store_writer.begin(job.store) + 1
    with pytest.raises(UserError, match="does not see this conversion"):
        elsewhere.convert_elsewhere(later, job, lambda *_: None)


def test_a_task_that_comes_too_late_does_not_wait(job, monkeypatch):
    monkeypatch.setattr(elsewhere, "SEEN_SECONDS", 60)
    mark = store_writer.begin(job.store)
    assert store_writer.begin(job.store) > mark
    with pytest.raises(UserError, match="this conversion was stopped"):
        elsewhere.convert_elsewhere(mark, job, lambda *_: None)


def test_marks_grow_though_clocks_go_back(tmp_path, monkeypatch):
    mark = store_writer.begin(tmp_path)
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    assert store_writer.begin(tmp_path) == mark + 1


def test_a_worker_that_sees_other_files_says_so(job, tiny):
    mark = store_writer.begin(job.store)
    tiny.path(2).unlink()
    with pytest.raises(UserError, match=r"sees other files of 202101 .* share, under one path"):
        elsewhere.convert_elsewhere(mark, job, lambda *_: None)
    assert not (job.store / "202101").exists()


def test_a_track_done_by_a_worker_that_was_lost_is_not_done_again(job, monkeypatch):
    mark = store_writer.begin(job.store)
    record = elsewhere.convert_elsewhere(mark, job, lambda *_: None)
    before = (job.store / "202101").stat().st_ino
    monkeypatch.setattr(elsewhere, "convert_track", None)
    assert elsewhere.convert_elsewhere(mark, job, lambda *_: None) == record
    assert (job.store / "202101").stat().st_ino == before


@pytest.mark.parametrize("after", [0, 3, 5])
def test_a_worker_of_a_conversion_that_was_stopped_stops(job, monkeypatch, after):
    mark = store_writer.begin(job.store)
    track, frames = elsewhere.convert_track, []

    def convert_track(job, advance):
        def counted(*_: object) -> None:
            frames.append(1)
            if len(frames) == after:
                store_writer.begin(job.store)
            advance()

        if not after:
            store_writer.begin(job.store)
        return track(job, counted)

    monkeypatch.setattr(elsewhere, "convert_track", convert_track)
    with pytest.raises(UserError, match="this conversion was stopped"):
        elsewhere.convert_elsewhere(mark, job, lambda *_: None)
    assert len(frames) == max(1, after)
    assert [p.name for p in job.store.iterdir()] == ["zarr.json"]


def test_tracks_are_waited_for_until_this_machine_sees_them(job, monkeypatch):
    with pytest.raises(UserError, match="202101: a worker wrote it, but it is not here"):
        elsewhere.await_tracks(job.store, [job])
    monkeypatch.setattr(elsewhere, "SEEN_SECONDS", 10)
    seen = iter([False, False, True])
    monkeypatch.setattr(elsewhere, "is_done", lambda *_: next(seen))
    elsewhere.await_tracks(job.store, [job])
    assert list(seen) == []


def test_a_crew_is_of_this_machine_unless_told():
    assert Crew() == Crew(workers=None, scheduler=None)


def test_the_page_on_clusters_names_options_that_exist(crew):
    """docs/CLUSTER.md shows commands; each of their options is one of `dask`."""
    page = (Path(cli.__file__).parent / "docs" / "CLUSTER.md").read_text()
    for kind in ("scheduler", "worker"):
        told = subprocess.run(
            [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        lines = re.findall(rf"dask {kind}((?: (?:[^\n`\\]|\\\n)+)?)", page)
        options = {word for line in lines for word in re.findall(r"--[a-z-]+", line)}
        assert options, kind
        assert {option for option in options if option not in told} == set()
    assert json.loads(crew.file.read_text())["address"].startswith("tcp://")
