"""The interface of a task for the training step and the loop."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

Batch = dict[str, jax.Array]
Sums = dict[str, tuple[jax.Array, jax.Array]]  # metric -> (sum, count): adds up over rows, batches, hosts


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a batch: the contract between data_pipelines/batches and this package.

    `shape` holds letters for axes that vary (B rows, H and W canvas, ...) and numbers for those that do not;
    values lie in [low, high], without a bound where it is None.
    """

    shape: tuple[str | int, ...]
    dtype: str
    low: int | None
    high: int | None
    meaning: str


class Task(Protocol):
    """A task: pure functions over a module that it builds.

    Attributes:
      model: the configuration of the model.
      config: the configuration of the task.

    Fine-tuning tasks also have `predict(module, batch)`: an answer for each text, BxK.
    """

    model: Any
    config: Any

    def fields(self) -> dict[str, Field]:
        """The arrays of a batch. Their leading axis is always B, the rows. `pair_mask` is True for texts that count."""

    def init(self, *, platform: str | None, rngs: nnx.Rngs) -> nnx.Module:
        """A fresh module: the model with the task's heads."""

    def totals(self, batch: Batch) -> dict[str, jax.Array]:
        """Denominators of the losses over the whole batch, so that micro-batches add up to it exactly."""

    def loss(
        self, module: nnx.Module, batch: Batch, totals: dict[str, jax.Array], key: jax.Array | None
    ) -> tuple[jax.Array, Sums]:
        """This (micro-)batch's part of the loss, and its metrics.

        `key` is None in evaluation. In training all micro-batches of a step get the same key, and
        `batch` has one more array: `row` (B,), the rows' indices in the whole batch.
        """


def mean_metrics(sums: Sums) -> dict[str, jax.Array]:
    """Sums to averages. A metric whose count is 0 is 0."""
    return {name: total / jnp.maximum(count, 1) for name, (total, count) in sums.items()}
