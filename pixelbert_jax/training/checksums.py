"""Checksums of arrays, computed on their devices: the same on any mesh, different after any flipped bit."""

from typing import Any

import jax
import jax.numpy as jnp


def checksums(tree: Any) -> dict[str, int]:
    """A 32-bit checksum of every array of a tree, by its path."""
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    return {name: int(value) for name, value in jax.device_get(_checksums(arrays)).items()}


@jax.jit
def _checksums(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """All in one program: several would run at once, and two processes could wait for each other in different ones."""
    return {name: _checksum(array) for name, array in arrays.items()}


def _checksum(array: jax.Array) -> jax.Array:
    """Sum of the bit patterns, each times an odd number that depends on its index, modulo 2**32.

    Sums of integers do not depend on their order, so splitting the array over devices changes nothing; an odd factor
    keeps every single flipped bit visible.
    """
    if array.dtype == jnp.bool:
        array = array.astype(jnp.uint8)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[array.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32).reshape(-1)
    factors = 2 * jax.lax.iota(jnp.uint32, bits.size) + 1
    return (bits * factors).sum(dtype=jnp.uint32)
