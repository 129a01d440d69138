"""Our pre-training step on one device, for the trials of the GPU benchmark."""

from collections.abc import Callable
from typing import Any

import jax

from benchmarks.gpu.trials import Attempt, timed
from benchmarks.harness.measuring import countable, operations, rounded
from benchmarks.harness.shared_flags import TINY
from benchmarks.harness.stepping import steps_of, trainer_of
from benchmarks.pretraining_step import random_batch
from experiments.run.config import RunConfig
from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.training.sharding import MeshConfig, make_mesh
from pixelbert_jax.training.step import Trainer


def check_card() -> None:
    """Raise ConfigError if JAX sees no card, unless the program is only tried."""
    if jax.default_backend() == "cpu" and not TINY.value:
        raise ConfigError("JAX sees no card; pip install 'jax[cuda12]', or give --tiny to try the program.")


def _trainer(config: RunConfig, model: PixelBertConfig) -> Trainer:
    """The trainer of the config's task and optimizer on one device."""
    return trainer_of(model, config.task, config.optimizer, make_mesh(MeshConfig(), jax.devices()[:1]), MeshConfig())


def our_step(config: RunConfig, images: int) -> Callable[[], float]:
    """Our step on a number of images."""
    batch = random_batch(config, images, config.model.text.vocabulary_size)
    return steps_of(_trainer(config, config.model), batch)


def our_attempt(config: RunConfig, steps: int) -> Attempt:
    """Tries our step; the operations of one are counted without what is recomputed."""

    def attempt(images: int) -> dict[str, Any]:
        before = _peak_bytes()
        found = timed(our_step(config, images), steps, images * config.data.texts_per_image)
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
    counted = _trainer(config, countable(config.model))
    batch = random_batch(config, images, config.model.text.vocabulary_size)
    found = operations(counted.train_step, counted.abstract_state, batch)
    return found / (images * config.data.texts_per_image)
