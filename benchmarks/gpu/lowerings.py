"""Ways to lower convolutions, timed one by one on the card, for the GPU benchmark."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.harness.measuring import rounded
from benchmarks.harness.turns import in_turn
from pixelbert_jax import conv

CANVAS, CHANNELS = (832, 1344), (128, 256, 512, 1024)  # of the images; of the 3x3 convolutions, a stage
RUNS = 4  # that are timed together


def forward_and_gradients(function: Callable, *inputs: jax.Array, dy: jax.Array) -> Callable[[], Any]:
    """RUNS runs of a function with the gradients of all of its inputs, compiled."""

    @jax.jit
    def both(dy: jax.Array, *inputs: jax.Array) -> tuple:
        y, pull = jax.vjp(function, *inputs)
        return y, pull(dy)

    def run() -> None:
        found = None
        for _ in range(RUNS):
            found = both(dy, *inputs)
        jax.block_until_ready(found)

    return run


def lowerings(canvas: tuple[int, int], images: int, until: float, scale: int = 1) -> Iterator[dict[str, Any]]:
    """Milliseconds of ways to lower ResNeXt-152's grouped and ResNet's 1x1 convolutions, forward and gradients.

    Args:
      canvas: of the images.
      images: images.
      until: `time.monotonic()` after which nothing is begun.
      scale: channels are divided by it, to try it.
    """
    maps = [tuple(side // stride for side in canvas) for stride in (4, 8, 16, 32)]
    grouped = {"native": lambda x, k: conv.native(x, k, 1, 32)} | {
        f"merged_to_{n}": lambda x, k, n=n: conv.merged_groups(x, k, 1, 32, n) for n in (32, 64, 128)
    }
    single = {
        "convolution": lambda x, k: conv.native(x, k, 1, 1),
        "product": lambda x, k: conv.pointwise(x, k[0, 0]),
    }
    stages = list(zip(CHANNELS, maps, strict=False))
    cases = [("3x3, 32 groups", 3, c, c, 32, size, grouped) for c, size in stages]
    cases += [("1x1", 1, *ends, 1, size, single) for c, size in stages for ends in ((c // 2, 2 * c), (2 * c, c // 2))]
    for what, size, inputs, outputs, groups, (height, width), ways in cases:
        if time.monotonic() > until:
            yield {"ended": "no time for more"}
            return
        inputs, outputs = max(inputs // scale, groups), max(outputs // scale, groups)
        x = jax.random.normal(jax.random.key(0), (images, height, width, inputs), jnp.bfloat16)
        kernel = jax.random.normal(jax.random.key(1), (size, size, inputs // groups, outputs), jnp.bfloat16)
        dy = jnp.ones((images, height, width, outputs), jnp.bfloat16)
        runs = {name: forward_and_gradients(way, x, kernel, dy=dy) for name, way in ways.items()}
        seconds = in_turn(runs, 5, warm_up=1)
        yield {
            "convolution": what,
            "channels": [inputs, outputs],
            "map": [height, width],
            "images": images,
            "milliseconds": {name: rounded(statistics.median(values) * 1e3 / RUNS) for name, values in seconds.items()},
        }
