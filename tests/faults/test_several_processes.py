"""One of several processes gets a signal to stop, is killed, is frozen or fails: none hangs, and the run goes on."""

import signal
import time
from pathlib import Path

import pytest

from tests.faults.losses import lost_rows, steps_begun
from tests.multi_process.launching import gate
from tests.multi_process.outcomes import assert_same_metrics, last_step, newest_step, rows

STEPS = 6
GO_ON = "the same command goes on from the last checkpoint"


def test_a_signal_to_one_makes_all_save_the_same_step_and_other_numbers_go_on(one_process, start, tmp_path, table):
    """2 x 2 with split parameters, a signal to one process; 1 x 4, a signal to the only one; 4 x 1 to the end."""
    # JAX looks for the signal once a second, in a run of several processes.
    workdir, slow = tmp_path / "run", [{"STEP_SECONDS": "1.5"}]
    stopped = begun = 0
    for processes, devices, overrides, target in ((2, 2, ["--config.mesh.fsdp=4"], 1), (1, 4, [], 0), (4, 1, [], None)):
        with start(workdir, processes, devices, *overrides, environments=slow if target is not None else [{}]) as run:
            if target is not None:
                run.until(lambda least=begun: steps_begun(workdir) > least)
                run.processes[target].send_signal(signal.SIGTERM)
            run.succeed()
        if target is not None:
            before, stopped, begun = stopped, newest_step(workdir), steps_begun(workdir)
            assert before < stopped < STEPS
            line = f"asked to stop: step {stopped} is saved in {workdir}; the same command goes on from there\n"
            assert run.text(0).endswith(line) or line in run.text(0)
            assert last_step(workdir) == stopped
    assert f"resuming {workdir} at step {stopped}" in run.text(0)
    assert_same_metrics(workdir, one_process, 1e-6)
    assert rows(workdir) == rows(one_process)
    outcome = "all save the same step, exit code 0; goes on 2x2, 1x4, 4x1, equal to 1e-6"
    table.add(
        "SIGTERM to one process of several; resumed on another topology",
        outcome,
        lost_steps=[steps_begun(workdir) - STEPS, 0],
        lost_rows=lost_rows(workdir, one_process),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "fault"), [(1, "KILL"), (0, "KILL"), (1, "STOP"), (0, "STOP")])
def test_the_others_end_and_the_run_goes_on(one_process, start, tmp_path, table, victim, fault):
    workdir, heartbeat = tmp_path / "run", 10
    # The other one waits for it in a step.
    gates = [{"GATE_AT": "3"} if process == victim else {} for process in range(2)]
    with start(workdir, 2, 2, environments=gates, heartbeat=heartbeat) as run:
        run.until(lambda: gate(workdir).exists() and last_step(workdir) >= 2)
        run.processes[victim].send_signal(getattr(signal, f"SIG{fault}"))
        began, other = time.monotonic(), 1 - victim
        code = run.processes[other].wait(120)
        assert time.monotonic() - began < 6 * heartbeat
    assert code != 0
    printed = run.text(other)
    assert GO_ON in printed or "another task died" in printed or "coordination service" in printed, printed
    lost = steps_begun(workdir) - newest_step(workdir)
    with start(workdir, 1, 4) as run:
        run.succeed()
    assert_same_metrics(workdir, one_process, 1e-5)
    table.add(
        f"one process of several {'killed' if fault == 'KILL' else 'frozen'}",
        "the others end within six heartbeats (of 10 s); goes on, equal to 1e-5",
        lost_steps=[lost],
        lost_rows=lost_rows(workdir, one_process),
    )


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(one_process, start, tmp_path, table):
    """No process waits for one that has failed."""
    workdir = tmp_path / "run"
    with start(workdir, 2, 2, environments=[{}, {"FAIL_AT": "3"}], heartbeat=30) as run:
        codes = run.wait(240)
    assert all(codes), run.everything()
    assert "error: process 1 of 2 failed (out of luck)" in run.text(1)
    assert GO_ON in run.text(1)
    lost = steps_begun(workdir) - newest_step(workdir)
    with start(workdir, 2, 2) as run:
        run.succeed()
    assert_same_metrics(workdir, one_process, 1e-5)
    outcome = "all end, the one that failed says why; goes on, equal to 1e-5"
    table.add("one process of several fails", outcome, lost_steps=[lost], lost_rows=lost_rows(workdir, one_process))


@pytest.mark.slow
def test_processes_that_load_end_with_the_one_that_trains(start, tmp_path):
    workdir = tmp_path / "run"
    with start(workdir, 1, 4, "--config.data.workers=1", environments=[{"GATE_AT": "2"}]) as run:
        run.until(gate(workdir).exists)
        pid = run.processes[0].pid
        threads = Path(f"/proc/{pid}/task").iterdir()
        children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
        run.processes[0].kill()
        run.processes[0].wait(60)
    assert children
    end = time.monotonic() + 300  # only to end
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < end, children
        time.sleep(0.1)


@pytest.mark.slow
def test_one_run_at_a_time_in_a_workdir(one_process, start, tmp_path, table):
    """The second is refused in all of its processes; after the first is killed it is not."""
    workdir = tmp_path / "run"
    with start(workdir, 1, 4, environments=[{"GATE_AT": "2"}]) as first:
        first.until(gate(workdir).exists)
        with start(workdir, 2, 2) as second:
            codes = second.wait(240)
        assert all(codes), second.everything()
        for process in range(2):
            assert f"error: {workdir} is in use by another run (" in second.text(process)
        assert f"process {first.processes[0].pid} on " in second.text(0)
        first.processes[0].kill()
        first.wait(60)
    lost = steps_begun(workdir) - newest_step(workdir)
    with start(workdir, 2, 2) as third:
        third.succeed()
    assert_same_metrics(workdir, one_process, 1e-5)
    outcome = "refused with one line while the first lives; let in after that was killed"
    table.add("a second run in one workdir", outcome, lost_steps=[lost], lost_rows=lost_rows(workdir, one_process))


@pytest.mark.slow
def test_processes_that_do_not_come(start, tmp_path):
    with start(tmp_path / "run", 2, 2, "--connect_timeout=5") as run:
        run.processes[1].kill()
        code = run.processes[0].wait(120)
    assert code == 1
    assert "did not meet within --connect_timeout=5 s; start all of them" in run.text(0), run.text(0)
