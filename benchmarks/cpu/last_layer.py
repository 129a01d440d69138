"""The pre-training step whose last encoder layer computes only the positions that the heads read, against one whose
last layer computes all of them, in turn.

    python -m benchmarks.cpu.last_layer --config=experiments/configs/pretrain_photographs.py --images=24
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness.measuring import IMAGES, machine, report, with_vocabulary
from benchmarks.harness.stepping import steps_of, trainer_of
from benchmarks.harness.turns import TURNS, compared, in_turn
from benchmarks.pretraining_step import random_batch
from experiments.run.common_flags import OUTPUT
from experiments.run.config_flags import run_main
from pixelbert_jax.joint import JointModel
from pixelbert_jax.training.sharding import make_mesh

READ, ALL = "positions that are read", "all positions"


def fuse_everywhere(model: JointModel, *arguments: jax.Array | None, index_NxQ: jax.Array | None = None) -> jax.Array:
    """`fuse_at` by way of all positions."""
    hidden_NxSxD = model.fuse(*arguments)
    if index_NxQ is None:
        return hidden_NxSxD[:, :1]
    return jnp.take_along_axis(hidden_NxSxD, index_NxQ[:, :, None], axis=1)


def measure(config: Any, images: int, turns: int) -> dict[str, Any]:
    """Time both steps in turn on the same batch; their first losses agree without dropout."""
    model, mesh = with_vocabulary(config.model), make_mesh(config.mesh)
    batch = random_batch(config, images, model.text.vocabulary_size)
    ways: dict[str, Callable[[], float]] = {}
    losses = {}
    for name in (READ, ALL):
        trainer = trainer_of(model, config.task, config.optimizer, mesh, config.mesh)
        ways[name] = steps_of(trainer, batch)
        if name == ALL:
            with mock.patch.object(JointModel, "fuse_at", fuse_everywhere):  # while the step is traced
                losses[name] = ways[name]()
        else:
            losses[name] = ways[name]()
    if not model.encoder.dropout and not model.encoder.attention_dropout:
        np.testing.assert_allclose(losses[READ], losses[ALL], rtol=1e-4)
    return {
        **machine(mesh),
        "images": images,
        "pairs": images * config.data.texts_per_image,
        "losses": losses,
        **compared(in_turn(ways, turns), READ, ALL),
    }


def main(config: Any) -> None:
    """Entry point behind the flags."""
    report(measure(config, IMAGES.value, TURNS.value), OUTPUT.value)


if __name__ == "__main__":
    run_main(main)
