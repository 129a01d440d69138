"""Processes that load batches: they leave signals to the process that trains, and end when it does.

Imported by them, so it imports no JAX.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any


class Undisturbed:
    """Makes batches as another maker does.

    Schedulers and terminals send SIGTERM and Ctrl-C to all processes; batches are needed until the run has saved.
    """

    def __init__(self, make_batch: Callable[[Any], Any]) -> None:
        self._make_batch = make_batch

    def __call__(self, plan: Any) -> Any:
        return self._make_batch(plan)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a process that loads, unpickling is the first thing that happens."""
        self.__dict__.update(state)
        parent = multiprocessing.parent_process()
        if parent is not None and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def kill_workers() -> None:
    """End all of them, before this process ends without tidying up."""
    for worker in multiprocessing.active_children():
        worker.kill()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
