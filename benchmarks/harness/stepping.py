"""Our pre-training step, as the benchmarks time it."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.tasks.pretraining import PretrainingConfig, PretrainingTask
from pixelbert_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from pixelbert_jax.training.sharding import MeshConfig, batch_sharding
from pixelbert_jax.training.step import Trainer, make_trainer


def trainer_of(
    model: PixelBertConfig,
    task: PretrainingConfig,
    optimizer: OptimizerConfig,
    mesh: Mesh,
    mesh_config: MeshConfig,
    accumulation: int = 1,
) -> Trainer:
    """The trainer of pre-training, with the optimizer's schedule over 1,000 steps."""
    schedule = make_schedule(optimizer.schedule, 1000, 100)
    return make_trainer(
        PretrainingTask(model, task),
        make_optimizer(optimizer, model.backbone, schedule),
        schedule,
        mesh,
        mesh_config,
        seed=0,
        accumulation=accumulation,
    )


def steps_of(trainer: Trainer, batch: Any) -> Callable[[], float]:
    """Takes one step after the other on the same batch; the loss of each, when it is done."""
    state, arrays = trainer.init(), jax.device_put(batch, batch_sharding(trainer.mesh))

    def step() -> float:
        nonlocal state
        state, metrics = trainer.train_step(state, arrays)
        return float(jax.block_until_ready(metrics)["loss"])

    return step
