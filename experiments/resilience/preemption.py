"""Stopping on SIGTERM or Ctrl-C: all processes of a run stop at the same step."""

import os
import signal
import threading
from types import FrameType, TracebackType

from jax.experimental import multihost_utils

from experiments.resilience import distributed

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Inside this block, SIGTERM and Ctrl-C make the run save and stop; a second Ctrl-C ends it at once.

    In a run of several processes JAX handles the signal and gives all of them the same step to stop at.
    """

    def __init__(self) -> None:
        self._requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            # JAX has its own handler of SIGTERM in a run of several processes.
            for number in _SIGNALS[distributed.are_many() :]:
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._restore()

    def reached(self, step: int) -> bool:
        """Whether to save `step` and stop. All processes must call this once per step."""
        if distributed.are_many():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested

    def _request(self, number: int, _: FrameType | None) -> None:
        self._requested = True
        if number == signal.SIGINT:
            # A process that a script starts in the background ignores Ctrl-C by default; the second one ends it.
            before = self._before[number]
            signal.signal(number, signal.default_int_handler if before is signal.SIG_IGN else before)
        if distributed.are_many():
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
