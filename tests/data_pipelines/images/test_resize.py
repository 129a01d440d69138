"""Resize rule, canvases, decoding."""

import io

import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.images.resize import (
    ResizeRule,
    choose_canvas,
    decode,
    default_canvases,
    place_on_canvas,
    resize,
    resized_size,
)

R50, X152 = ResizeRule(800, 1333), ResizeRule(600, 1000)


@pytest.mark.parametrize(
    ("size", "rule", "expected"),
    [
        ((480, 640), R50, (800, 1067)),
        ((640, 480), R50, (1067, 800)),
        ((400, 1000), R50, (533, 1333)),  # the longer edge decides
        ((1000, 1000), R50, (800, 800)),
        ((480, 640), X152, (600, 800)),
        ((1, 20000), R50, (1, 1333)),
    ],
)
def test_the_papers_resize_rule(size, rule, expected):
    assert resized_size(*size, rule) == expected


@pytest.mark.parametrize("rule", [R50, X152, ResizeRule(48, 48)])
def test_default_canvases_hold_everything(rule):
    canvases = default_canvases(rule)
    assert all(height % 64 == width % 64 == 0 for height, width in canvases)
    for height in range(40, 2000, 170):
        for width in range(40, 2000, 190):
            size = resized_size(height, width, rule)
            chosen = canvases[choose_canvas(*size, canvases)]
            assert chosen[0] >= size[0] and chosen[1] >= size[1]
            smaller = [c for c in canvases if c[0] * c[1] < chosen[0] * chosen[1]]
            assert not any(c[0] >= size[0] and c[1] >= size[1] for c in smaller)


def test_portrait_and_landscape_get_their_own_canvas():
    canvases = default_canvases(R50)
    assert canvases[choose_canvas(1067, 800, canvases)] == (1088, 832)
    assert canvases[choose_canvas(800, 1067, canvases)] == (832, 1088)
    with pytest.raises(DataError, match="fits none of the canvases"):
        choose_canvas(900, 900, [(64, 64)])


def test_decode_equals_pillow_for_lossless_images():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    np.testing.assert_array_equal(decode(buffer.getvalue()), pixels)
    for broken in (b"", b"not an image", buffer.getvalue()[:20]):
        with pytest.raises(DataError, match="coco/7"):
            decode(broken, "coco/7")


def test_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "JPEG", exif=exif)
    assert decode(buffer.getvalue()).shape == (20, 30, 3)


def test_resize_and_place():
    stripes = np.zeros((4, 8, 3), np.uint8)
    stripes[:, 4:] = 200
    small = resize(stripes, (2, 4))
    assert small.shape == (2, 4, 3)
    assert small[:, :2].max() == 0 and small[:, 2:].min() == 200
    canvas = place_on_canvas(small, (6, 5))
    assert canvas.shape == (6, 5, 3)
    np.testing.assert_array_equal(canvas[:2, :4], small)
    assert canvas[2:].max() == 0 and canvas[:, 4:].max() == 0


@pytest.mark.parametrize("size", [(30, 40), (60, 80), (90, 120), (60, 90)])
def test_resizing_onto_a_canvas(size):
    """The pixels are the same as without a canvas, and no others are written, at any scale."""
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    canvas = np.full((100, 130, 3), 7, np.uint8)
    part = canvas[: size[0], : size[1]]
    np.testing.assert_array_equal(resize(image, size, part), resize(image, size))
    np.testing.assert_array_equal(part, resize(image, size))
    assert (canvas[size[0] :] == 7).all() and (canvas[:, size[1] :] == 7).all()
