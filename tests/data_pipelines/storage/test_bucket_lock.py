"""The lock of a folder in a bucket, in gs:// and s3://: one wins, whatever the others try."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from etils import epath

from data_pipelines.errors import DataError
from data_pipelines.preparation import run
from data_pipelines.preparation.run import prepare
from data_pipelines.storage import bucket_lock, destination
from data_pipelines.storage.bucket_lock import BucketLock, only_one_in_bucket
from data_pipelines.storage.paths import files_below
from data_pipelines.storage.records import open_records
from tests.bucket_fixtures import forget, gs_bucket, quick_locks, s3_bucket, until

ROOT = Path(__file__).parents[3]
SHAPES = {"num_train": 40, "num_validation": 5, "num_test": 0}
PREPARE = f"""
import sys, time
from data_pipelines.preparation.run import prepare
from data_pipelines.storage import bucket_lock, destination
bucket_lock.RENEWED_EVERY, bucket_lock.FREE_AFTER = 0.5, 4.0
def wait(source, target, sent):
    print("uploads", file=sys.__stdout__, flush=True)  # TFDS is silenced
    time.sleep(600)
destination.upload = wait
prepare("shapes", sys.argv[1], options={SHAPES})
"""


@pytest.fixture(scope="module", params=[gs_bucket, s3_bucket], ids=["gs", "s3"])
def bucket(request):
    with request.param() as bucket:
        yield bucket


@pytest.fixture
def folder(bucket, monkeypatch, request):
    """A folder of its own; locks are renewed twice a second, and free after four."""
    quick_locks(monkeypatch)
    return epath.Path(f"{bucket}/{request.node.name.partition('[')[0]}")


def lock_of(folder, losses=None):
    return BucketLock(folder / ".lock", lambda line: None, ([] if losses is None else losses).append)


def there(folder):
    """Whether the lock's object exists; asked anew, as another process would."""
    forget()
    return (folder / ".lock").exists()


def test_of_many_that_find_an_old_lock_one_gets_it(folder, monkeypatch):
    monkeypatch.setattr(bucket_lock, "RENEWED_EVERY", 600)
    first = lock_of(folder)
    assert first.attempt() == (True, "")
    monkeypatch.setattr(bucket_lock, "FREE_AFTER", -2.0)  # every lock counts as old
    contenders = [lock_of(folder) for _ in range(4)]
    read, together = BucketLock._read, threading.Barrier(4, timeout=60)

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
        thread.join(120)
    assert sorted(map(str, results.values())) == ["None", "None", "None", "True"]
    next(lock for lock, held in results.items() if held).release()
    assert not there(folder)
    first._ends.set()


def test_a_write_whose_answer_was_lost_still_counts(folder):
    """The precondition fails for the second try of the same write; the lock is held all the same."""
    losses = []
    lock = lock_of(folder, losses)
    write = lock._object.write

    def twice(*args):
        write(*args)
        return write(*args)

    lock._object.write = twice
    assert lock.attempt() == (True, "")
    time.sleep(1.5)
    assert not losses and lock._thread.is_alive()
    lock.release()
    assert not there(folder)


def test_the_loss_of_a_lock_is_told(folder, monkeypatch):
    """Frozen for too long, or the folder deleted: the owner must not write beside another one."""
    losses = [], []
    first, second = (lock_of(folder, told) for told in losses)
    assert first.attempt() == (True, "")
    with monkeypatch.context() as patch:
        patch.setattr(bucket_lock, "FREE_AFTER", -2.0)
        while second.attempt() != (True, ""):  # the first may renew it in between
            pass
    until(lambda: losses[0])
    assert f"{folder}/.lock was deleted, or taken by another run" in losses[0][0] and not losses[1]
    first.release()
    assert there(folder)  # what is another's stays
    (folder / ".lock").unlink()
    until(lambda: losses[1])
    second.release()


def test_the_second_prepare_is_refused_until_the_first_is_killed(folder):
    command = [sys.executable, "-c", PREPARE, str(folder)]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "uploads\n"
        message = rf"Another run \(process {holder.pid} on .*\) is preparing {folder}/shapes; wait for it, or give"
        with pytest.raises(DataError, match=message):
            prepare("shapes", folder, options=SHAPES)
        holder.kill()
        holder.wait(60)
        prepare("shapes", folder, options=SHAPES)
    finally:
        holder.kill()
        holder.wait()
    assert len(open_records(folder, "shapes", "train")) == 40 and not there(folder / "shapes")


def test_a_prepare_that_lost_its_lock_stops_and_leaves_the_files_of_the_other(folder, monkeypatch):
    other = folder / "shapes" / "1.0.0" / "of_the_other"

    def lose_after(source, target, sent):
        upload(source, target)
        other.write_text("x")
        (folder / "shapes" / ".lock").unlink()
        until(lambda: lost)

    lost, upload, renew = [], destination.upload, BucketLock._renew

    def renew_and_tell(self):
        renew(self)
        lost.append(True)

    monkeypatch.setattr(BucketLock, "_renew", renew_and_tell)
    monkeypatch.setattr(destination, "upload", lose_after)
    monkeypatch.setattr(run, "upload", lambda source, target: pytest.fail("written after the loss"))
    with pytest.raises(DataError, match=r"was deleted, or taken by another run .* Run the same command again"):
        prepare("shapes", folder, options=SHAPES)
    forget()
    assert other in files_below(folder)


def test_a_storage_without_such_writes_has_no_lock(folder):
    lines = []
    with only_one_in_bucket(epath.Path("az://bucket/a"), "data_dir", lines.append) as check:
        check()
    assert "az://bucket/a is not locked" in lines[0]
