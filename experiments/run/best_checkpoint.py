"""The best checkpoint by an evaluation metric, kept in `best/` beside the last ones."""

from collections.abc import Collection
from typing import Any

import jax
from etils import epath

from experiments.run.metric_writer import read_metrics
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import BEST
from pixelbert_jax.tasks.task import Task
from pixelbert_jax.training.checkpoint import Checkpoints
from pixelbert_jax.training.step import Trainer, TrainState


def evaluation_metrics(task: Task, trainer: Trainer, canvas: tuple[int, int], streams: Collection[str]) -> list[str]:
    """Names of all metrics that an evaluation reports, from its step on an abstract batch: nothing is compiled.

    Args:
      task, trainer: the run's task and trainer.
      canvas: a height and width that the model takes.
      streams: names of the evaluation streams.
    """
    sizes = {"B": trainer.mesh.size, "H": canvas[0], "W": canvas[1]}  # the sizes of other axes do not matter
    batch = {
        name: jax.ShapeDtypeStruct([sizes.get(axis, 2) if isinstance(axis, str) else axis for axis in f.shape], f.dtype)
        for name, f in task.fields().items()
    }
    names = jax.eval_shape(trainer.eval_step, trainer.abstract_state, batch)
    return [f"{stream}/{name}" for stream in streams for name in names]


def check_metric(metric: str, known: Collection[str]) -> None:
    """Refuse an unknown metric.

    Raises:
      ConfigError: it names all known metrics.
    """
    if metric not in known:
        raise ConfigError(f"checkpoint.best={metric!r} is not an evaluation metric; choose one of {sorted(known)}.")


class BestCheckpoint:
    """Keeps the state with the best value of a metric: the greatest, or the smallest of a loss."""

    def __init__(self, workdir: epath.Path, metric: str, resume_step: int) -> None:
        """Continue from the values in metrics.jsonl up to `resume_step`."""
        self._metric, self._sign = metric, -1 if metric.endswith("_loss") else 1
        records = read_metrics(workdir / "metrics.jsonl")
        earlier = [self._sign * r[metric] for r in records if r["step"] <= resume_step and r.get(metric) is not None]
        self._best = max(earlier, default=float("-inf"))
        self._checkpoints = Checkpoints(workdir / BEST, keep_last=1)

    def offer(self, step: int, metrics: dict[str, float], state: TrainState, description: dict[str, Any]) -> None:
        """Save the state if it is better than all before.

        Raises:
          ConfigError: there is no such metric.
        """
        check_metric(self._metric, metrics)
        value = self._sign * metrics[self._metric]
        # A run that was killed between this save and its next checkpoint comes here again with the same state.
        if value > self._best and (self._checkpoints.latest or -1) < step:
            self._checkpoints.save(step, state, description)
            # It must be complete before the run's next checkpoint: a run resumed from there does not come here again.
            self._checkpoints.wait()
        self._best = max(self._best, value)

    def close(self) -> None:
        """Finish writing."""
        self._checkpoints.close()
