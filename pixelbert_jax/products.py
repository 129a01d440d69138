"""Matrix products in bfloat16, in the form that CPUs with AMX multiply fast.

XLA's CPU backend (jaxlib 0.12 and newer) uses AMX only for a product of two matrices of which neither is transposed,
and it folds a transposition into the product. Both gradients of a product have a transposed operand, so that they run
at a fifth of the speed. Here the operand is transposed in blocks, which the compiler does not fold
(docs/architecture.md has the measurements).
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

_FIRST_JAX = (0, 12)  # whose CPU backend multiplies bfloat16 with AMX
_BLOCK = 64  # most rows and columns of a block


def uses_amx(platform: str, dtype: Any) -> bool:
    """Whether plain matrix products of this dtype run on AMX, if compiled for this platform and this machine."""
    return platform == "cpu" and dtype == jnp.bfloat16 and _amx_is_used()


@functools.cache
def _amx_is_used() -> bool:
    if jax.__version_info__[:2] < _FIRST_JAX:
        return False
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:  # not Linux
        return False


def transposed(x_NxI: jax.Array) -> jax.Array:
    """The transpose IxN as an array of its own, which no product takes for a transposed operand."""
    rows, columns = x_NxI.shape
    row, column = _block(rows), _block(columns)
    blocks = x_NxI.reshape(rows // row, row, columns // column, column).transpose(2, 0, 3, 1)
    return jax.lax.optimization_barrier(blocks).transpose(0, 2, 1, 3).reshape(columns, rows)


def _block(length: int) -> int:
    return max(size for size in range(1, _BLOCK + 1) if length % size == 0)


@jax.custom_vjp
def amx_product(x_NxI: jax.Array, kernel_IxO: jax.Array) -> jax.Array:
    """The product NxO, whose gradients are plain products too."""
    return jnp.dot(x_NxI, kernel_IxO)


def _forward(x_NxI: jax.Array, kernel_IxO: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return jnp.dot(x_NxI, kernel_IxO), (x_NxI, kernel_IxO)


def _backward(saved: tuple[jax.Array, jax.Array], dy_NxO: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_NxI, kernel_IxO = saved
    return jnp.dot(dy_NxO, transposed(kernel_IxO)), jnp.dot(transposed(x_NxI), dy_NxO)


amx_product.defvjp(_forward, _backward)


def product(x_NxI: jax.Array, kernel_IxO: jax.Array, *, platform: str) -> jax.Array:
    """A product NxO in the form that is fast on the platform it is compiled for."""
    return (amx_product if uses_amx(platform, x_NxI.dtype) else jnp.dot)(x_NxI, kernel_IxO)


class Linear(nnx.Linear):
    """A linear layer over a flat list of tokens, in the form that is fast on the platform it is compiled for."""

    def __init__(self, inputs: int, outputs: int, *, platform: str, **options: Any) -> None:
        super().__init__(inputs, outputs, **options)
        self.platform = platform

    def __call__(self, x_TxI: jax.Array) -> jax.Array:
        kernel_IxO, bias_O = (parameter[...].astype(self.dtype) for parameter in (self.kernel, self.bias))
        return linear(x_TxI.astype(self.dtype), kernel_IxO, bias_O, platform=self.platform)


def linear(x_TxI: jax.Array, kernel_IxO: jax.Array, bias_O: jax.Array, *, platform: str) -> jax.Array:
    """A product and a bias, TxO, in the form that is fast on the platform it is compiled for."""
    return (_amx_linear if uses_amx(platform, x_TxI.dtype) else _linear)(x_TxI, kernel_IxO, bias_O)


def _linear(x_TxI: jax.Array, kernel_IxO: jax.Array, bias_O: jax.Array) -> jax.Array:
    return jnp.dot(x_TxI, kernel_IxO) + bias_O[None]


def _linear_forward(x_TxI: jax.Array, kernel_IxO: jax.Array, bias_O: jax.Array) -> tuple[jax.Array, tuple]:
    return _linear(x_TxI, kernel_IxO, bias_O), (x_TxI, kernel_IxO)


def _linear_backward(saved: tuple, dy_TxO: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Left alone, the compiler computes dy again within the sum, and what follows dx within its product: both slowly.
    dy_TxO = jax.lax.optimization_barrier(dy_TxO)
    dx_TxI, dkernel_IxO = _backward(saved, dy_TxO)
    return jax.lax.optimization_barrier(dx_TxI), dkernel_IxO, dy_TxO.sum(0)


_amx_linear = jax.custom_vjp(_linear)
_amx_linear.defvjp(_linear_forward, _linear_backward)
