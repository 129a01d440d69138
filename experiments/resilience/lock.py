"""One run at a time in a workdir."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from data_pipelines.errors import DataError
from data_pipelines.storage.bucket_lock import BucketLock
from data_pipelines.storage.paths import is_local
from experiments.resilience import distributed
from experiments.resilience.disk_errors import writing
from experiments.run.progress import say
from pixelbert_jax.errors import ConfigError

FILE = ".lock"
_CHECKPOINTS = "checkpoints"


@contextlib.contextmanager
def locked(workdir: epath.Path) -> Iterator[None]:
    """Make a workdir and keep other runs out of it during the block.

    In a file system, the system removes the lock when the process ends, for any reason. In gs://, the lock is an object
    (`BucketLock`). Other buckets have no lock, which is said in one line. A refused start (a ConfigError or DataError
    before anything was written) leaves neither the lock nor empty folders.

    Raises:
      ConfigError: another run uses the workdir (raised in all processes of this run), or it cannot be written.
    """
    local = is_local(workdir)
    created = [path for path in (workdir, *workdir.parents) if not path.exists()] if local else []
    with contextlib.ExitStack() as held:
        with writing(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
        has_lock, holder = _lock(workdir, held)
        if not has_lock:
            raise ConfigError(
                f"{workdir} is in use by another run ({holder or 'see the log of process 0'}); wait for its end, stop "
                "it, or use another --workdir."
            )
        try:
            yield
        except (ConfigError, DataError):
            if distributed.is_first() and local:
                with contextlib.suppress(OSError):
                    _remove_empty(workdir, created)
            raise


def _remove_empty(workdir: epath.Path, created: Sequence[epath.Path]) -> None:
    """Remove a workdir that holds nothing, and the folders that were made for it."""
    if any(path.name not in (FILE, _CHECKPOINTS) for path in workdir.iterdir()):
        return
    if (workdir / _CHECKPOINTS).exists():
        (workdir / _CHECKPOINTS).rmdir()
    (workdir / FILE).unlink(missing_ok=True)
    for path in created:
        path.rmdir()


def _lock(workdir: epath.Path, held: contextlib.ExitStack) -> tuple[bool, str]:
    """Lock the workdir until `held` is closed. Returns whether that succeeded, and the process that has the lock."""
    bucket_lock = None
    if distributed.is_first() and not is_local(workdir):
        if str(workdir).startswith("gs://"):
            bucket_lock = BucketLock(workdir / FILE, say, _end)
        else:
            say(f"{workdir} is not locked: only gs:// and file systems have locks; start no other run in it")
    while True:
        has_lock, holder = True, ""
        if bucket_lock:
            with writing(workdir / FILE):
                has_lock, holder = bucket_lock.attempt()
            if has_lock:
                held.callback(bucket_lock.release)
        elif distributed.is_first() and is_local(workdir):
            holder = _hold(workdir, held) or ""
            has_lock = not holder
        if distributed.are_many():  # within seconds: a collective does not wait for minutes
            code = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if has_lock is None else has_lock)))
            has_lock = None if code < 0 else bool(code)
        if has_lock is not None:
            return has_lock, holder
        time.sleep(1)


def _end(loss: str) -> None:
    distributed.end(
        f"error: {loss} The same command goes on from the last checkpoint, if no other run uses the workdir."
    )


def _hold(workdir: epath.Path, held: contextlib.ExitStack) -> str | None:
    """Lock the workdir until `held` is closed. Returns the process that has the lock already, if there is one."""
    path = Path(workdir / FILE)
    while True:
        with writing(workdir):
            path.touch()
            file = held.enter_context(path.open("r+"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "an unknown process"
        except OSError:
            return None  # a file system without locks
        # Another start that was refused may just have removed it.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            break
    with writing(workdir):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    return None
