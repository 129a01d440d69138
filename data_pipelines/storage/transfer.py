"""Whole files to and from buckets."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from etils import epath
from etils.epath import backend

from data_pipelines.storage.bucket_errors import as_os_errors
from data_pipelines.storage.paths import AnyPath, is_local


def upload(source: Path, target: epath.Path, sent: Callable[[int], None] = lambda size: None) -> None:
    """Copy a file to a bucket. The object appears when all of it is there, also where this is interrupted.

    Args:
      source: the file.
      target: the object.
      sent: called with the bytes that are there, now and then.

    Raises:
      OSError: a file cannot be read, or the bucket does not take it.
    """
    # Not through `open`: a file that an exception closes half-written would stay.
    with as_os_errors():
        files = backend.fsspec_backend.fs(target)
        from fsspec.callbacks import Callback  # not needed without a bucket

        callback = Callback(hooks={"sent": lambda size, value, **_: sent(value)})
        files.put_file(str(source), os.fspath(target), callback=callback)


def download(source: epath.Path, target: Path) -> None:
    """Copy a file from a bucket; raises OSError if that fails."""
    with as_os_errors():
        backend.fsspec_backend.fs(source).get_file(os.fspath(source), str(target))


def move(source: epath.Path, target: epath.Path) -> None:
    """Rename a file in a bucket; raises OSError if that fails."""
    files = backend.fsspec_backend.fs(source)
    with as_os_errors():
        files.cp_file(os.fspath(source), os.fspath(target))
        files.rm_file(os.fspath(source))


@contextlib.contextmanager
def temporary_copy(path: AnyPath) -> Iterator[Path]:
    """The path of a file in a file system; for a file in a bucket, that of a copy, which is removed at the end."""
    if is_local(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        download(path, copy)
        yield copy
