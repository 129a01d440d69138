"""A watchdog that reports where a run hangs, and ends a run of several processes that hangs too long."""

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from experiments.resilience import distributed
from experiments.run.progress import warn

T = TypeVar("T")
_IDLE = {
    "threading.py",
    "queue.py",
    "selectors.py",
    "thread.py",
    "connection.py",
    "watchdog.py",
    "_monitor.py",
}  # files in which idle threads wait
_FRAMES = 8  # of each thread, the innermost ones


class Watchdog:
    """A thread that checks how long the current wait lasts. Only blocks that are marked by `waiting` count."""

    def __init__(self, report_after: float, end_after: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the thread.

        Args:
          report_after: seconds of a wait until a report with the stacks of all busy threads, once per wait; 0: never.
          end_after: seconds of a wait until a process of several ends itself, and so the run; 0: never.
          clock: the time in seconds, from any moment on.
        """
        self._report_after, self._end_after, self._clock = report_after, end_after, clock
        self._wait: tuple[str, float, float, bool] | None = None  # what for, since when, patience, ends
        self._reported: tuple[str, float, float, bool] | None = None  # the wait that was reported last
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="watchdog", daemon=True)
        if report_after or end_after:
            self._thread.start()

    @contextlib.contextmanager
    def waiting(self, what: str, patience: float = 1.0, *, ends: bool = True) -> Iterator[None]:
        """A block that may hang. `patience` multiplies the time until the report. Without `ends` the run goes on."""
        self._wait = what, self._clock(), patience, ends
        try:
            yield
        finally:
            self._wait = None

    def each(self, items: Iterable[T], what: str) -> Iterator[T]:
        """The items; taking each of them is a wait."""
        iterator, end = iter(items), object()
        while True:
            with self.waiting(what):
                item = next(iterator, end)
            if item is end:
                return
            yield item

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()

    def look(self) -> None:
        """Report or end the current wait if it has lasted too long; the thread calls this repeatedly."""
        if (wait := self._wait) is None:
            return
        what, since, patience, ends = wait
        seconds = self._clock() - since
        if self._report_after and wait is not self._reported and seconds >= self._report_after * patience:
            self._reported = wait
            warn(_report(what, seconds))
        if ends and distributed.are_many() and 0 < self._end_after <= seconds:
            distributed.end(
                f"error: {what} has lasted {seconds:.0f} s, more than train.stall_end; this process ends, and with "
                f"it the run; {distributed.GO_ON}."
            )

    def _look_on(self) -> None:
        limits = [limit for limit in (self._report_after, self._end_after) if limit]
        while not self._closed.wait(min(1.0, *limits, min(limits) / 4)):
            self.look()


def _report(what: str, seconds: float) -> str:
    lines = [f"{what} has lasted {seconds:.0f} s; the threads at work:"]
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for number, frame in sys._current_frames().items():
        stack = traceback.extract_stack(frame)
        is_main = number == threading.main_thread().ident
        if is_main or Path(stack[-1].filename).name not in _IDLE:
            lines.append(f"  {names.get(number, number)}:")
            lines += [f"    {f.filename}:{f.lineno} {f.name}: {f.line}" for f in stack[-_FRAMES:]]
    return "\n".join(lines)
