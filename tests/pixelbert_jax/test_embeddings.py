"""Tokens and pixels as vectors, against plain numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.embeddings import PixelEmbedding, TextEmbedding, sine_positions
from tests.pixelbert_jax.helpers import randomize, small_model

CHANNELS, WIDTH = 32, 32  # of the small model
SIZES = np.array([[3, 5], [5, 2]], np.int32)


def features(seed=0):
    """Feature maps of 5x5 cells, not negative, with large values outside the valid region."""
    x = np.random.default_rng(seed).uniform(0, 1, (2, 5, 5, CHANNELS)).astype(np.float32)
    for image, (rows, columns) in zip(x, SIZES, strict=True):
        image[rows:] += 100
        image[:, columns:] += 100
    return x


def pixel_embedding(**pixels):
    module = PixelEmbedding(small_model(pixels=pixels), platform="cpu", rngs=nnx.Rngs(params=0))
    randomize(module)
    return module


def layer_norm(x, scale, bias, epsilon=1e-12):
    x = x.astype(np.float64)
    normalized = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return normalized * np.asarray(scale) + np.asarray(bias)


def project(module, cell):
    """Linear layer plus s_v of one cell's features."""
    projected = cell @ np.asarray(module.linear.kernel[...]) + np.asarray(module.linear.bias[...])
    return projected + np.asarray(module.segment[...])


def test_text_embedding():
    module = TextEmbedding(small_model(), rngs=nnx.Rngs(params=0))
    randomize(module)
    text = np.array([[3, 1, 4], [1, 5, 9]])
    word, position = np.asarray(module.word[...]), np.asarray(module.position[...])
    expected = layer_norm(word[text] + position[None, :3], module.layer_norm.scale[...], module.layer_norm.bias[...])
    np.testing.assert_allclose(module(jnp.array(text)), expected, atol=1e-5)


@pytest.mark.parametrize("rounding", ["ceil", "floor"])
def test_pool_projection_and_segment(rounding):
    """Each valid pixel: the largest of its 2x2 valid cells, projected, plus the one s_v."""
    module, x = pixel_embedding(grid_rounding=rounding), features()
    pixels, mask = module(jnp.array(x), jnp.array(SIZES))
    assert pixels.shape == (2, 9, WIDTH)
    pixels, mask = np.asarray(pixels).reshape(2, 3, 3, WIDTH), np.asarray(mask).reshape(2, 3, 3)
    grids = {"ceil": [(2, 3), (3, 1)], "floor": [(1, 2), (2, 1)]}[rounding]
    for i, (grid, (rows, columns)) in enumerate(zip(grids, SIZES, strict=True)):
        valid = np.zeros((3, 3), bool)
        valid[: grid[0], : grid[1]] = True
        np.testing.assert_array_equal(mask[i], valid)
        for row, column in np.argwhere(valid):
            window = x[i, :rows, :columns][2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_allclose(pixels[i, row, column], project(module, window.max((0, 1))), atol=1e-5)


def test_without_pool():
    module, x = pixel_embedding(pool=False), features()
    pixels, mask = module(jnp.array(x), jnp.array(SIZES))
    assert pixels.shape == (2, 25, WIDTH)
    np.testing.assert_array_equal(mask.sum(1), SIZES.prod(1))
    np.testing.assert_allclose(pixels[0, 5 + 3], project(module, x[0, 1, 3]), atol=1e-5)


def test_segment_moves_every_pixel_alike():
    module, x = pixel_embedding(), features()
    before, _ = module(jnp.array(x), jnp.array(SIZES))
    step = np.arange(WIDTH, dtype=np.float32)
    module.segment[...] = module.segment[...] + step
    after, _ = module(jnp.array(x), jnp.array(SIZES))
    np.testing.assert_allclose(after - before, np.broadcast_to(step, after.shape), atol=1e-4)


def test_layer_norm_of_pixels():
    plain, normed = pixel_embedding(), pixel_embedding(layer_norm=True)
    x = features()
    before, _ = plain(jnp.array(x), jnp.array(SIZES))
    after, _ = normed(jnp.array(x), jnp.array(SIZES))
    norm = normed.layer_norm
    np.testing.assert_allclose(after, layer_norm(np.asarray(before), norm.scale[...], norm.bias[...]), atol=2e-4)


def test_conv_before_pool():
    """3x3 convolution that reads zeros outside the valid region, ReLU, pool, s_v."""
    module, x = pixel_embedding(projection="conv3x3_then_pool"), features()
    pixels, mask = module(jnp.array(x), jnp.array(SIZES))
    kernel, segment = np.asarray(module.conv.kernel[...]), np.asarray(module.segment[...])
    for i, (rows, columns) in enumerate(SIZES):
        padded = np.pad(x[i, :rows, :columns], ((1, 1), (1, 1), (0, 0)))
        out = np.zeros((rows, columns, WIDTH))
        for row, column in np.ndindex(rows, columns):
            window = padded[row : row + 3, column : column + 3]
            out[row, column] = np.einsum("hwc,hwco->o", window, kernel)
        for row, column in np.ndindex(-(-rows // 2), -(-columns // 2)):
            window = out[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            expected = np.maximum(window, 0).max((0, 1)) + segment
            np.testing.assert_allclose(pixels[i, 3 * row + column], expected, atol=1e-4)
    np.testing.assert_array_equal(mask.sum(1), [2 * 3, 3 * 1])


def test_row_and_column_positions():
    """With equal features, two neighbours differ only by the difference of their positions."""
    module = pixel_embedding(position="rowcol", pool=False)
    pixels, _ = module(jnp.ones((1, 3, 4, CHANNELS)), jnp.array([[3, 4]]))
    pixels = np.asarray(pixels).reshape(3, 4, WIDTH)
    row, column = np.asarray(module.row[...]), np.asarray(module.column[...])
    base = project(module, np.ones(CHANNELS))
    expected = base + row[:3, None] + column[None, :4]
    np.testing.assert_allclose(pixels, expected, atol=1e-5)


def test_grid_larger_than_the_tables():
    module = pixel_embedding(position="rowcol", pool=False, max_grid=3)
    module(jnp.ones((1, 3, 3, CHANNELS)), jnp.array([[3, 3]]))
    with pytest.raises(ValueError, match="max_grid=3"):
        module(jnp.ones((1, 3, 4, CHANNELS)), jnp.array([[3, 3]]))


def test_sine_positions_by_hand():
    """DETR's: alternating sine and cosine of the position within the valid region."""
    out = np.asarray(sine_positions(jnp.array(SIZES), 5, 5, 8))
    for i, (rows, columns) in enumerate(SIZES):
        for row, column in np.ndindex(rows, columns):
            expected = []
            for position in ((row + 1) / rows * 2 * np.pi, (column + 1) / columns * 2 * np.pi):
                for wave_length in (1, 10000 ** (2 / 4)):
                    expected += [np.sin(position / wave_length), np.cos(position / wave_length)]
            np.testing.assert_allclose(out[i, row, column], expected, atol=1e-5)


def test_sine_positions_are_added():
    with_position, without = pixel_embedding(position="sine2d"), pixel_embedding()
    x = features()
    difference = with_position(jnp.array(x), jnp.array(SIZES))[0] - without(jnp.array(x), jnp.array(SIZES))[0]
    grid = np.array([[2, 3], [3, 1]])
    expected = np.asarray(sine_positions(jnp.array(grid), 3, 3, WIDTH)).reshape(2, 9, WIDTH)
    np.testing.assert_allclose(difference, expected, atol=1e-4)
