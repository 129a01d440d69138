"""Shared by the downstream tasks: pairs of texts and images against each one alone, and the classifier."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.pixelbert import PixelBert
from pixelbert_jax.tasks.heads import Classifier, read_pairs
from tests.pixelbert_jax.helpers import make_pairs, randomize, small_model


@pytest.fixture(scope="module")
def model():
    model = PixelBert(small_model(), platform="cpu", rngs=nnx.Rngs(params=0))
    randomize(model)
    return model


@nnx.jit
def one_pair(model, image, size, text, mask):
    pixels, pixel_mask = model.encode_image(image[None], size[None])
    return model.fuse(text[None], mask[None], pixels, pixel_mask)[0, 0]


@pytest.mark.parametrize("per_row", [0, 1, 2])
def test_pairs_equal_each_text_with_each_image(model, per_row):
    """Upright, flat and small images on one canvas, texts of several lengths."""
    rows, texts, each = 3, 2, max(1, per_row)
    arrays = make_pairs(rows, texts, per_row)
    sizes = arrays["image_size"].reshape(-1, 2)
    sizes[0], sizes[1], sizes[-1] = (48, 20), (17, 64), (48, 64)
    found = np.asarray(nnx.jit(lambda model, batch: read_pairs(model, batch, None))(model, arrays))
    assert found.shape == (rows * texts, each, 32)
    images = arrays["images"].reshape(rows, each, *arrays["images"].shape[-3:])
    for row, text, image in np.ndindex(rows, texts, each):
        expected = one_pair(
            model,
            images[row, image],
            sizes[row * each + image],
            arrays["text"][row, text],
            arrays["text_mask"][row, text],
        )
        np.testing.assert_allclose(found[row * texts + text, image], expected, atol=2e-5)
    assert np.abs(found[0] - found[texts]).max() > 0.01


def test_training_drops_and_evaluation_does_not():
    """With a key: dropout, which differs by micro-batch, and the backbone in training; without: neither."""
    calls = []

    class Spy:
        def encode_image(self, images, sizes, train):
            calls.append(train)
            return jnp.zeros((len(images), 3, 32)), jnp.ones((len(images), 3), bool)

        def fuse_at(self, text, text_mask, pixels, mask, dropout_key):
            calls.append(None if dropout_key is None else tuple(jax.random.key_data(dropout_key).tolist()))
            return jnp.zeros((len(text), 5, 32))

    arrays = make_pairs(4, 2)
    for row, key in ((0, None), (0, jax.random.key(0)), (1, jax.random.key(0))):
        read_pairs(Spy(), arrays | {"row": jnp.arange(row, row + 4)}, key)
    assert calls[:2] == [False, None] and calls[2] is calls[4] is True
    assert None not in calls[2:] and calls[3] != calls[5]


def test_classifier_by_hand():
    """Dense, GELU (with erf), LayerNorm, dense; float32 even where the model computes in bfloat16."""
    head = Classifier(small_model(), 64, 5, rngs=nnx.Rngs(params=0))
    randomize(head)
    given = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    x = given @ np.asarray(head.inner.kernel[...]) + np.asarray(head.inner.bias[...])
    x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    x = x * np.asarray(head.layer_norm.scale[...]) + np.asarray(head.layer_norm.bias[...])
    expected = x @ np.asarray(head.outer.kernel[...]) + np.asarray(head.outer.bias[...])
    np.testing.assert_allclose(head(jnp.array(given)), expected, atol=1e-4)
    half = Classifier(small_model(dtype="bfloat16"), 64, 5, rngs=nnx.Rngs(params=0))
    assert half(jnp.array(given, jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.1)])
@pytest.mark.parametrize("layers", [1, 3])
def test_first_position_alone_is_that_of_the_whole(layers, dtype, tolerance):
    """`fuse_at`, whose last layer computes [CLS] only, with padded texts and images."""
    config = small_model(encoder={"layers": layers, "activation": "relu" if layers == 1 else "gelu"}, dtype=dtype)
    model = PixelBert(config, platform="cpu", rngs=nnx.Rngs(params=0))
    randomize(model)
    arrays = make_pairs(5, 1)
    text, text_mask = arrays["text"][:, 0], arrays["text_mask"][:, 0]
    rng = np.random.default_rng(0)
    pixels = jnp.array(rng.normal(0, 1, (5, 6, 32)), dtype)
    mask = np.arange(6) < np.array([6, 1, 3, 6, 2])[:, None]
    whole = nnx.jit(lambda model, *pair: model.fuse(*pair)[:, 0])(model, text, text_mask, pixels, mask)
    first = nnx.jit(lambda model, *pair: model.fuse_at(*pair))(model, text, text_mask, pixels, mask)
    assert first.shape == (5, 1, 32) and first.dtype == whole.dtype == dtype
    np.testing.assert_allclose(first[:, 0].astype(np.float32), whole.astype(np.float32), atol=tolerance)
    garbage = jnp.where(mask[..., None], pixels, 100)
    again = nnx.jit(lambda model, *pair: model.fuse_at(*pair))(model, text, text_mask, garbage, mask)
    np.testing.assert_array_equal(again.astype(np.float32), first.astype(np.float32))
