"""kill -9 at any moment, also while a checkpoint is being saved: the run goes on, and ends as an undisturbed one."""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.losses import assert_undisturbed, steps_begun
from tests.multi_process.launching import Run, gate
from tests.multi_process.outcomes import newest_step

RANDOM, SAVING = "kill -9 at a random moment", "kill -9 while a checkpoint is being saved"
HALF = "half a checkpoint beside the whole ones"
GOES_ON = "goes on; equal to the bit"
STEPS = 6


def unfinished(workdir: Path, step: int | str = "*") -> list[Path]:
    """Folders of checkpoints that are being written, or were when the process was killed."""
    return list((workdir / "checkpoints").glob(f"{step}.orbax-checkpoint-tmp*"))


def kill(run: Run) -> None:
    run.processes[0].kill()
    run.processes[0].wait(60)


def until(run: Run, condition: Callable[[], object], seconds: float = 240) -> None:
    """Wait until the condition is true, the process has ended, or the time is over."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end and run.processes[0].poll() is None:
        time.sleep(0.001)


def kill_in_a_save(run: Run, workdir: Path, step: int, begun: int, seconds: float) -> None:
    """Kill a process `seconds` after it began to save the step of HOLD_SAVE.

    `begun` is the number of steps begun before it: half-written folders of an earlier process are gone when this
    process begins a step.
    """
    until(run, lambda: steps_begun(workdir) > begun and unfinished(workdir, step))
    time.sleep(seconds)
    kill(run)


def make_halves(workdir: Path) -> None:
    """The remains of an interrupted copy, deletion or save: later steps than the last whole checkpoint's."""
    folder, step = workdir / "checkpoints", newest_step(workdir)
    (folder / "90").mkdir()
    shutil.copytree(folder / str(step), folder / "91", ignore=lambda *_: ["_CHECKPOINT_METADATA"])
    shutil.copytree(folder / str(step), folder / "92.orbax-checkpoint-tmp")


def test_killed_early_and_in_a_save_and_left_with_halves(one_process, start, tmp_path, table):
    workdir, often = tmp_path / "run", "--config.checkpoint.every=1"
    with start(workdir, 1, 4, "--config.checkpoint.every=4", environments=[{"GATE_AT": "3"}]) as run:
        run.until(gate(workdir).exists)
        kill(run)
    again = steps_begun(workdir)
    assert again == 4 and newest_step(workdir) == 0
    table.add(RANDOM, GOES_ON, lost_steps=[again])
    with start(workdir, 1, 4, often, environments=[{"HOLD_SAVE": "2"}]) as run:
        kill_in_a_save(run, workdir, 2, again, 0.002)
    saved = newest_step(workdir)
    assert saved == 1 and unfinished(workdir, 2)
    table.add(SAVING, GOES_ON, lost_steps=[steps_begun(workdir) - again - saved])
    make_halves(workdir)
    with start(workdir, 1, 4, often) as run:
        run.succeed()
    assert f"resuming {workdir} at step {saved}\n" in run.text(0)
    assert "90 is not a whole checkpoint" in run.text(0) and "91 is not a whole checkpoint" in run.text(0)
    assert_undisturbed(workdir, one_process, STEPS)
    table.add(HALF, "set aside; the last whole one is taken; equal to the bit", lost_steps=[0])


@pytest.fixture(scope="module")
def long_undisturbed(start, tmp_path_factory) -> Path:
    """24 steps, saved after each third."""
    workdir = tmp_path_factory.mktemp("long") / "run"
    with start(workdir, 1, 4, *LONG) as run:
        run.succeed()
    return workdir


LONG_STEPS, SAVED_EVERY = 24, 3
LONG = (
    *(f"--config.train.steps={LONG_STEPS}", f"--config.checkpoint.every={SAVED_EVERY}"),
    "--config.checkpoint.keep_last=2",
)


@pytest.mark.slow
def test_killed_twenty_times(long_undisturbed, start, tmp_path, table):
    """Twelve times at a random moment, eight times in a save; a finished run begins anew."""
    rng, finished = random.Random(0), 0
    workdir = tmp_path / "run0"
    aims = ["save"] * 8 + ["any"] * 12
    rng.shuffle(aims)
    while aims:
        begun, saved = steps_begun(workdir), newest_step(workdir)
        hold_step = saved + SAVED_EVERY if aims[-1] == "save" else -1
        with start(workdir, 1, 4, *LONG, environments=[{"STEP_SECONDS": "0.1", "HOLD_SAVE": str(hold_step)}]) as run:
            if aims[-1] == "save":
                kill_in_a_save(run, workdir, hold_step, begun, rng.uniform(0, 0.06))
            else:
                until(run, lambda: False, rng.uniform(0.5, 14))
                kill(run)
        if "resuming" in run.text(0):
            assert f"resuming {workdir} at step {saved}\n" in run.text(0)
        if run.processes[0].returncode == 0:  # it was quicker
            assert_undisturbed(workdir, long_undisturbed, LONG_STEPS)
            finished += 1
            workdir = tmp_path / f"run{finished}"
            continue
        assert run.processes[0].returncode == -9, run.everything()
        again = steps_begun(workdir) - begun - (newest_step(workdir) - saved)
        half = unfinished(workdir)
        assert half or aims[-1] != "save"
        aims.pop()
        table.add(SAVING if half else RANDOM, GOES_ON, lost_steps=[again])
    with start(workdir, 1, 4, *LONG) as run:
        run.succeed()
    assert_undisturbed(workdir, long_undisturbed, LONG_STEPS)
