"""Max pooling, NHWC, with the lowering that is fastest on the platform it is compiled for."""

import itertools

import jax
import jax.numpy as jnp


def max_pool(x_BxHxWxC: jax.Array, size: int, stride: int, padding: tuple[int, int], *, platform: str) -> jax.Array:
    """Max pool over square windows. Padding is never the maximum. Of equal cells the first one takes the gradient.

    On the CPU the gradient of the compiler's own window reduction is an order of magnitude slower than that of
    comparisons.
    """
    if platform != "cpu":
        return jax.lax.reduce_window(
            x_BxHxWxC,
            -jnp.inf,  # the only start value whose gradient JAX knows
            jax.lax.max,
            (1, size, size, 1),
            (1, stride, stride, 1),
            ((0, 0), padding, padding, (0, 0)),
        )
    height, width = ((n + sum(padding) - size) // stride + 1 for n in x_BxHxWxC.shape[1:3])
    x = jnp.pad(x_BxHxWxC, ((0, 0), padding, padding, (0, 0)), constant_values=-jnp.inf)
    largest = None
    for i, j in itertools.product(range(size), repeat=2):
        cell = x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        # A NaN stays, as it does in the reduction.
        largest = cell if largest is None else jnp.where((largest >= cell) | jnp.isnan(largest), largest, cell)
    return largest
