"""One run at a time in a workdir."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from data_pipelines.errors import DataError
from data_pipelines.storage.atomic_files import is_local
from experiments.resilience import distributed
from experiments.resilience.disk_errors import writing
from pixelbert_jax.errors import ConfigError

FILE = ".lock"
_CHECKPOINTS = "checkpoints"


@contextlib.contextmanager
def locked(workdir: epath.Path) -> Iterator[None]:
    """Make a workdir and keep other runs out of it during the block.

    The system removes the lock when the process ends, for any reason. A bucket has no such locks: there the workdir is
    only made. A refused start (a ConfigError or DataError before anything was written) leaves neither the lock nor
    empty folders.

    Raises:
      ConfigError: another run uses the workdir (raised in all processes of this run), or it cannot be written.
    """
    created = [path for path in (workdir, *workdir.parents) if not path.exists()]
    with contextlib.ExitStack() as held:
        with writing(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
        holder = _hold(workdir, held) if distributed.is_first() and is_local(workdir) else None
        refused = holder is not None
        if distributed.are_many():
            refused = bool(multihost_utils.broadcast_one_to_all(np.int32(refused)))
        if refused:
            raise ConfigError(
                f"{workdir} is in use by another run ({holder or 'see the log of process 0'}); wait for its end, stop "
                "it, or use another --workdir."
            )
        try:
            yield
        except (ConfigError, DataError):
            if distributed.is_first() and is_local(workdir):
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
