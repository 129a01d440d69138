"""Two runs in one workdir in a bucket: one wins, and a dead one's lock becomes free."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from etils import epath

from experiments.resilience import distributed
from experiments.resilience.lock import locked
from pixelbert_jax.errors import ConfigError
from tests.bucket_fixtures import gs_bucket, quick_locks, until

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from etils import epath
from data_pipelines.storage import bucket_lock
from experiments.resilience.lock import locked
bucket_lock.RENEWED_EVERY, bucket_lock.FREE_AFTER = 0.5, 4.0
with locked(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def gs():
    with gs_bucket() as bucket:
        yield bucket


@pytest.fixture
def workdir(gs, monkeypatch, request):
    """A workdir of its own in gs://bucket; locks are renewed twice a second, and free after four."""
    quick_locks(monkeypatch)
    return epath.Path(f"{gs}/{request.node.name}")


def test_the_second_is_refused_until_the_first_is_killed(workdir):
    command = [sys.executable, "-c", HOLD, str(workdir), "600"]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        time.sleep(5)  # longer than a lock lives that nobody renews
        with (
            pytest.raises(ConfigError, match=rf"{workdir} is in use by another run \(process {holder.pid} on "),
            locked(workdir),
        ):
            pytest.fail("two runs in one workdir")
        holder.kill()
        holder.wait(60)
        with locked(workdir):
            assert (workdir / ".lock").exists()
        assert not (workdir / ".lock").exists()
        with locked(workdir):
            pass
    finally:
        holder.kill()
        holder.wait()


def test_a_run_that_lost_its_lock_ends(workdir, monkeypatch):
    lines = []
    monkeypatch.setattr(distributed, "end", lines.append)
    with locked(workdir):
        (workdir / ".lock").unlink()
        until(lambda: lines, seconds=30)
    assert lines[0].startswith(f"error: {workdir}/.lock was deleted") and "goes on from the last checkpoint" in lines[0]


def test_a_lock_by_other_hands_is_waited_for(workdir, capsys):
    """An object that a person made has no owner; it is old after a while."""
    (workdir / ".lock").write_text("by hand")
    with locked(workdir):
        pass
    assert "is held by an unknown process; waiting up to" in capsys.readouterr().out
