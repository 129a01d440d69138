"""Programs run one after the other, each in a process of its own with a limit of time."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence

from absl import flags

TIME_LIMIT = flags.DEFINE_float("time_limit", None, "Seconds that all programs may take together.", lower_bound=1)
_TO_LEAVE = 5.0  # seconds that a program has to end after it was asked to
_KEPT = 4000  # characters of what it printed


def run(command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> tuple[int | None, str]:
    """Run a program, and end it and what it started when its time is over.

    Args:
      command: the program and its arguments.
      seconds: that it may take.
      environment: variables that are set besides.

    Returns:
      Its exit code, None if it was ended, and the last of what it printed.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        log.seek(max(0, log.seek(0, os.SEEK_END) - _KEPT))
        return code, log.read().decode(errors="replace")


def _end(process: subprocess.Popen) -> None:
    """End the process and those that it left."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        until = time.monotonic() + _TO_LEAVE
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
    process.wait()
