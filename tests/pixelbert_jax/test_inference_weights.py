"""Kernels in the dtype in which they are read: the outputs are the same, in half of the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.inference_weights import in_compute_dtype
from pixelbert_jax.tasks.pretraining import PretrainingConfig, PretrainingTask
from pixelbert_jax.tasks.regions_pretraining import RegionsPretrainingConfig, RegionsPretrainingTask
from tests.pixelbert_jax.helpers import make_batch, make_regions_batch, randomize, small_imagebert, small_model


def made(kind, dtype):
    """A task, its module and a batch."""
    if kind == "pixels":
        task = PretrainingTask(small_model(dtype=dtype), PretrainingConfig())
        arrays = make_batch(2, 2)
    else:
        task = RegionsPretrainingTask(small_imagebert(dtype=dtype), RegionsPretrainingConfig())
        arrays = make_regions_batch(2, 2, 5)
    module = task.init(platform="cpu", rngs=nnx.Rngs(params=0))
    randomize(module)
    return task, module, arrays


def bytes_of(module):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.as_pure(nnx.state(module))))


@pytest.mark.parametrize("kind", ["pixels", "regions"])
def test_outputs_are_the_same_bit_by_bit(kind):
    task, module, arrays = made(kind, "bfloat16")
    forward = nnx.jit(lambda module: task.forward(module, arrays, None))
    copy = in_compute_dtype(module, "bfloat16")
    for actual, expected in zip(forward(copy), forward(module), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert copy.model.encoder.layers.mlp_inner.kernel[...].dtype == jnp.bfloat16
    assert copy.itm_head.kernel[...].dtype == copy.model.text_embedding.word[...].dtype == jnp.float32
    assert module.model.encoder.layers.mlp_inner.kernel[...].dtype == jnp.float32  # the given one is as it was
    assert bytes_of(copy) < 0.75 * bytes_of(module)


def test_kernels_of_convolutions_too():
    _, module, _ = made("pixels", "bfloat16")
    copy = in_compute_dtype(module, "bfloat16")
    kernels = [leaf for path, leaf in nnx.to_flat_state(nnx.state(copy.model.backbone)) if path[-1] == "kernel"]
    assert len(kernels) > 3 and all(kernel[...].dtype == jnp.bfloat16 for kernel in kernels)


def test_a_float32_model_stays():
    _, module, _ = made("pixels", "float32")
    copy = in_compute_dtype(module, "float32")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.as_pure(nnx.state(copy, nnx.Param))))
