"""Ctrl-C and SIGTERM: answered at once, whatever comes of them."""

from __future__ import annotations

import os
import pty
import signal
import threading

import pytest
import typer

from pipeline import interrupts
from pipeline.commands.screen import stoppable
from pipeline.interrupts import Terminated, terminable, told_to_stop

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_who_is_told_to_stop_says_so_at_once_and_once(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    other = signal.SIGTERM if number != signal.SIGTERM else signal.SIGINT
    with told_to_stop("Stopping after this step") as stopping:
        assert not stopping()
        os.kill(os.getpid(), number)
        assert capfd.readouterr() == ("", "Stopping after this step\n")
        assert stopping()
        os.kill(os.getpid(), other)
        assert capfd.readouterr() == ("", "")


def test_a_second_one_stops_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with told_to_stop():
        os.kill(os.getpid(), signal.SIGINT)
        assert "Ctrl-C again stops at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_one_of_several_processes_speaks(capfd: pytest.CaptureFixture[str]) -> None:
    with told_to_stop("") as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_what_is_ended_by_a_signal_says_so_first(
    number: signal.Signals, kind: type, capfd: pytest.CaptureFixture[str]
) -> None:
    with terminable():
        with pytest.raises(KeyboardInterrupt) as raised:
            os.kill(os.getpid(), number)
        assert raised.type is kind
        assert capfd.readouterr().err == f"{interrupts.ENDING}\n"
        with pytest.raises(kind):  # while it cleans up
            os.kill(os.getpid(), number)
        assert capfd.readouterr().err == ""


def test_another_process_of_a_training_ends_without_a_word(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank, said in ("0", "Stopping ...\nStopped: go on so\n"), ("1", ""):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(typer.Exit) as ended, stoppable("go on so"):
            os.kill(os.getpid(), signal.SIGTERM)
        assert ended.value.exit_code == 143
        assert capfd.readouterr().err == said


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with terminable(), terminable(), told_to_stop():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_that_is_ignored_stays_so(capfd: pytest.CaptureFixture[str]) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr() == ("", "")


def test_another_thread_asks_for_no_signals() -> None:
    went: list[bool] = []

    def work() -> None:
        with terminable():
            went.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert went


def test_on_a_terminal_it_takes_the_place_of_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = pty.openpty()
    monkeypatch.setattr(interrupts, "STDERR", terminal)
    interrupts.tell("Stopping")
    assert os.read(main, 100) == b"\r\x1b[KStopping\r\n"
    os.close(terminal)
    interrupts.tell("Stopping")  # nobody reads it any more: it is no reason to fail
    os.close(main)
