"""Signals in the processes that load batches: they ignore them, and end when the training process ends.

The loading processes import this module, so it imports no JAX.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any


class Undisturbed:
    """A maker of batches that ignores signals.

    Schedulers and terminals send SIGTERM and Ctrl-C to all processes, but batches are needed until the run has saved.
    """

    def __init__(self, make_batch: Callable[[Any], Any]) -> None:
        self._make_batch = make_batch

    def __call__(self, plan: Any) -> Any:
        return self._make_batch(plan)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Ignore signals and watch the parent. In a loading process, unpickling is the first thing that runs."""
        self.__dict__.update(state)
        parent = multiprocessing.parent_process()
        if parent is not None and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def kill_workers() -> None:
    """End all loading processes before this process ends without clean-up."""
    for worker in multiprocessing.active_children():
        worker.kill()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
