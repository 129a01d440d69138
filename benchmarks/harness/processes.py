"""Programs run one after the other, each in a process of its own with a limit of time."""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from absl import flags

TIME_LIMIT = flags.DEFINE_float("time_limit", None, "Seconds that all programs may take together.", lower_bound=1)
TO_LEAVE = 10.0  # seconds that a program has to end after it was asked to
# A program that runs others is given more time to end than they are: half as long each level down.
LEAVING = "BENCHMARKS_SECONDS_TO_LEAVE"
_KEPT = 4000  # bytes of what it printed
_POLL = 0.02  # seconds


def run(
    command: Sequence[str],
    seconds: float,
    environment: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[int | None, str]:
    """Run a program, and end it and what it started when its time is over.

    SIGTERM while it runs ends it first, so that a program that runs others in this way leaves none of them.

    Args:
      command: the program and its arguments.
      seconds: that it may take; it is not started without any.
      environment: variables that are set besides.
      clock: tells the seconds.

    Returns:
      Its exit code, None if it was ended, and the last of what it printed.

    Raises:
      SystemExit: this process got SIGTERM, in its main thread.
    """
    if seconds <= 0:
        return None, ""
    end, to_leave = clock() + seconds, float(os.environ.get(LEAVING, TO_LEAVE))
    with tempfile.TemporaryFile() as log, _noted_sigterm() as asked:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {}), LEAVING: str(to_leave / 2)},
            start_new_session=True,
        )
        try:
            while process.poll() is None and not asked and clock() < end:
                time.sleep(_POLL)
            code = process.poll()
        finally:
            _end(process, to_leave)
        if asked:
            raise SystemExit(128 + signal.SIGTERM)
        log.seek(max(0, log.seek(0, os.SEEK_END) - _KEPT))
        return code, log.read().decode(errors="replace")


@contextlib.contextmanager
def _noted_sigterm() -> Iterator[list[int]]:
    """A block in which SIGTERM only adds to the list; outside the main thread, where no handler can be set, it is as
    it was."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(process: subprocess.Popen, to_leave: float) -> None:
    """End the process and those that it left."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        until = time.monotonic() + to_leave
        while process.poll() is None and time.monotonic() < until:
            time.sleep(_POLL)
    process.wait()
