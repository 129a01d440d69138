"""The watchdog: it reports once where a wait hangs, and is silent otherwise."""

import re
import threading
import time

import pytest

from experiments.resilience import distributed
from experiments.resilience.watchdog import Watchdog

LIMIT = 40.0  # seconds of the clock that a test sets


class Clock:
    """A clock that stands still until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def watchdog_without_thread(clock, report_after=0.0, end_after=0.0):
    """A watchdog whose thread has ended: it looks when a test calls `look`."""
    one = Watchdog(report_after, end_after, clock)
    one.close()
    one._thread.join()
    return one


def test_a_stalled_source_is_named_with_its_line(capsys):
    """By the thread, on the clock of the machine."""
    gate, one, report = threading.Event(), Watchdog(0.1, 0.0), ""

    def source_that_blocks():
        while not gate.is_set():
            time.sleep(0.01)

    reader = threading.Thread(target=source_that_blocks, name="reader")
    reader.start()
    deadline = time.monotonic() + 120  # only to end: what is waited for takes a moment
    with one.waiting("waiting for the batch of step 7"):
        while "has lasted" not in report and time.monotonic() < deadline:
            time.sleep(0.01)
            report += capsys.readouterr().err
        one.close()
        one._thread.join()
    gate.set()
    reader.join()
    report += capsys.readouterr().err
    assert re.match(r"waiting for the batch of step 7 has lasted \d+ s; the threads at work:\n", report)
    assert "  reader:\n" in report and "source_that_blocks: time.sleep(0.01)" in report
    assert "test_a_stalled_source" in report


def test_a_wait_is_reported_once_and_the_next_one_again(clock, capsys):
    one = watchdog_without_thread(clock, LIMIT)
    for _ in range(2):
        with one.waiting("step 1"):
            clock.now += LIMIT - 1
            one.look()
            assert capsys.readouterr().err == ""
            clock.now += 1
            one.look()
            assert capsys.readouterr().err.startswith("step 1 has lasted 40 s; the threads at work:\n")
            clock.now += 10 * LIMIT
            one.look()
            assert capsys.readouterr().err == ""


def test_what_moves_or_is_not_marked_is_not_reported(clock, capsys):
    one = watchdog_without_thread(clock, LIMIT)

    def slowly():
        for item in range(6):
            clock.now += LIMIT - 1
            one.look()
            yield item

    assert list(one.each(slowly(), "items")) == list(range(6))
    clock.now += 10 * LIMIT  # such as an evaluation, a checkpoint
    one.look()
    with one.waiting("step 1", patience=10):  # compiled first
        clock.now += 10 * LIMIT - 1
        one.look()
        assert capsys.readouterr().err == ""
        clock.now += 1
        one.look()
    assert "step 1 has lasted 400 s" in capsys.readouterr().err


def test_each_item_that_is_late_is_reported(clock, capsys):
    one = watchdog_without_thread(clock, LIMIT)

    def late():
        clock.now += LIMIT
        one.look()
        yield

    assert list(one.each(late(), "items")) == [None]
    assert capsys.readouterr().err.startswith("items has lasted 40 s; the threads at work:\n")


@pytest.fixture
def ended(monkeypatch):
    """The last lines of processes of several that end themselves."""
    lines = []
    monkeypatch.setattr(distributed, "are_many", lambda: True)
    monkeypatch.setattr(distributed, "end", lines.append)
    return lines


def test_a_wait_of_one_process_of_several_ends_it(clock, ended):
    one = watchdog_without_thread(clock, end_after=LIMIT)
    with one.waiting("step 3", patience=10):
        clock.now += LIMIT - 1
        one.look()
        assert not ended
        clock.now += 1
        one.look()
    (line,) = ended
    assert line.startswith("error: step 3 has lasted 40 s, more than train.stall_end; this process ends")


def test_one_process_alone_and_a_compilation_are_never_ended(clock, ended, monkeypatch, capsys):
    one = watchdog_without_thread(clock, end_after=LIMIT)
    with one.waiting("compiling step 3", ends=False):
        clock.now += 100 * LIMIT
        one.look()
    monkeypatch.setattr(distributed, "are_many", lambda: False)
    with one.waiting("step 3"):
        clock.now += 100 * LIMIT
        one.look()
    assert not ended and capsys.readouterr().err == ""


def test_without_limits_no_thread_looks():
    assert Watchdog(0.1, 0.0)._thread.is_alive()
    assert not Watchdog(0.0, 0.0)._thread.is_alive()
