"""Pre-training as `python -m experiments.pretrain` runs it, timed phase by phase until its first step is done.

    python -m benchmarks.cpu.phases REPORT.json BEGUN --config=FILE --workdir=FOLDER

`benchmarks.cpu.start_up` starts it; BEGUN is the `time.monotonic()` at which it did. The program itself knows nothing
of it: its functions are wrapped from here. Each moment counts for the innermost phase that is open.
"""

import contextlib
import functools
import importlib
import json
import resource
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROGRAM = "experiments.pretrain"
IMPORTED = ("experiments.run.build", "experiments.run.initialization")  # import all that the program does
WRAPPED = (  # module, function, phase
    ("experiments.run.config_flags", "load_config", "configuration"),
    ("experiments.run.validation", "validate", "configuration"),
    ("experiments.run.build", "open_sources", "opening data"),
    ("experiments.run.build", "find_vocabulary", "vocabulary"),
    ("experiments.run.build", "make_plan", "plan"),
    ("experiments.run.build", "make_mesh", "devices"),
    ("experiments.run.build", "write_run_files", "run's files"),
)


class Phases:
    """Wall and processor seconds of each phase; what lies in none is "rest"."""

    def __init__(self, begun: float) -> None:
        """Args: begun: the `time.monotonic()` from which the first phase counts."""
        self.seconds: dict[str, float] = {}
        self.processor_seconds: dict[str, float] = {}
        self._open, self._since, self._processor_since = ["rest"], begun, 0.0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A block that belongs to one phase."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self.close()

    def open(self, name: str) -> None:
        """Begin a phase, for which what was not counted yet counts too; `close` ends it."""
        self._open.append(name)

    def close(self) -> None:
        """End the innermost phase."""
        self._charge()
        self._open.pop()

    def timed(self, name: str, function: Callable) -> Callable:
        """The function as a phase."""

        @functools.wraps(function)
        def inner(*arguments: Any, **named: Any) -> Any:
            with self.phase(name):
                return function(*arguments, **named)

        return inner

    def _charge(self) -> None:
        now, processor_now, name = time.monotonic(), time.process_time(), self._open[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self.processor_seconds[name] = self.processor_seconds.get(name, 0.0) + processor_now - self._processor_since
        self._since, self._processor_since = now, processor_now


class Programs:
    """Counts what JAX asks its compiler for, and what of it the cache has."""

    def __init__(self) -> None:
        import jax

        self.found = {"asked_for": 0, "read_from_the_cache": 0, "seconds": 0.0}
        jax.monitoring.register_event_listener(self._count)
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _count(self, event: str, **_: Any) -> None:
        self.found["read_from_the_cache"] += event == "/jax/compilation_cache/cache_hits"

    def _add(self, event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.found["asked_for"] += 1
            self.found["seconds"] += seconds


def run(report: Path, begun: float) -> None:
    """Run the program with the arguments in `sys.argv`; it ends after its first step, when the report is written."""
    phases = Phases(begun)
    phases.open("Python")
    phases.close()
    with phases.phase("imports"):
        for name in IMPORTED:
            importlib.import_module(name)
    programs = Programs()
    for module, name, phase in WRAPPED:
        _wrap(module, name, lambda function, phase=phase: phases.timed(phase, function))
    _wrap("experiments.run.build", "trainer_of", lambda function: _timed_trainer(function, phases, programs, report))
    _wrap("experiments.run.loop", "batches", lambda function: lambda *a, **k: _Batches(function(*a, **k), phases))
    runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)


def _wrap(module: str, name: str, wrapper: Callable[[Callable], Callable]) -> None:
    found = importlib.import_module(module)
    setattr(found, name, wrapper(getattr(found, name)))


class _Batches:
    """A stream of batches; waiting for one is a phase."""

    def __init__(self, batches: Any, phases: Phases) -> None:
        self._batches, self._phases = batches, phases
        self.close = batches.close

    def __iter__(self) -> "_Batches":
        return self

    def __next__(self) -> Any:
        with self._phases.phase("first batch"):
            return next(self._batches)


def _timed_trainer(trainer_of: Callable, phases: Phases, programs: Programs, report: Path) -> Callable:
    """`trainer_of` as a phase; of its trainer, init is one, and the first step several and the last."""
    import dataclasses

    import jax

    def inner(*arguments: Any) -> Any:
        with phases.phase("trainer"):
            trainer = trainer_of(*arguments)
        init = phases.timed("first parameters", lambda: jax.block_until_ready(trainer.init()))

        def step(*arguments: Any) -> None:
            with phases.phase("step: trace"):
                traced = trainer.train_step.trace(*arguments)
            with phases.phase("step: lower"):
                lowered = traced.lower()
            with phases.phase("step: compile or read"):
                compiled = lowered.compile()
            with phases.phase("step: run"):
                jax.block_until_ready(compiled(*arguments))
            used = resource.getrusage(resource.RUSAGE_SELF)
            found = {
                "seconds": phases.seconds,
                "processor_seconds": phases.processor_seconds,
                "all_processor_seconds": used.ru_utime + used.ru_stime,
                "programs": programs.found,
            }
            report.write_text(json.dumps(found))
            raise SystemExit(0)

        return dataclasses.replace(trainer, init=init, train_step=step)

    return inner


if __name__ == "__main__":
    _, report_file, begun_at, *rest = sys.argv
    sys.argv = [PROGRAM, *rest]
    run(Path(report_file), float(begun_at))
