"""A source that blocks: a report says where within a minute, and a run of several processes ends."""

import re

import pytest

from tests.faults.losses import steps_begun
from tests.multi_process.outcomes import last_step, newest_step

pytestmark = pytest.mark.slow
GO_ON = "the same command goes on from the last checkpoint"
FAULT = "a source that blocks"
OUTCOME = "the line of code where it waits is printed within a minute; several processes end after train.stall_end"


def test_it_is_reported_within_a_minute_as_configured(start, tmp_path, table):
    """Nothing is set: the report that every run gives."""
    workdir = tmp_path / "run"
    with start(workdir, 1, 4, environments=[{"BLOCK_AT": "2"}]) as run:
        run.until(lambda: last_step(workdir) >= 1)
        run.until(lambda: "has lasted" in run.text(0))
        lost = steps_begun(workdir) - newest_step(workdir)
    assert re.search(r"waiting for the batch of step 3 has lasted [45]\d s; the threads at work:", run.text(0))
    assert "time.sleep(1000)" in run.text(0)
    table.add(FAULT, OUTCOME, lost_steps=[lost])


def test_it_ends_a_run_of_several_processes(start, tmp_path, table):
    workdir = tmp_path / "run"
    stall = ("--config.train.stall_report=2", "--config.train.stall_end=10")
    with start(workdir, 2, 2, *stall, environments=[{}, {"BLOCK_AT": "4"}]) as run:
        codes = run.wait(240)
    assert all(codes), run.everything()
    report = run.text(1)
    assert "process 1: waiting for the batch of step 5 has lasted" in report
    assert "recorded_pretrain.py" in report and "time.sleep(1000)" in report
    assert "more than train.stall_end; this process ends, and with it the run" in report
    assert GO_ON in report
    table.add(FAULT, OUTCOME, lost_steps=[steps_begun(workdir) - newest_step(workdir)])
