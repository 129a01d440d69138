"""Copies of objects of a bucket on this host, for libraries that cannot read from buckets.

Each object is copied once per host, whichever process is first. It is fetched in order into a file with the suffix
`.part`, which is locked by the process that writes it and renamed when length and checksum are those of the object. A
process that is killed loses its lock, and the next one goes on where the file ends.
"""

import base64
import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from etils import epath

from data_pipelines.errors import DataError
from data_pipelines.progress import Progress
from data_pipelines.storage.bucket_errors import reason, retried
from data_pipelines.storage.paths import is_local, read_range

_RANGE = 64 << 20  # bytes of one request
_PIECE = 1 << 20  # bytes that are read at a time
_FILES_AT_ONCE = 8  # a single connection is limited by the distance to the bucket
_ANSWER_WITHIN = 60  # seconds


class _Checksum(Protocol):
    def update(self, content: bytes) -> None: ...

    def digest(self) -> bytes: ...


def local_copy(path: epath.PathLike) -> str:
    """`local_copies` of one path."""
    return local_copies([path])[0]


def local_copies(paths: Sequence[epath.PathLike]) -> list[str]:
    """Paths in the file system: those of the copies where the given ones are in a bucket, unchanged otherwise.

    An object that is replaced in the bucket is copied again. Other processes that want the same copies wait.

    Raises:
      DataError: an object is missing, cannot be read or changes while it is read, or the disk is too small.
    """
    there = [str(path) for path in paths if not is_local(path)]
    for folder in {path.rpartition("/")[0] for path in there}:
        with _readable(folder):
            files, name = file_system(folder)
            files.invalidate_cache()  # an object may have been replaced since it was listed
            retried(functools.partial(files.ls, name), folder)  # one request for all objects
    objects = {path: _Object(path) for path in there}
    missing = [found for found in objects.values() if not found.copy.exists()]
    if missing:
        _copy_all(missing)
    return [str(objects[str(path)].copy) if str(path) in objects else str(path) for path in paths]


class _Object:
    """An object of a bucket, and where its copy is."""

    def __init__(self, path: str) -> None:
        self.path = path
        with _readable(path):
            self.files, self.name = file_system(path)
            entry = retried(lambda: self.files.info(self.name), path)
        self.size = int(entry["size"])
        self.new_checksum, self.checksum = checksum_of(entry)
        version = [entry.get(key) for key in ("crc32c", "md5Hash", "ETag")]
        digest = hashlib.blake2b(f"{path} {self.size} {version}".encode(), digest_size=16).hexdigest()
        self.copy = _cache() / f"{digest}-{Path(self.name).name}"
        self.part = self.copy.with_name(f"{self.copy.name}.part")

    def bytes_left(self) -> int:
        """How much must still be fetched."""
        if self.copy.exists():
            return 0
        return max(0, self.size - (self.part.stat().st_size if self.part.exists() else 0))

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """A range of bytes in pieces. Errors are those of the libraries."""
        if not self.path.startswith("gs://"):
            yield read_range(epath.Path(self.path), start, end - start)
            return
        import requests  # gcsfs needs it; its own reading takes five times the processor time of this

        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        self.files.credentials.apply(headers)
        with requests.get(self.files.url(self.name), headers=headers, stream=True, timeout=_ANSWER_WITHIN) as answer:
            answer.raise_for_status()
            while piece := answer.raw.read(_PIECE):
                yield piece


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason(error)}); prepare it again or check the path.") from error


def file_system(path: str) -> tuple[Any, str]:
    """The file system (of fsspec) of a path with a scheme, and the path in it."""
    from fsspec.core import url_to_fs  # not needed without a bucket

    return url_to_fs(path)


def checksum_of(entry: dict[str, Any]) -> tuple[Callable[[], _Checksum] | None, bytes]:
    """The kind of checksum that the storage reports of an object, and its value; None if there is none to compare."""
    if "crc32c" in entry:
        with contextlib.suppress(ImportError):
            import google_crc32c

            return google_crc32c.Checksum, base64.b64decode(entry["crc32c"])
    if "md5Hash" in entry:  # objects that were uploaded in parts have none
        return hashlib.md5, base64.b64decode(entry["md5Hash"])
    return None, b""


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "pixelbert_jax" / "copies"


def _copy_all(objects: Sequence[_Object]) -> None:
    folder, where = objects[0].copy.parent, str(epath.Path(objects[0].path).parent)
    bar = _Megabytes(f"copying {where} to {folder}", sum(found.size for found in objects))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        left, free = sum(found.bytes_left() for found in objects), shutil.disk_usage(folder).free
        if left > free:
            raise DataError(
                f"The copy of {where} needs {left / 1e9:.1f} GB more in {folder}, which has {free / 1e9:.1f} GB free; "
                "make room, set XDG_CACHE_HOME to a folder on a larger disk, or mount the bucket (docs/scaling.md)."
            )
        stop = threading.Event()
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            copies = [pool.submit(_copy, found, bar, stop) for found in objects]
            try:
                for copied in copies:
                    copied.result()
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
    except OSError as error:
        raise DataError(
            f"{where} cannot be copied to {folder} ({reason(error)}); the next start goes on with what is there."
        ) from error
    finally:
        bar.close()


def _copy(found: _Object, bar: "_Megabytes", stop: threading.Event) -> None:
    """Copy one object, or wait until another process has copied it."""
    with _locked_part(found, stop) as file:
        if file is None:
            bar.add(found.size)
            return
        for retry in (False, True):
            if retry:
                file.truncate(0)
            if _fetch(found, file, bar, stop):
                file.flush()
                os.fsync(file.fileno())
                found.part.replace(found.copy)
                return
            if stop.is_set():
                return
    raise DataError(
        f"{found.path} has another length or checksum after two tries; it changes while it is read, or is damaged. "
        "Prepare it again."
    )


@contextlib.contextmanager
def _locked_part(found: _Object, stop: threading.Event) -> Iterator[BinaryIO | None]:
    """The file that is fetched into, for this process alone; None if the copy is complete by then."""
    while not stop.is_set():
        if found.copy.exists():
            yield None
            return
        with open(os.open(found.part, os.O_RDWR | os.O_CREAT, 0o664), "r+b") as file:  # noqa: PTH123
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.2)
                continue
            # Its writer may have renamed it just before its lock became free.
            if found.part.exists() and os.path.samestat(found.part.stat(), os.fstat(file.fileno())):
                yield file
                return
    raise InterruptedError("another file could not be copied")


def _fetch(found: _Object, file: BinaryIO, bar: "_Megabytes", stop: threading.Event) -> bool:
    """Go on at the end of the file; returns whether it is then equal to the object."""
    checksum = found.new_checksum() if found.new_checksum else None

    def add(content: bytes) -> None:
        bar.add(len(content))
        if checksum:
            checksum.update(content)

    def read_until(end: int) -> None:
        for piece in found.read(file.tell(), end):
            if stop.is_set():
                return
            file.write(piece)
            add(piece)

    file.seek(0)
    while content := file.read(_PIECE):
        add(content)
    while file.tell() < found.size and not stop.is_set():
        before, end = file.tell(), min(file.tell() + _RANGE, found.size)
        retried(lambda end=end: read_until(end), found.path)  # another try goes on where the last one was cut
        if file.tell() == before:
            return False
    return file.tell() == found.size and (checksum is None or checksum.digest() == found.checksum)


class _Megabytes:
    """Progress that is counted in bytes by several threads."""

    def __init__(self, stage: str, size: int) -> None:
        self._progress, self._lock, self._bytes = Progress("MB"), threading.Lock(), 0
        self._progress.start(stage, round(size / 1e6))

    def add(self, count: int) -> None:
        with self._lock:
            before, self._bytes = self._bytes, self._bytes + count
            self._progress.step(round(self._bytes / 1e6) - round(before / 1e6))

    def close(self) -> None:
        self._progress.close()
