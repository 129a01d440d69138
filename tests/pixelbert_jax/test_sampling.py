"""Random pixel sampling: uniform over the image, each image by itself."""

import jax
import numpy as np
import pytest

from pixelbert_jax.sampling import gather_pixels, sample_pixels

PIXELS, VALID, SAMPLES, DRAWS = 20, 12, 5, 4000


def one_mask(valid=VALID):
    mask = np.zeros((1, PIXELS), bool)
    mask[0, np.random.default_rng(0).permutation(PIXELS)[:valid]] = True
    return mask


@pytest.fixture(scope="module")
def chosen():
    """Which pixels of one image each of many draws has: a DRAWS x PIXELS table of counts."""
    index, mask = sample_pixels(jax.random.split(jax.random.key(0), 1), one_mask(), SAMPLES, DRAWS)
    assert index.shape == mask.shape == (1, DRAWS, SAMPLES)
    assert mask.all()
    return (np.asarray(index[0])[..., None] == np.arange(PIXELS)).sum(1)


def test_without_replacement_and_never_padding(chosen):
    assert chosen.max() == 1
    assert (chosen.sum(1) == SAMPLES).all()
    assert not chosen[:, ~one_mask()[0]].any()


def test_uniform(chosen):
    """Each pixel and each pair of pixels is chosen as often as it should be, to 4.5 deviations."""
    counts = chosen[:, one_mask()[0]]
    single = SAMPLES / VALID
    pair = single * (SAMPLES - 1) / (VALID - 1)
    together = counts.T @ counts
    off_diagonal = together[~np.eye(VALID, dtype=bool)]
    for observed, share in ((counts.sum(0), single), (off_diagonal, pair)):
        deviation = np.sqrt(DRAWS * share * (1 - share))
        assert np.abs(observed - DRAWS * share).max() < 4.5 * deviation


def test_fewer_valid_than_requested():
    mask = one_mask(valid=3)
    index, chosen = sample_pixels(jax.random.split(jax.random.key(1), 1), mask, SAMPLES, 10)
    for row, valid in zip(np.asarray(index[0]), np.asarray(chosen[0]), strict=True):
        assert set(row[valid]) == set(np.flatnonzero(mask[0])) and valid.sum() == 3


def test_more_requested_than_the_grid_has():
    index, chosen = sample_pixels(jax.random.split(jax.random.key(1), 1), one_mask(), 100, 2)
    assert index.shape == (1, 2, PIXELS)
    assert (np.sort(index[0]) == np.arange(PIXELS)).all()
    assert (chosen.sum(-1) == VALID).all()


def test_texts_of_an_image_and_images_differ():
    keys = jax.random.split(jax.random.key(2), 3)
    index, _ = sample_pixels(keys, np.ones((3, PIXELS), bool), SAMPLES, 4)
    draws = {tuple(sorted(draw)) for draw in np.asarray(index).reshape(-1, SAMPLES)}
    assert len(draws) == 3 * 4


def test_row_does_not_depend_on_its_neighbours():
    keys = jax.random.split(jax.random.key(3), 4)
    masks = np.random.default_rng(0).random((4, PIXELS)) < 0.7
    index, chosen = sample_pixels(keys, masks, SAMPLES, 3)
    for i in range(4):
        alone, mask = sample_pixels(keys[i : i + 1], masks[i : i + 1], SAMPLES, 3)
        np.testing.assert_array_equal(alone[0], index[i])
        np.testing.assert_array_equal(mask[0], chosen[i])


def test_gather():
    pixels = np.random.default_rng(0).normal(size=(2, 6, 3))
    index = np.array([[[0, 5], [1, 1]], [[2, 3], [4, 0]]])
    expected = np.stack([pixels[i][index[i]] for i in range(2)])
    np.testing.assert_allclose(gather_pixels(pixels, index), expected, rtol=1e-6)
