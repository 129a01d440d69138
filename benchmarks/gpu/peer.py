"""The PyTorch peer's pre-training step, for the trials of the GPU benchmark."""

import gc
import math
from collections.abc import Callable
from typing import Any

from benchmarks.gpu.trials import Attempt, timed
from benchmarks.harness.measuring import rounded
from benchmarks.pretraining_step import random_batch
from experiments.run.config import RunConfig
from pixelbert_jax.errors import ConfigError


def peer_step(
    config: RunConfig, memory_gib: float, *, compiled: bool, tiny: bool
) -> Callable[[int], Callable[[], float]]:
    """The peer's step on a number of images: channels-last, bfloat16 by autocast, its own attention.

    It gets the same images, padded to a multiple of 32 and not to our canvas.

    Args:
      config: of the model.
      memory_gib: that it may take of the card.
      compiled: by torch.compile, on a card.
      tiny: without a card, it is tried on the CPU.

    Raises:
      ConfigError: PyTorch, or a card that it sees, is missing.
    """
    try:
        import torch

        from benchmarks.harness.torch_peer import TorchPixelBert, make_step, torch_batch
    except ImportError as error:
        raise ConfigError(f"The peer needs {error.name}; pip install torch.") from None
    cuda = torch.cuda.is_available()
    if not cuda and not tiny:
        raise ConfigError("PyTorch sees no card; install one with CUDA, or give --tiny to try the program.")
    device = "cuda" if cuda else "cpu"
    if cuda:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_gib * 2**30 / total))
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")

    def step_of(images: int) -> Callable[[], float]:
        batch = random_batch(config, images, config.model.text.vocabulary_size)
        height, width = (math.ceil(side / 32) * 32 for side in batch["image_size"][0].tolist())
        batch["images"] = batch["images"][:, :height, :width]
        peer = TorchPixelBert(config.model, config.task.sampled_pixels).to(device)
        step = make_step(peer, config.optimizer, compiled=compiled and cuda, bfloat16=True)
        arrays = torch_batch(batch, device)
        return lambda: step(arrays)

    return step_of


def peer_attempt(config: RunConfig, steps: int, memory_gib: float, *, compiled: bool, tiny: bool) -> Attempt:
    """Tries the peer's step with more and more images; the arguments are those of `peer_step`, and its errors."""
    step_of = peer_step(config, memory_gib, compiled=compiled, tiny=tiny)
    import torch

    cuda = torch.cuda.is_available()

    def attempt(images: int) -> dict[str, Any]:
        gc.collect()
        if cuda:
            torch._dynamo.reset()  # programs of the size before
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        found = timed(step_of(images), steps, images * config.data.texts_per_image)
        return found | {"peak_gib": rounded(torch.cuda.max_memory_reserved() / 2**30) if cuda else None}

    return attempt
