"""The lock of a workdir in a bucket of Google's storage: an object that its owner renews.

A bucket does not notice that a process has ended. So the lock is free again when it has not been renewed for a while.
Each write states the version (`generation`) of the object that it replaces, so that of two runs only one gets the lock.
"""

import contextlib
import datetime
import email.utils
import json
import os
import socket
import sys
import threading
import uuid
from typing import Any

from etils import epath

from data_pipelines.storage.bucket_errors import as_os_errors, reason, retried
from experiments.resilience import distributed
from experiments.run.progress import say

RENEWED_EVERY, FREE_AFTER = 10.0, 60.0  # seconds
_ANSWER_WITHIN = 20.0  # seconds, with gcsfs's own tries
_NOT_THERE = "0"  # the generation of an object that does not exist


class BucketLock:
    """One object; the times of its versions and of now are the server's, so the clocks of two machines may differ."""

    def __init__(self, path: epath.Path) -> None:
        """Args: path: the object, gs://bucket/name."""
        self._path = path
        self._bucket, _, self._name = str(path).removeprefix("gs://").partition("/")
        import fsspec  # not needed without a bucket

        self._files = fsspec.filesystem("gs")
        self._token = uuid.uuid4().hex
        self._watched: dict[str, Any] | None = None  # the other run's version, while it is unclear whether that lives
        self._generation = _NOT_THERE
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lock of the workdir")

    def attempt(self) -> tuple[bool | None, str]:
        """Try to take the lock; call it again, a second later, while it is unclear whether another run lives.

        Returns:
          True: the lock is held. False: another run has it and renews it. None: unclear. And that run's process.

        Raises:
          OSError: the bucket cannot be read or written.
        """
        found = retried(self._read, str(self._path))
        owner = found["metadata"]["owner"] if found else ""
        if found and found["age"] < FREE_AFTER:
            if self._watched is None:
                self._watched = found
                say(f"{self._path} is held by {owner}; waiting up to {FREE_AFTER - found['age']:.0f} s for its renewal")
            if found["generation"] == self._watched["generation"]:
                return None, owner
            return False, owner
        if not retried(lambda: self._write(found["generation"] if found else _NOT_THERE), str(self._path)):
            return None, owner  # another one was quicker
        self._thread.start()
        return True, ""

    def release(self) -> None:
        """Stop renewing, and delete the object."""
        self._ends.set()
        self._thread.join()
        with contextlib.suppress(OSError), as_os_errors():  # else it is free when FREE_AFTER is over
            self._call("DELETE", "b/{}/o/{}", self._bucket, self._name, ifGenerationMatch=self._generation)

    def _renew(self) -> None:
        while not self._ends.wait(RENEWED_EVERY):
            try:
                with as_os_errors():
                    kept = self._write(self._generation)
            except FileNotFoundError:
                kept = False
            except Exception as error:  # whatever it is, this thread must go on
                print(f"{self._path} is not renewed ({reason(error)}); tried again", file=sys.stderr, flush=True)
                continue
            if not kept and not self._ends.is_set():
                distributed.end(
                    f"error: {self._path} was deleted, or taken by another run while this one did not renew it for "
                    f"{FREE_AFTER:.0f} s; this run has stopped writing. The same command goes on from the last "
                    "checkpoint, if no other run uses the workdir."
                )
                return

    def _write(self, generation: str) -> bool:
        """Replace that version of the object, and remember the new one; False if there is another version now."""
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        entry = {"name": self._name, "metadata": {"owner": owner, "token": self._token}}
        parts = ("application/json", json.dumps(entry)), ("text/plain", f"{owner}\n")
        body = "".join(f"--==\r\nContent-Type: {kind}\r\n\r\n{text}\r\n" for kind, text in parts) + "--==--\r\n"
        try:
            _, answer = self._call(
                "POST",
                self._files.base.replace("/storage/", "/upload/storage/") + "b/{}/o",
                self._bucket,
                uploadType="multipart",
                ifGenerationMatch=generation,
                headers={"Content-Type": 'multipart/related; boundary="=="'},
                data=body.encode(),
            )
            written = json.loads(answer)
        except FileExistsError:  # the precondition does not hold
            written = self._read()
            # This may be our own write, if only the answer to it was lost.
            if written is None or written["metadata"].get("token") != self._token:
                return False
        self._generation = written["generation"]
        return True

    def _read(self) -> dict[str, Any] | None:
        """The object's entry, with its age in seconds; None if there is no object."""
        try:
            headers, answer = self._call("GET", "b/{}/o/{}", self._bucket, self._name)
        except FileNotFoundError:
            return None
        entry = json.loads(answer)
        now = email.utils.parsedate_to_datetime(headers["Date"])
        entry["age"] = (now - datetime.datetime.fromisoformat(entry["updated"])).total_seconds()
        entry["metadata"] = {"owner": "an unknown process", **entry.get("metadata", {})}
        return entry

    def _call(self, *args: str, **kwargs: Any) -> tuple[Any, bytes]:
        return self._files.call(*args, timeout=_ANSWER_WITHIN, **kwargs)
