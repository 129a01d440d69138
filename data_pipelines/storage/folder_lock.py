"""One run at a time that writes a folder of a file system."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.errors import DataError


@contextlib.contextmanager
def only_one(folder: Path, flag: str) -> Iterator[None]:
    """Make a folder and hold a lock in it, so that two runs cannot write it at the same time.

    Args:
      folder: the folder.
      flag: name of the flag that names it, for messages.

    Raises:
      DataError: the folder cannot be written, or another run holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise DataError(f"Cannot write to {folder} ({error}); give another --{flag}.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"Another run is preparing {folder}; wait for it, or give another --{flag}.") from error
        yield
