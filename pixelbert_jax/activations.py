"""Activations of the transformer."""

import jax
import jax.numpy as jnp


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU (Hendrycks and Gimpel 2016), as BERT has it.

    Written with erf: `jax.nn.gelu(approximate=False)` uses erfc, whose gradient is a third slower on the CPU.
    """
    return x * (0.5 * (1.0 + jax.lax.erf(x * jnp.array(0.5**0.5, x.dtype))))
