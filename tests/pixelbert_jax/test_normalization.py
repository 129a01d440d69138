"""Normalisation over the valid cells only, against plain numpy and PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.config import ResNetConfig
from pixelbert_jax.normalization import BatchNorm, GroupNorm
from pixelbert_jax.resnet import valid_mask
from tests.pixelbert_jax.helpers import randomize

CHANNELS, EPSILON, MOMENTUM = 6, 1e-3, 0.8
SIZES = np.array([[3, 5], [4, 2]])
CONFIG = ResNetConfig(
    stem_width=3,
    widths=(6,),
    inner_widths=(3,),
    depths=(1,),
    strides=(1,),
    norm_epsilon=EPSILON,
    batch_momentum=MOMENTUM,
    norm_groups=3,
    frozen_parts=0,
)


@pytest.fixture
def x():
    """Two maps with an offset; what lies outside the valid region is far off."""
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (2, 4, 5, CHANNELS)).astype(np.float32)
    return np.where(mask(), x, 1000 + x)


def mask():
    return np.array(valid_mask(jnp.array(SIZES), 4, 5))


def norm(kind, **config):
    module = kind(CHANNELS, dataclasses.replace(CONFIG, **config))
    randomize(module)
    return module


def valid_cells(x):
    """Cells of all images in one list, NxC."""
    return x[np.broadcast_to(mask()[..., 0], x.shape[:3])].astype(np.float64)


def affine(module, values):
    return values * np.asarray(module.scale[...]) + np.asarray(module.bias[...])


def test_batch_norm_trains_on_valid_cells(x):
    module = norm(BatchNorm, batch_statistics="train")
    mean, variance = np.asarray(module.mean[...]), np.asarray(module.variance[...])
    out = np.asarray(module(jnp.array(x), jnp.array(mask()), train=True))
    cells = valid_cells(x)
    assert len(cells) == 3 * 5 + 4 * 2
    normalized = (cells - cells.mean(0)) / np.sqrt(cells.var(0) + EPSILON)
    np.testing.assert_allclose(valid_cells(out), affine(module, normalized), atol=1e-5)
    np.testing.assert_allclose(module.mean[...], MOMENTUM * mean + (1 - MOMENTUM) * cells.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        module.variance[...], MOMENTUM * variance + (1 - MOMENTUM) * cells.var(0, ddof=1), rtol=1e-5
    )


def test_batch_norm_trains_like_torch(x):
    """Without padding: output, running statistics and the gradient of the input."""
    torch = pytest.importorskip("torch")
    module = norm(BatchNorm, batch_statistics="train")
    reference = torch.nn.BatchNorm2d(CHANNELS, eps=EPSILON, momentum=1 - MOMENTUM)
    for name, ours in (
        ("weight", "scale"),
        ("bias", "bias"),
        ("running_mean", "mean"),
        ("running_var", "variance"),
    ):
        getattr(reference, name).data = torch.tensor(np.asarray(getattr(module, ours)[...]))
    graphdef, state = nnx.split(module)

    def loss(x):
        module = nnx.merge(graphdef, nnx.as_pure(state))
        out = module(x, jnp.ones((2, 4, 5, 1), bool), train=True)
        return jnp.sin(out).sum(), (out, module.mean[...], module.variance[...])

    gradient, (out, mean, variance) = jax.grad(loss, has_aux=True)(jnp.array(x))
    torch_x = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    torch_out = reference(torch_x)
    torch.sin(torch_out).sum().backward()
    back = lambda tensor: tensor.detach().numpy().transpose(0, 2, 3, 1)  # noqa: E731
    np.testing.assert_allclose(out, back(torch_out), atol=1e-4)
    np.testing.assert_allclose(gradient, back(torch_x.grad), atol=1e-6)
    np.testing.assert_allclose(mean, reference.running_mean, rtol=1e-5)
    np.testing.assert_allclose(variance, reference.running_var, rtol=1e-5)


@pytest.mark.parametrize(("statistics", "train"), [("frozen", True), ("train", False)])
def test_batch_norm_with_stored_statistics(x, statistics, train):
    module = norm(BatchNorm, batch_statistics=statistics)
    mean, variance = np.asarray(module.mean[...]), np.asarray(module.variance[...])
    out = module(jnp.array(x), jnp.array(mask()), train=train)
    expected = affine(module, (x - mean) / np.sqrt(variance + EPSILON))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(module.mean[...], mean)
    np.testing.assert_array_equal(module.variance[...], variance)


def test_group_norm(x):
    module = norm(GroupNorm, norm="group")
    out = np.asarray(module(jnp.array(x), jnp.array(mask()), train=False))
    for i, (height, width) in enumerate(SIZES):
        valid = x[i, :height, :width].astype(np.float64).reshape(height, width, 3, CHANNELS // 3)
        mean, variance = valid.mean((0, 1, 3)), valid.var((0, 1, 3))
        normalized = (valid - mean[:, None]) / np.sqrt(variance + EPSILON)[:, None]
        expected = affine(module, normalized.reshape(height, width, CHANNELS))
        np.testing.assert_allclose(out[i, :height, :width], expected, atol=1e-5)
