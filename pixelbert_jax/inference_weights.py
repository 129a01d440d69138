"""Weights of a model that is only asked, in the dtype in which they are read."""

import jax.numpy as jnp
from flax import nnx

from pixelbert_jax.conv import Conv


def in_compute_dtype(module: nnx.Module, dtype: str) -> nnx.Module:
    """A copy of the module whose kernels are stored in the dtype that its layers compute in.

    Its outputs are the same, bit by bit: each call would cast the kernels to this dtype first. On a CPU this takes as
    long as some of the products.

    Args:
      module: with float32 parameters.
      dtype: of the model's config.
    """
    graphdef, state = nnx.split(module)
    copy = nnx.merge(graphdef, nnx.as_pure(state))  # its own variables of the same arrays
    if jnp.dtype(dtype) == jnp.float32:
        return copy
    for _, node in nnx.iter_graph(copy):
        of_node = node.dtype if isinstance(node, nnx.Linear) else dtype if isinstance(node, Conv) else None
        if of_node:
            for parameter in filter(None, (node.kernel, getattr(node, "bias", None))):
                parameter.set_value(parameter[...].astype(of_node))
    return copy
