"""Paths that a user gives: in a file system, or in a bucket such as gs://bucket/run."""

import importlib.util
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from etils import epath
from etils.epath import backend

from data_pipelines.errors import DataError
from data_pipelines.storage.bucket_errors import reason

# Scheme -> the package that reads it, and how to install that. Orbax writes checkpoints to gs:// only.
_PACKAGES = {
    "gs": ("gcsfs", "pip install 'pixelbert_jax[gcs]'"),
    "s3": ("s3fs", "pip install 'pixelbert_jax[s3]'"),
    "az": ("adlfs", "pip install adlfs"),
    "hf": ("huggingface_hub", "pip install huggingface_hub"),
}
_FOREIGN_LOGGERS = ("gcsfs", "s3fs")

AnyPath = Path | epath.Path


def as_path(given: epath.PathLike) -> AnyPath:
    """The path that a user means: a `pathlib.Path` with ~ expanded, or an `epath.Path` in a bucket.

    Raises:
      DataError: this kind of storage is not supported, or the package that reads it is not installed.
    """
    text = os.fspath(given)
    if is_local(text):
        return Path(text).expanduser()
    scheme = _scheme(text)
    if scheme not in _PACKAGES:
        known = ", ".join(f"{name}://" for name in _PACKAGES)
        raise DataError(f"{text}: only {known} and paths of a file system are read here; mount that storage first.")
    package, command = _PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        raise DataError(f"{text} needs the package {package}; install it with: {command}.")
    for name in _FOREIGN_LOGGERS:
        logging.getLogger(name).addFilter(_say_once)
    return epath.Path(text)


def local_path(given: epath.PathLike, flag: str) -> Path:
    """The path of a flag whose program works in a file system alone; raises DataError for a bucket."""
    if not is_local(given):
        raise DataError(f"--{flag}={given}: this program works in a file system; mount that bucket as a folder.")
    return Path(given).expanduser()


def is_local(path: epath.PathLike) -> bool:
    """Whether a path is in a file system, not in a bucket (gs://, s3://)."""
    return "://" not in os.fspath(path)


def holds_checkpoints(path: epath.PathLike) -> bool:
    """Whether Orbax can read and write checkpoints there: in a file system, or in gs://."""
    return is_local(path) or _scheme(path) == "gs"


def check_writable(path: AnyPath) -> None:
    """Check that the bucket of a path is there, before long work whose result goes to it.

    Raises:
      DataError: there is no such bucket, or it cannot be reached.
    """
    if is_local(path):
        return
    if _scheme(path) == "hf":
        raise DataError(f"{path}: hf:// is only read here; write to a file system or to gs://.")
    _check_bucket(path, needed=False)


def check_readable(path: AnyPath) -> None:
    """Check that a path, or at least its bucket, is there and may be read, before any work that needs it.

    Whether the path itself must be there is left to its reader: not all of them need it.

    Raises:
      DataError: there is no such bucket, or it cannot be reached or read.
    """
    if not is_local(path) and _scheme(path) != "hf":
        _check_bucket(path, needed=True)


def _check_bucket(path: epath.Path, needed: bool) -> None:
    bucket = epath.Path(*path.parts[:3])
    try:
        # An object may be readable in a bucket that may not be listed.
        found, why = (needed and path.exists()) or bucket.exists(), "there is no such bucket"
    except Exception as error:  # of several libraries
        found, why = False, reason(error)
    if not found:
        raise DataError(
            f"{path}: {bucket} cannot be reached ({why}); check its name, that you are signed in, and that your "
            "account may use it."
        )


def is_file(path: AnyPath) -> bool:
    """Whether a path is a file; False for names that no file can have, such as too long ones."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_dir(path: AnyPath) -> bool:
    """Whether a path is a folder; False for names that no folder can have, such as too long ones."""
    try:
        return path.is_dir()
    except OSError:
        return False


def size_of(path: AnyPath) -> int:
    """Bytes of a file."""
    status = path.stat()
    return status.st_size if isinstance(path, Path) else status.length


def read_range(path: AnyPath, start: int, size: int) -> bytes:
    """Some bytes of a file, fewer at its end; of a file in a bucket nothing more is read."""
    if not is_local(path):
        return backend.fsspec_backend.fs(path).cat_file(os.fspath(path), start=start, end=start + size)
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def entries(folder: epath.PathLike) -> Iterator[tuple[str, bool]]:
    """Name of each file and folder in a folder, and whether it is a folder; unsorted."""
    if is_local(folder):
        with os.scandir(folder) as found:
            yield from ((entry.name, entry.is_dir()) for entry in found)
        return
    for entry in backend.fsspec_backend.fs(folder).ls(os.fspath(folder), detail=True):
        if name := entry["name"].rstrip("/").rpartition("/")[2]:
            yield name, entry["type"] == "directory"


def files_below(folder: AnyPath, suffix: str = "") -> list[AnyPath]:
    """Files in a folder and below it whose names end in `suffix`, sorted."""
    if is_local(folder):
        return sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file())
    scheme = _scheme(folder)
    names = backend.fsspec_backend.fs(folder).find(os.fspath(folder))
    return sorted(epath.Path(f"{scheme}://{name}") for name in names if name.endswith(suffix))


def _scheme(path: epath.PathLike) -> str:
    return os.fspath(path).partition("://")[0]


class _SayOnce(logging.Filter):
    """Passes a message once: gcsfs repeats some at each access."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        text = record.getMessage()
        if text in self._said:
            return False
        self._said.add(text)
        return True


_say_once = _SayOnce()
