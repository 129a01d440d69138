"""Atomic files in a file system or in a bucket: a file is either complete or does not exist."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from etils import epath

from data_pipelines.storage.paths import is_local
from data_pipelines.storage.transfer import upload


@contextlib.contextmanager
def open_atomically(path: epath.PathLike) -> Iterator[BinaryIO]:
    """Open a temporary file for writing, and make it `path` at the end of the block.

    In a file system, the temporary file is in the same folder. It is renamed to `path` if the block succeeds, and
    removed if the block fails. In a bucket, the object is uploaded after the block has succeeded.
    """
    path = epath.Path(path)
    if not is_local(path):
        with tempfile.NamedTemporaryFile() as file:
            yield file
            file.flush()
            upload(Path(file.name), path)
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


def local_copy(path: epath.PathLike) -> str:
    """The path of a file in a file system; a file in a bucket is copied to the cache once, and the copy's path is used.

    This is for libraries that cannot read from buckets.
    """
    if is_local(path):
        return str(path)
    source = epath.Path(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "pixelbert_jax" / "copies"
    # The length detects a file that was replaced.
    name = hashlib.blake2b(f"{source} {source.stat().length}".encode(), digest_size=16).hexdigest()
    copy = cache / f"{name}-{source.name}"
    if not copy.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as file, open_atomically(copy) as target:
            shutil.copyfileobj(file, target)
    return str(copy)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path` from killed writers; call this only if no other process writes `path`."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)
