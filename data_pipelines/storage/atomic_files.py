"""Atomic files in a file system or in a bucket: a file is either complete or does not exist."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from etils import epath

from data_pipelines.storage.bucket_errors import retried
from data_pipelines.storage.paths import is_local
from data_pipelines.storage.transfer import upload


@contextlib.contextmanager
def open_atomically(path: epath.PathLike) -> Iterator[BinaryIO]:
    """Open a temporary file for writing, and make it `path` at the end of the block.

    In a file system, the temporary file is in the same folder. It is renamed to `path` if the block succeeds, and
    removed if the block fails. In a bucket, the object is uploaded after the block has succeeded, again while errors
    pass; each is reported.
    """
    path = epath.Path(path)
    if not is_local(path):
        with tempfile.NamedTemporaryFile() as file:
            yield file
            file.flush()
            retried(lambda: upload(Path(file.name), path), str(path))
        return
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o664)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def write_atomically(path: epath.PathLike, content: bytes | str) -> None:
    """Write a file atomically; text is written as UTF-8."""
    with open_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path` from killed writers; call this only if no other process writes `path`."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)
