"""The backbone: blind to padding, frozen parts, rematerialisation. Parity: weights/test_resnet_weights.py."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax import resnet
from pixelbert_jax.config import ResNetConfig
from tests.pixelbert_jax.helpers import assert_trees_close, assert_trees_equal, named, randomize

BOTTLENECK = ResNetConfig(
    depths=(1, 2),
    widths=(16, 24),
    inner_widths=(8, 16),
    strides=(1, 2),
    groups=4,
    stem_width=8,
    frozen_parts=0,
    remat=False,
)
BASIC = dataclasses.replace(BOTTLENECK, block="basic", groups=1, inner_widths=(16, 24))
GROUP_NORM = dataclasses.replace(BOTTLENECK, norm="group", norm_groups=4)
STRIDE_IN_1X1 = dataclasses.replace(GROUP_NORM, stride_in="conv1x1")  # GroupNorm shows a wrong mask
SMALL_STEM = dataclasses.replace(BASIC, stem="conv3x3", stem_stride=1, depths=(1, 1))
TRAINED_STATISTICS = dataclasses.replace(BOTTLENECK, batch_statistics="train")

PORTRAIT, LANDSCAPE, WHOLE = (61, 37), (35, 70), (64, 96)  # WHOLE: as large as the canvas
SIZES = (PORTRAIT, LANDSCAPE, WHOLE)


def make_backbone(config, platform="cpu"):
    module = resnet.ResNet(config, platform=platform, rngs=nnx.Rngs(params=0))
    randomize(module)
    return module


@functools.cache
def images():
    rng = np.random.default_rng(1)
    return [rng.normal(0, 1, (*size, 3)).astype(np.float32) for size in SIZES]


def on_canvas(image, canvas=WHOLE, seed=2):
    """The image in the top-left corner, garbage elsewhere."""
    garbage = np.random.default_rng(seed).normal(0, 100, (*canvas, 3)).astype(np.float32)
    garbage[: image.shape[0], : image.shape[1]] = image
    return garbage


def alone(run, image):
    """Features on a canvas of the image's own size; all of them are valid."""
    features, size = run(image[None], np.array([image.shape[:2]], np.int32))
    assert tuple(size[0]) == features.shape[1:3]
    return np.asarray(features[0])


def assert_blind_to_canvas(module):
    """An image has the same features alone, on a large canvas, and beside larger images."""
    run = jax.jit(lambda images, sizes: module(images, sizes))
    sizes = np.array(SIZES, np.int32)
    canvases = np.stack([on_canvas(image) for image in images()])
    features, cells = jax.device_get(run(canvases, sizes))
    for i, image in enumerate(images()):
        expected = alone(run, image)
        rows, columns = cells[i]
        assert (rows, columns) == expected.shape[:2]
        np.testing.assert_allclose(features[i, :rows, :columns], expected, rtol=1e-4, atol=1e-4)
        together, others = features[i, :rows, :columns], np.roll(canvases, 1, axis=0)
        features_rolled, _ = run(others, np.roll(sizes, 1, axis=0))
        rolled = features_rolled[(i + 1) % len(SIZES), :rows, :columns]
        np.testing.assert_allclose(rolled, together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [BOTTLENECK, BASIC, GROUP_NORM, STRIDE_IN_1X1, SMALL_STEM])
def test_features_do_not_depend_on_the_canvas(config):
    assert_blind_to_canvas(make_backbone(config))


def test_swapped_height_and_width_would_be_noticed(monkeypatch):
    """The slip that a known peer has: the mask takes the height for the width."""
    right = resnet.valid_mask
    monkeypatch.setattr(resnet, "valid_mask", lambda size, height, width: right(size[:, ::-1], height, width))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_blind_to_canvas(make_backbone(BASIC))


@pytest.mark.parametrize("config", [BOTTLENECK, GROUP_NORM, STRIDE_IN_1X1])
def test_padding_gets_no_gradient(config):
    """Of features inside the valid region, with respect to garbage outside."""
    module = make_backbone(config)

    def total(image):
        features, size = module(image[None], jnp.array([PORTRAIT]))
        mask = resnet.valid_mask(size, *features.shape[1:3])
        return jnp.sin(jnp.where(mask, features, 0)).sum()

    gradient = np.array(jax.jit(jax.grad(total))(on_canvas(images()[0])))
    inside = gradient[: PORTRAIT[0], : PORTRAIT[1]].copy()
    gradient[: PORTRAIT[0], : PORTRAIT[1]] = 0
    assert np.abs(inside).max() > 0 and not gradient.any()


def test_valid_mask_by_hand():
    mask = resnet.valid_mask(jnp.array([[1, 3], [2, 1]]), 2, 4)[..., 0]
    expected = [[[1, 1, 1, 0], [0, 0, 0, 0]], [[1, 0, 0, 0], [1, 0, 0, 0]]]
    np.testing.assert_array_equal(mask, np.array(expected, bool))


def train_once(config, seed=0):
    """Features, gradients of the parameters, and statistics of one training forward pass."""
    module = make_backbone(config)
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    canvases = np.stack([on_canvas(image) for image in images()])

    @jax.jit
    def run(params, rest):
        def loss(params):
            module = nnx.merge(graphdef, params, rest)
            features, size = module(canvases, jnp.array(SIZES), train=True)
            mask = resnet.valid_mask(size, *features.shape[1:3])
            features = jnp.where(mask, features, 0)
            statistics = nnx.as_pure(nnx.state(module, nnx.Not(nnx.Param)))
            return jnp.sin(features).mean(), (features, statistics)

        (_, (features, statistics)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return features, gradients, statistics

    before = nnx.as_pure(rest)
    features, gradients, statistics = run(nnx.as_pure(params), before)
    return features, named(gradients), named(statistics), named(before)


@pytest.mark.parametrize("frozen_parts", [0, 1, 2, 3])
def test_frozen_parts(frozen_parts):
    """No gradient reaches them and their statistics stay; all other parts move."""
    config = dataclasses.replace(TRAINED_STATISTICS, frozen_parts=frozen_parts, depths=(1, 1))
    _, gradients, statistics, before = train_once(config)

    def frozen(name):
        part = 1 if name.startswith("stem") else 2 + int(name.split("/")[1])
        return part <= frozen_parts

    assert len(gradients) == 3 * len(statistics) // 2
    for name, gradient in gradients.items():
        assert gradient.any() != frozen(name), name
    for name, value in statistics.items():
        assert (value == before[name]).all() == frozen(name), name


@pytest.mark.parametrize("config", [TRAINED_STATISTICS, GROUP_NORM])
def test_remat_changes_nothing(config):
    plain = train_once(config)
    remat = train_once(dataclasses.replace(config, remat=True))
    for actual, expected in zip(remat, plain, strict=True):
        assert_trees_close(actual, expected, 1e-4)


def test_frozen_statistics_stay_in_training():
    _, _, statistics, before = train_once(BOTTLENECK)
    assert_trees_equal(statistics, before)
