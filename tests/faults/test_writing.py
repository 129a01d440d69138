"""A run that cannot write: a full disk, a read-only or deleted folder. It reports this soon, in one line, and ends."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.losses import assert_undisturbed, steps_begun
from tests.multi_process.launching import Run, gate
from tests.multi_process.outcomes import assert_same_checkpoint, assert_same_metrics, last_step, newest_step

ENDS = "ends with one line; goes on when mended, equal to the bit (several processes: to 1e-5)"
STEPS = 6
SLOW = [{"STEP_SECONDS": "0.3"}]
# For the superuser permissions hold too, without this power.
WITHOUT_POWER = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
needs_permissions = pytest.mark.skipif(
    bool(WITHOUT_POWER) and shutil.which("setpriv") is None, reason="the superuser writes everywhere, and no setpriv"
)


def assert_one_line(run: Run, *parts: str) -> None:
    """Each process ended with code 1 and one line that has the parts, no stack, within two minutes."""
    assert run.wait(120) == [1] * len(run.processes), run.everything()
    for process in range(len(run.processes)):
        lines = run.text(process).splitlines()
        assert "Traceback" not in run.text(process), run.text(process)
        assert lines[-1].startswith("error: ") and all(part in lines[-1] for part in parts), run.text(process)


def saved_at_the_gate(run: Run, workdir: Path, step: int) -> None:
    """Return when the run waits at GATE_AT, and the checkpoint of the step before is whole."""
    run.until(lambda: gate(workdir).exists() and newest_step(workdir) >= step)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    folder.chmod(0o500)
    try:
        yield
    finally:
        folder.chmod(0o700)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own; the test is skipped where that is not permitted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, kilobytes_left: int) -> Path:
    """A file that takes the rest of a file system."""
    file, left = disk / "filler", os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - kilobytes_left * 1024
    with file.open("wb") as target:
        target.write(b"x" * left)
    return file


@needs_permissions
def test_read_only_under_the_run(one_process, start, tmp_path, table):
    """The checkpoint before it stays; the next one fails while the run computes, and the run ends there."""
    workdir = tmp_path / "run"
    options = ("--config.checkpoint.every=2", "--config.train.steps=60")
    with start(workdir, 1, 4, *options, environments=[{"GATE_AT": "5"}], by=WITHOUT_POWER) as run:
        saved_at_the_gate(run, workdir, 4)
        with read_only(workdir / "checkpoints"):
            gate(workdir).unlink()
            assert_one_line(run, "checkpoints: no checkpoint can be written at step", "(Permission denied)")
    assert "the last whole one is step 4." in run.text(0)
    assert last_step(workdir) <= 4 + 2 + 2  # noticed before another step or two have passed
    assert_same_checkpoint(workdir, one_process, 4)
    table.add("folder read-only under the run", ENDS, lost_steps=[steps_begun(workdir) - 4])


@pytest.mark.parametrize("gone", ["checkpoints", pytest.param(".", marks=pytest.mark.slow)])
def test_deleted_under_the_run(start, tmp_path, table, gone):
    """Not made again: that would hide that all before is lost."""
    workdir = tmp_path / "run"
    with start(workdir, 1, 4, "--config.checkpoint.every=2", environments=[{"GATE_AT": "3"}]) as run:
        saved_at_the_gate(run, workdir, 2)
        lost = steps_begun(workdir)
        shutil.rmtree(workdir / gone, ignore_errors=True)
        gate(workdir).unlink()
        if gone == ".":
            assert_one_line(run, "metrics.jsonl cannot be written (No such file or directory)")
        else:
            assert_one_line(run, "checkpoints: no checkpoint can be written at step 4", "deleted or moved")
            assert "there is no whole one" in run.text(0)
    name = {"checkpoints": "checkpoints/ deleted under the run", ".": "workdir deleted under the run"}[gone]
    table.add(name, "ends with one line at the next save", lost_steps=[lost])


@pytest.mark.slow
@needs_permissions
def test_read_only_from_the_start_and_mended(one_process, start, tmp_path, table):
    """Refused at once; and a run whose folder was read-only for a while goes on when it is not."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    with read_only(workdir), start(workdir, 1, 4, by=WITHOUT_POWER) as run:
        assert_one_line(run, f"{workdir} cannot be written (Permission denied); make room or make it writable")
    assert not list(workdir.iterdir())
    with start(workdir, 1, 4, "--config.checkpoint.every=2", environments=[{"GATE_AT": "3"}], by=WITHOUT_POWER) as run:
        saved_at_the_gate(run, workdir, 2)
        with read_only(workdir):
            gate(workdir).unlink()
            run.succeed()  # nothing new is made in it while the run goes on
    assert_undisturbed(workdir, one_process, STEPS)
    again = tmp_path / "again"
    with start(again, 1, 4, "--config.checkpoint.every=2", environments=[{"GATE_AT": "3"}], by=WITHOUT_POWER) as run:
        saved_at_the_gate(run, again, 2)
        with read_only(again / "checkpoints"):
            gate(again).unlink()
            assert_one_line(run, "(Permission denied)")
    lost = steps_begun(again) - newest_step(again)
    with start(again, 1, 4, by=WITHOUT_POWER) as run:
        run.succeed()
    assert_undisturbed(again, one_process, STEPS)
    table.add("folder read-only from the start", "refused with one line before anything is read", lost_steps=[0])
    table.add("folder read-only under the run", ENDS, lost_steps=[lost])


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "saved"), [(1, 0), (1, 2), (2, 2)])
def test_a_disk_that_is_full_while_saving(one_process, start, tmp_path, table, processes, saved):
    """Room for the metrics and not for a checkpoint; at the first save, or at a later one."""
    with small_disk(tmp_path / "disk", 16) as disk:
        workdir, waits = disk / "run", [{"GATE_AT": str(saved + 1)}, {}]
        with start(workdir, processes, 4 // processes, "--config.checkpoint.every=2", environments=waits) as run:
            saved_at_the_gate(run, workdir, saved)
            filler = fill(disk, 300)
            gate(workdir).unlink()
            if processes == 1:
                assert_one_line(run, "no checkpoint can be written at step", "(No space left on device)")
                left = f"the last whole one is step {newest_step(workdir)}." if saved else "there is no whole one."
                assert left in run.text(0)
            else:
                assert all(run.wait(120)), run.everything()
                assert "(No space left on device)" in run.everything()
        assert newest_step(workdir) >= saved
        lost = steps_begun(workdir) - newest_step(workdir)
        filler.unlink()
        with start(workdir, 1, 4) as run:
            run.succeed()
        if processes == 1:
            assert_undisturbed(workdir, one_process, STEPS)
        else:
            assert_same_metrics(workdir, one_process, 1e-5)
        table.add("disk full while saving", ENDS, lost_steps=[lost])


@pytest.mark.slow
def test_a_disk_that_is_full_while_metrics_are_written(one_process, start, tmp_path, table):
    with small_disk(tmp_path / "disk", 16) as disk:
        workdir, options = disk / "run", ("--config.checkpoint.every=2",)
        with start(workdir, 1, 4, *options, "--config.train.steps=200", environments=SLOW) as run:
            run.until(lambda: newest_step(workdir) >= 2)
            filler = fill(disk, 0)
            assert_one_line(run, "(No space left on device)", "give the same command again")
        lost = steps_begun(workdir) - newest_step(workdir)
        filler.unlink()
        with start(workdir, 1, 4) as run:
            run.succeed()
        assert_undisturbed(workdir, one_process, STEPS)
    table.add("disk full while writing metrics.jsonl", ENDS, lost_steps=[lost])
