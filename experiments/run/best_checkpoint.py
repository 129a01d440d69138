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
    """Names of all figures that an evaluation reports, from its step on an abstract batch: nothing is compiled.

    Args:
      task, trainer: of the run.
      canvas: height and width that the model takes.
      streams: what the evaluation batches are called.
    """
    sizes = {"B": trainer.mesh.size, "H": canvas[0], "W": canvas[1]}  # of other axes any size has the same figures
    batch = {
        name: jax.ShapeDtypeStruct([sizes.get(axis, 2) if isinstance(axis, str) else axis for axis in f.shape], f.dtype)
        for name, f in task.fields().items()
    }
    names = jax.eval_shape(trainer.eval_step, trainer.abstract_state, batch)
    return [f"{stream}/{name}" for stream in streams for name in names]


def check_metric(figure: str, known: Collection[str]) -> None:
    """Refuse a figure that is not among those that are known.

    Raises:
      ConfigError: it names them all.
    """
    if figure not in known:
        raise ConfigError(f"checkpoint.best={figure!r} is no evaluation metric; choose of {sorted(known)}.")


class BestCheckpoint:
    """Keeps the state at which a figure was greatest."""

    def __init__(self, workdir: epath.Path, figure: str, resume_step: int) -> None:
        """Take up where metrics.jsonl stood at `resume_step`; a figure named like a loss counts the other way."""
        self._figure, self._sign = figure, -1 if figure.endswith("_loss") else 1
        records = read_metrics(workdir / "metrics.jsonl")
        seen = [self._sign * r[figure] for r in records if r["step"] <= resume_step and r.get(figure) is not None]
        self._best = max(seen, default=float("-inf"))
        self._checkpoints = Checkpoints(workdir / BEST, keep_last=1)

    def offer(self, step: int, metrics: dict[str, float], state: TrainState, description: dict[str, Any]) -> None:
        """Save the state if it is better than all before.

        Raises:
          ConfigError: there is no such figure.
        """
        check_metric(self._figure, metrics)
        value = self._sign * metrics[self._figure]
        # A run that was killed between this save and its next checkpoint comes here again with the same state.
        if value > self._best and (self._checkpoints.latest or -1) < step:
            self._checkpoints.save(step, state, description)
            # Whole before the run's next checkpoint, from which a resumed run would not come here again.
            self._checkpoints.wait()
        self._best = max(self._best, value)

    def close(self) -> None:
        """Finish writing."""
        self._checkpoints.close()
