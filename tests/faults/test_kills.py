"""kill -9 at any moment, also while a checkpoint is being saved: the run goes on, and ends as an undisturbed one."""

import random
import shutil
import time
from pathlib import Path

import pytest

from tests.faults.losses import assert_undisturbed, steps_begun
from tests.multi_process.launching import Run
from tests.multi_process.outcomes import last_step, newest_step

RANDOM, SAVING = "kill -9 at a random moment", "kill -9 while a checkpoint is being saved"
HALF = "half a checkpoint beside the whole ones"
GOES_ON = "goes on; equal to the bit"
STEPS = 6


def unfinished(workdir: Path) -> list[Path]:
    """Folders of checkpoints that are being written, or were when the process was killed."""
    return list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def kill(run: Run) -> None:
    run.processes[0].kill()
    run.processes[0].wait(60)


def kill_in_a_save(run: Run, workdir: Path, seconds: float) -> bool:
    """Kill a process so long after it began to save; whether a checkpoint was left half written."""
    before = set(unfinished(workdir))  # of a process before it, which it will remove
    while not set(unfinished(workdir)) - before and run.processes[0].poll() is None:
        before &= set(unfinished(workdir))
        time.sleep(0.0005)
    time.sleep(seconds)
    kill(run)
    return bool(unfinished(workdir))


def make_halves(workdir: Path) -> None:
    """What an interrupted copy, deletion or save leaves: later steps than the last whole checkpoint's."""
    folder, step = workdir / "checkpoints", newest_step(workdir)
    (folder / "90").mkdir()
    shutil.copytree(folder / str(step), folder / "91", ignore=lambda *_: ["_CHECKPOINT_METADATA"])
    shutil.copytree(folder / str(step), folder / "92.orbax-checkpoint-tmp")


def test_killed_early_and_in_a_save_and_left_with_halves(one_process, start, tmp_path, table):
    workdir, often = tmp_path / "run", "--config.checkpoint.every=1"
    with start(workdir, 1, 4, "--config.checkpoint.every=4", environments=[{"STEP_SECONDS": "0.2"}]) as run:
        run.until(lambda: last_step(workdir) >= 2)
        kill(run)
    again = steps_begun(workdir) - newest_step(workdir)
    table.add(RANDOM, GOES_ON, lost_steps=[again])
    with start(workdir, 1, 4, often, environments=[{"STEP_SECONDS": "0.2"}]) as run:
        run.until(lambda: newest_step(workdir) >= 1)
        landed = kill_in_a_save(run, workdir, 0.002)
    saved = newest_step(workdir)
    assert 1 <= saved < STEPS
    again = steps_begun(workdir) - again - saved
    make_halves(workdir)
    with start(workdir, 1, 4, often) as run:
        run.succeed()
    assert f"resuming {workdir} at step {saved}\n" in run.text(0)
    assert "90 is not a whole checkpoint" in run.text(0) and "91 is not a whole checkpoint" in run.text(0)
    assert_undisturbed(workdir, one_process, STEPS)
    if landed:
        table.add(SAVING, GOES_ON, lost_steps=[again])
    table.add(HALF, "set aside; the last whole one is taken; equal to the bit", lost_steps=[0])


@pytest.fixture(scope="module")
def long_undisturbed(start, tmp_path_factory) -> Path:
    """24 steps, saved after each third."""
    workdir = tmp_path_factory.mktemp("long") / "run"
    with start(workdir, 1, 4, *LONG) as run:
        run.succeed()
    return workdir


LONG_STEPS = 24
LONG = (f"--config.train.steps={LONG_STEPS}", "--config.checkpoint.every=3", "--config.checkpoint.keep_last=2")


@pytest.mark.slow
def test_killed_twenty_times(long_undisturbed, start, tmp_path, table):
    """Twelve times at a moment of its life that chance picks, eight times in a save; a finished run begins anew."""
    chance, finished = random.Random(0), 0
    workdir, landed = tmp_path / "run0", 0
    aims = ["save"] * 8 + ["any"] * 12
    chance.shuffle(aims)
    while aims:
        begun, saved = steps_begun(workdir), newest_step(workdir)
        with start(workdir, 1, 4, *LONG, environments=[{"STEP_SECONDS": "0.1"}]) as run:
            if aims[-1] == "save":
                half = kill_in_a_save(run, workdir, chance.uniform(0, 0.06))
            else:
                until(run, time.monotonic() + chance.uniform(0.5, 14))
                half = bool(unfinished(workdir))
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
        aims.pop()
        table.add(SAVING if half else RANDOM, GOES_ON, lost_steps=[again])
        landed += half
    with start(workdir, 1, 4, *LONG) as run:
        run.succeed()
    assert_undisturbed(workdir, long_undisturbed, LONG_STEPS)
    assert landed >= 4  # of the eight that were aimed


def until(run: Run, end: float) -> None:
    """Wait for a moment, or the end of the process."""
    while time.monotonic() < end and run.processes[0].poll() is None:
        time.sleep(0.001)
