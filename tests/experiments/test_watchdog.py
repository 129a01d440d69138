"""The watchdog: says where a wait hangs, once, and is silent otherwise."""

import threading
import time

import pytest

from experiments import distributed
from experiments.watchdog import Watchdog


@pytest.fixture
def watchdog():
    one = Watchdog(0.3, 0.0)
    yield one
    one.close()


def printed_by(capsys, seconds):
    time.sleep(seconds)
    return capsys.readouterr().err


def test_a_stalled_source_is_named_with_its_line(watchdog, capsys):
    gate = threading.Event()

    def source_that_blocks():
        while not gate.is_set():
            time.sleep(0.01)

    reader = threading.Thread(target=source_that_blocks, name="reader")
    reader.start()
    with watchdog.waiting("waiting for the batch of step 7"):
        report = printed_by(capsys, 1.0)
    gate.set()
    reader.join()
    assert report.startswith("waiting for the batch of step 7 has lasted 0 s; the threads at work:\n")
    assert "  reader:\n" in report and "source_that_blocks: time.sleep(0.01)" in report
    assert "test_a_stalled_source" in report and report.count("has lasted") == 1


def test_what_moves_or_is_not_marked_is_not_reported(watchdog, capsys):
    def slowly():
        for item in range(6):
            time.sleep(0.1)
            yield item

    assert list(watchdog.each(slowly(), "items")) == list(range(6))
    assert printed_by(capsys, 0.8) == ""  # such as an evaluation, a checkpoint
    with watchdog.waiting("step 1", patience=10):  # compiled first
        assert printed_by(capsys, 0.8) == ""


def test_a_wait_of_one_process_of_several_ends_it(monkeypatch):
    ended, said = threading.Event(), []

    def end(line):
        said.append(line)
        ended.set()
        time.sleep(600)

    monkeypatch.setattr(distributed, "are_many", lambda: True)
    monkeypatch.setattr(distributed, "end", end)
    one = Watchdog(0.0, 0.3)
    with one.waiting("step 3", patience=10):
        assert ended.wait(60)
    one.close()
    assert said[0].startswith("error: step 3 has lasted 0 s, more than train.stall_end; this process ends")


def test_one_process_alone_and_a_compilation_are_never_ended(monkeypatch):
    ended = []
    monkeypatch.setattr(distributed, "end", ended.append)
    one = Watchdog(0.0, 0.1)
    with one.waiting("step 3"):
        time.sleep(0.6)
    monkeypatch.setattr(distributed, "are_many", lambda: True)
    with one.waiting("compiling step 3", ends=False):
        time.sleep(0.6)
    one.close()
    assert not ended
