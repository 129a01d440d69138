"""The lock of a folder in a bucket: an object that its owner renews.

A bucket does not notice that a process has ended. So the lock is free again when it has not been renewed for a while.
Each write states the version of the object that it replaces, so that of two processes only one gets the lock.
"""

import contextlib
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from etils import epath

from data_pipelines.errors import DataError
from data_pipelines.storage.bucket_errors import as_os_errors, reason, retried
from data_pipelines.storage.versioned_objects import Version, versioned_object

RENEWED_EVERY, FREE_AFTER = 10.0, 60.0  # seconds


class BucketLock:
    """One object; the times of its versions and of now are the server's, so the clocks of two machines may differ."""

    def __init__(self, path: epath.Path, say: Callable[[str], None], lost: Callable[[str], None]) -> None:
        """Args:
        path: the object, in gs:// or s3://.
        say: called with a line when the lock of another process is waited for.
        lost: called once, in another thread, with a sentence, when the lock was deleted or taken by another process.
        """
        self._path, self._say, self._lost = path, say, lost
        self._object = versioned_object(path)
        self._owner, self._token = f"process {os.getpid()} on {socket.gethostname()}", uuid.uuid4().hex
        self._watched: Version | None = None  # the other process's, while it is unclear whether that lives
        self._version: str | None = None
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lock in a bucket")

    def attempt(self) -> tuple[bool | None, str]:
        """Try to take the lock; call it again, a second later, while it is unclear whether another process lives.

        Returns:
          True: the lock is held. False: another process has it and renews it. None: unclear. And that process.

        Raises:
          OSError: the bucket cannot be read or written.
        """
        found = retried(self._read, str(self._path))
        owner = found.metadata.get("owner", "an unknown process") if found else ""
        if found and found.age < FREE_AFTER:
            if self._watched is None:
                self._watched = found
                self._say(
                    f"{self._path} is held by {owner}; waiting up to {FREE_AFTER - found.age:.0f} s for its renewal"
                )
            if found.name == self._watched.name:
                return None, owner
            return False, owner
        if not retried(lambda: self._write(found.name if found else None), str(self._path)):
            return None, owner  # another one was quicker
        self._thread.start()
        return True, ""

    def release(self) -> None:
        """Stop renewing, and delete the object unless it was lost."""
        self._ends.set()
        self._thread.join()
        if self._version is None:
            return
        with contextlib.suppress(OSError), as_os_errors():  # else it is free when FREE_AFTER is over
            self._object.delete(self._version)

    def _renew(self) -> None:
        while not self._ends.wait(RENEWED_EVERY):
            try:
                with as_os_errors():
                    kept = self._write(self._version)
            except FileNotFoundError:
                kept = False
            except Exception as error:  # whatever it is, this thread must go on
                print(f"{self._path} is not renewed ({reason(error)}); tried again", file=sys.stderr, flush=True)
                continue
            if not kept:
                self._version = None
                self._lost(
                    f"{self._path} was deleted, or taken by another run while this one did not renew it for "
                    f"{FREE_AFTER:.0f} s; this run has stopped writing."
                )
                return

    def _write(self, version: str | None) -> bool:
        """Replace that version of the object, and remember the new one; False if there is another version now."""
        metadata = {"owner": self._owner, "token": self._token}
        try:
            self._version = self._object.write(version, f"{self._owner}\n", metadata)
        except FileExistsError:  # the precondition does not hold
            written = self._read()
            # This may be our own write, if only the answer to it was lost.
            if written is None or written.metadata.get("token") != self._token:
                return False
            self._version = written.name
        return True

    def _read(self) -> Version | None:
        return self._object.read()


@contextlib.contextmanager
def only_one_in_bucket(folder: epath.Path, flag: str, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Hold the lock `.lock` of a folder in a bucket, as `folder_lock.only_one` does in a file system.

    Args:
      folder: the folder. In a storage other than gs:// and s3:// it is not locked, which is said in a line.
      flag: name of the flag that names it, for messages.
      say: called with lines for a person.

    Yields:
      A function to call before each write; it raises DataError once the lock is lost.

    Raises:
      DataError: another run holds and renews the lock, or the bucket does not take it.
    """
    losses: list[str] = []

    def check() -> None:
        if losses:
            raise DataError(f"{losses[0]} Run the same command again when no other run prepares that folder.")

    if versioned_object(folder) is None:
        say(f"{folder} is not locked: only gs://, s3:// and file systems have locks; start no other run for it")
        yield check
        return
    lock = BucketLock(folder / ".lock", say, losses.append)
    while True:
        try:
            has_lock, owner = lock.attempt()
        except OSError as error:
            raise DataError(f"Cannot write to {folder} ({reason(error)}); give another --{flag}.") from error
        if has_lock is not None:
            break
        time.sleep(1)
    if not has_lock:
        raise DataError(f"Another run ({owner}) is preparing {folder}; wait for it, or give another --{flag}.")
    try:
        yield check
    finally:
        lock.release()
