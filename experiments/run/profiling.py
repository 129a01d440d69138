"""A trace of some training steps (`train.profile`), written by `jax.profiler`."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from data_pipelines.storage.paths import is_local
from experiments.resilience.distributed import are_many, index
from experiments.run.progress import say
from pixelbert_jax.errors import ConfigError


class Profile:
    """Traces the steps of a window that are run in this process.

    One process writes to WORKDIR/profile, each of several to WORKDIR/profile/process_I, because on one host their files
    would have the same names.
    """

    def __init__(
        self,
        window: tuple[int, int] | None,
        workdir: epath.Path,
        start: int,
        total: int,
        paused: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ) -> None:
        """Find the steps to trace.

        Args:
          window: the first step and the last step + 1, as metrics.jsonl numbers them; None: no trace.
          workdir: the run's folder.
          start: steps that were done before.
          total: the last step.
          paused: makes a block whose time is no part of a step: starting the trace, and writing it.

        Raises:
          ConfigError: the window begins after the last step, or the workdir is in a bucket.
        """
        self._steps, self._begun, self._paused = range(0), None, paused
        self._folder = workdir / "profile" / (f"process_{index()}" if are_many() else "")
        if window is None:
            return
        if window[0] > total:
            raise ConfigError(f"train.profile={window} begins after the last step, {total}; choose an earlier window.")
        if not is_local(workdir):
            raise ConfigError(f"train.profile: no trace can be written to the bucket of {workdir}; set it to None.")
        self._steps = range(max(window[0], start + 1), min(window[1], total + 1))
        wanted = f"profile: of steps {window[0]} to {window[1] - 1}, "
        if not self._steps:
            say(f"{wanted}all were done before; no trace is written")
        elif len(self._steps) < window[1] - window[0]:
            say(f"{wanted}steps {self._steps[0]} to {self._steps[-1]} are run now and traced")

    @property
    def running(self) -> bool:
        """Whether a trace has begun and not ended."""
        return self._begun is not None

    def before(self, step: int, previous: Any) -> None:
        """Begin the trace if `step` is its first one; `previous` is what the step before computes."""
        if self._steps and step == self._steps[0]:
            jax.block_until_ready(previous)
            with self._paused():
                jax.profiler.start_trace(self._folder)
            self._begun = step

    def after(self, step: int, computed: Any) -> None:
        """End the trace if `step` is its last one; `computed` is what it computes."""
        if self.running and step >= self._steps[-1]:
            jax.block_until_ready(computed)
            self.end(step)

    def end(self, step: int | None = None) -> None:
        """Write the trace, if one was begun; without `step` the run ended within it."""
        if not self.running:
            return
        begun, self._begun = self._begun, None
        with self._paused():
            jax.profiler.stop_trace()
        last = "to the end of the run" if step is None else f"to {step}"
        say(
            f"profile: a trace of steps {begun} {last} is in {self._folder}; open it with: pip install xprof && "
            f"xprof --port=8791 {self._folder}, or open its .trace.json.gz at https://ui.perfetto.dev"
        )
