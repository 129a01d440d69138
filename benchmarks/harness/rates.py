"""What the machine's first device reaches: a large matrix product, a large copy."""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.harness.turns import in_turn


def matrix_rate(dtype: str) -> float:
    """Floating-point operations a second of a large matrix product on one device."""
    size = 8192 if jax.default_backend() != "cpu" else 2048
    a = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.dot)
    return 2 * size**3 / _median_seconds(lambda: product(a, a).block_until_ready(), 10)


def copy_rate() -> float:
    """Bytes a second, read and written, of adding to each element of a large array in its own memory on one device."""
    x = jnp.zeros(2**30 if jax.default_backend() != "cpu" else 2**26, jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def step() -> None:
        nonlocal x
        x = add(x).block_until_ready()

    return 2 * x.nbytes / _median_seconds(step, 5)


def _median_seconds(function: Callable[[], Any], turns: int) -> float:
    """Of a function that returns when its work is done; the first call, which compiles, does not count."""
    return statistics.median(in_turn({"way": function}, turns, warm_up=1)["way"])
