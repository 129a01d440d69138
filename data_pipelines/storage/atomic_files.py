"""Files that are whole or not there, in a file system or in a bucket."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from etils import epath


@contextlib.contextmanager
def open_atomically(path: epath.PathLike) -> Iterator[BinaryIO]:
    """A file to write piece by piece: a temporary one in the same folder, renamed to `path` if the block ends well and
    removed if it does not. In a bucket an object appears whole: it is sent when the block has ended well."""
    path = epath.Path(path)
    if not is_local(path):
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            with path.open("wb") as target:
                shutil.copyfileobj(file, target)
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


def is_local(path: epath.PathLike) -> bool:
    """Whether a path lies in a file system, not in a bucket (gs://, s3://)."""
    return "://" not in str(path)


def write_atomically(path: epath.PathLike, content: bytes | str) -> None:
    """Write a whole file or none. Text is written as UTF-8."""
    with open_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def local_copy(path: epath.PathLike) -> str:
    """A file's path for programs that read from file systems only: of one in a bucket, that of a copy, made once."""
    if is_local(path):
        return str(path)
    source = epath.Path(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "pixelbert_jax" / "copies"
    # The length tells a file from one that has taken its place.
    name = hashlib.blake2b(f"{source} {source.stat().length}".encode(), digest_size=16).hexdigest()
    copy = cache / f"{name}-{source.name}"
    if not copy.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as file, open_atomically(copy) as target:
            shutil.copyfileobj(file, target)
    return str(copy)


def remove_leftovers(path: Path) -> None:
    """Remove what writers of `path` that were killed have left; for those who know that nobody else is writing it."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)
