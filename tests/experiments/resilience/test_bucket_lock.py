"""Two runs in one workdir in a bucket: one wins, whatever the other one tries, and a dead one's lock becomes free."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from etils import epath

from experiments.resilience import bucket_lock, distributed
from experiments.resilience.bucket_lock import BucketLock
from experiments.resilience.lock import locked
from pixelbert_jax.errors import ConfigError
from tests.bucket_server import BUCKET, bucket_server, environment

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from etils import epath
from experiments.resilience import bucket_lock
from experiments.resilience.lock import locked
bucket_lock.RENEWED_EVERY, bucket_lock.FREE_AFTER = 0.5, 4.0
with locked(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def server():
    with bucket_server() as url:
        yield url


@pytest.fixture
def workdir(server, monkeypatch, request):
    """A workdir of its own in gs://bucket; locks are renewed twice a second, and free after four."""
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(bucket_lock, "RENEWED_EVERY", 0.5)
    monkeypatch.setattr(bucket_lock, "FREE_AFTER", 4.0)
    return epath.Path(f"gs://{BUCKET}/{request.node.name}")


@pytest.fixture
def ended(monkeypatch):
    """The last lines of runs that ended because they lost their lock."""
    lines = []
    monkeypatch.setattr(distributed, "end", lines.append)
    return lines


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


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


def test_of_many_that_find_an_old_lock_one_gets_it(workdir, monkeypatch):
    monkeypatch.setattr(bucket_lock, "RENEWED_EVERY", 600)
    first = BucketLock(workdir / ".lock")
    assert first.attempt() == (True, "")
    monkeypatch.setattr(bucket_lock, "FREE_AFTER", -2.0)  # every lock counts as old
    contenders = [BucketLock(workdir / ".lock") for _ in range(4)]
    read, together = BucketLock._read, threading.Barrier(4, timeout=30)

    def read_and_wait(self):
        found = read(self)
        if threading.current_thread().name.startswith("contender") and not together.broken and self in waiting:
            waiting.discard(self)
            together.wait()  # all have read the old version before one writes
        return found

    waiting, results = set(contenders), {}
    monkeypatch.setattr(BucketLock, "_read", read_and_wait)
    threads = [
        threading.Thread(target=lambda lock=lock: results.update({lock: lock.attempt()[0]}), name=f"contender {i}")
        for i, lock in enumerate(contenders)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(str, results.values())) == ["None", "None", "None", "True"]
    next(lock for lock, held in results.items() if held).release()
    first._ends.set()


def test_a_write_whose_answer_was_lost_still_counts(workdir, monkeypatch, ended):
    """The precondition fails for the second try of the same write; the lock is held all the same."""
    call = BucketLock._call

    def twice(self, *args, **kwargs):
        if args[0] == "POST":
            call(self, *args, **kwargs)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(BucketLock, "_call", twice)
    lock = BucketLock(workdir / ".lock")
    assert lock.attempt() == (True, "")
    time.sleep(1.5)
    assert not ended and lock._thread.is_alive()
    lock.release()
    assert not (workdir / ".lock").exists()


def test_a_run_that_lost_its_lock_ends(workdir, monkeypatch, ended):
    """Frozen for too long, or its workdir deleted: it must not write beside another run."""
    first, second = BucketLock(workdir / ".lock"), BucketLock(workdir / ".lock")
    assert first.attempt() == (True, "")
    with monkeypatch.context() as patch:
        patch.setattr(bucket_lock, "FREE_AFTER", -2.0)
        while second.attempt() != (True, ""):  # the first may renew it in between
            pass
    until(lambda: ended)
    assert "taken by another run" in ended[0] and f"{workdir}/.lock" in ended[0]
    assert second._thread.is_alive() and len(ended) == 1
    (workdir / ".lock").unlink()
    until(lambda: len(ended) > 1)
    second.release()


def test_a_lock_by_other_hands_is_waited_for(workdir, capsys):
    """An object that a person made has no owner; it is old after a while."""
    (workdir / ".lock").write_text("by hand")
    with locked(workdir):
        pass
    assert "is held by an unknown process; waiting up to" in capsys.readouterr().out
