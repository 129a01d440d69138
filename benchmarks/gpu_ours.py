"""Our pre-training step on one device, for the trials of the GPU benchmark."""

from typing import Any

import jax

from benchmarks.gpu_trials import Attempt, timed
from benchmarks.measuring import countable, operations, rounded
from benchmarks.pretraining_step import random_batch
from experiments.config import RunConfig
from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.tasks.pretraining import PretrainingTask
from pixelbert_jax.training.optimizer import make_optimizer, make_schedule
from pixelbert_jax.training.sharding import MeshConfig, batch_sharding, make_mesh
from pixelbert_jax.training.step import Trainer, make_trainer


def trainer_of(config: RunConfig, model: PixelBertConfig) -> Trainer:
    """The trainer of the config's task and optimizer on one device."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    schedule = make_schedule(config.optimizer.schedule, 1000, 100)
    optimizer = make_optimizer(config.optimizer, model.backbone, schedule)
    return make_trainer(PretrainingTask(model, config.task), optimizer, schedule, mesh, MeshConfig(), seed=0)


def our_attempt(config: RunConfig, steps: int) -> Attempt:
    """Tries our step; the operations of one are counted without what is recomputed."""

    def attempt(images: int) -> dict[str, Any]:
        before, trainer = _peak_bytes(), trainer_of(config, config.model)
        batch = random_batch(config, images, config.model.text.vocabulary_size)
        arrays, state = jax.device_put(batch, batch_sharding(trainer.mesh)), trainer.init()

        def step() -> float:
            nonlocal state
            state, metrics = trainer.train_step(state, arrays)
            return float(metrics["loss"])

        found = timed(step, steps, images * config.data.texts_per_image)
        return found | {"peak_gib": peak_gib(before, _peak_bytes())}

    return attempt


def peak_gib(before: int | None, after: int | None) -> float | None:
    """Peak of a trial's memory in GiB, of the process's before and after it in bytes.

    None where the device tells none, or where a trial before took as much: the process's peak never falls.
    """
    return rounded(after / 2**30) if after is not None and after > (before or 0) else None


def _peak_bytes() -> int | None:
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def operations_a_pair(config: RunConfig, images: int) -> float:
    """Floating-point operations of our step, a pair, as the compiler counts them."""
    counted = trainer_of(config, countable(config.model))
    batch = random_batch(config, images, config.model.text.vocabulary_size)
    found = operations(counted.train_step, counted.abstract_state, batch)
    return found / (images * config.data.texts_per_image)
