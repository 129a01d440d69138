"""Faults of a run of several processes: one is killed or freezes, an input blocks, two runs share a workdir."""

import signal
import time
from pathlib import Path

import pytest

from tests.multi_process.conftest import assert_same_figures, last_step

pytestmark = pytest.mark.slow
GO_ON = "the same command goes on from the last checkpoint"


@pytest.mark.parametrize(("victim", "fault"), [(1, "KILL"), (0, "KILL"), (1, "STOP"), (0, "STOP")])
def test_the_others_end_and_the_run_goes_on(one_process, start, tmp_path, victim, fault):
    workdir, heartbeat = tmp_path / "run", 10
    with start(workdir, 2, 2, environments=[{"STEP_SECONDS": "1"}], heartbeat=heartbeat) as run:
        run.until(lambda: last_step(workdir) >= 2)
        run.processes[victim].send_signal(getattr(signal, f"SIG{fault}"))
        began, other = time.monotonic(), 1 - victim
        code = run.processes[other].wait(120)
        assert time.monotonic() - began < 6 * heartbeat
    assert code != 0
    said = run.text(other)
    assert GO_ON in said or "another task died" in said or "coordination service" in said, said
    with start(workdir, 1, 4) as run:
        run.succeed()
    assert_same_figures(workdir, one_process, 1e-5)


def test_an_error_of_one_process_ends_all(start, tmp_path):
    """Nobody waits for a process that has failed."""
    workdir = tmp_path / "run"
    with start(workdir, 2, 2, environments=[{}, {"FAIL_AT": "3"}], heartbeat=30) as run:
        codes = run.wait(240)
    assert all(codes), run.everything()
    assert "error: process 1 of 2 failed (out of luck)" in run.text(1)
    assert GO_ON in run.text(1)


def test_a_source_that_blocks_is_reported_and_ends_the_run(start, tmp_path):
    stall = ("--config.train.stall_report=2", "--config.train.stall_end=10")
    with start(tmp_path / "run", 2, 2, *stall, environments=[{}, {"BLOCK_AT": "4"}]) as run:
        codes = run.wait(240)
    assert all(codes), run.everything()
    report = run.text(1)
    assert "process 1: waiting for the batch of step 5 has lasted" in report
    assert "recorded_pretrain.py" in report and "time.sleep(1000)" in report
    assert "more than train.stall_end; this process ends, and with it the run" in report
    assert GO_ON in report


def test_processes_that_load_end_with_the_one_that_trains(start, tmp_path):
    workdir = tmp_path / "run"
    with start(workdir, 1, 4, "--config.data.workers=1", environments=[{"STEP_SECONDS": "20"}]) as run:
        run.until(lambda: last_step(workdir) >= 1)
        pid = run.processes[0].pid
        threads = Path(f"/proc/{pid}/task").iterdir()
        children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
        run.processes[0].kill()
        run.processes[0].wait(60)
    assert children
    end = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < end, children
        time.sleep(0.1)


def test_one_run_at_a_time_in_a_workdir(start, tmp_path):
    """The second is refused in all of its processes; after the first is killed it is not."""
    workdir = tmp_path / "run"
    with start(workdir, 1, 4, environments=[{"STEP_SECONDS": "20"}]) as first:
        first.until(lambda: last_step(workdir) >= 1)
        with start(workdir, 2, 2) as second:
            codes = second.wait(240)
        assert all(codes), second.everything()
        for process in range(2):
            assert f"error: {workdir} is in use by another run (" in second.text(process)
        assert f"process {first.processes[0].pid} on " in second.text(0)
        first.processes[0].kill()
        first.wait(60)
    with start(workdir, 2, 2) as third:
        third.succeed()


def test_processes_that_do_not_come(start, tmp_path):
    with start(tmp_path / "run", 2, 2, "--connect_timeout=5") as run:
        run.processes[1].kill()
        code = run.processes[0].wait(120)
    assert code == 1
    assert "did not meet within --connect_timeout=5 s; start all of them" in run.text(0), run.text(0)
