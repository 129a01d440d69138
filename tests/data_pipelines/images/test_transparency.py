"""Transparent images over white: a file and its Pillow image give the same pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.images.files import BadImageError, verify
from data_pipelines.images.resize import ResizeRule, decode, from_pillow
from data_pipelines.preparation.run import prepare
from data_pipelines.preparation.summary import describe
from data_pipelines.storage.records import read_summary
from tests.data_pipelines.images.test_files import with_chunk
from tests.data_pipelines.publishers import encode, lines


def saved(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def black_square():
    """A black image in which only the middle is opaque."""
    pixels = np.zeros((6, 6, 4), np.uint8)
    pixels[2:4, 2:4, 3] = 255
    expected = np.full((6, 6, 3), 255, np.uint8)
    expected[2:4, 2:4] = 0
    return Image.fromarray(pixels), expected


@pytest.mark.parametrize(("format", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("GIF", "RGBA")])
def test_white_background(format, mode):
    image, expected = black_square()
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    encoded = saved(image, format)
    np.testing.assert_array_equal(decode(encoded), expected)
    np.testing.assert_array_equal(from_pillow(Image.open(io.BytesIO(encoded))), expected)
    np.testing.assert_array_equal(from_pillow(image), expected)


def test_white_background_webp():
    image, expected = black_square()
    np.testing.assert_array_equal(decode(saved(image, "WEBP", lossless=True)), expected)


def test_half_transparent_pixels_are_mixed():
    pixels = np.array([[[200, 100, 0, 51], [10, 20, 30, 255], [9, 9, 9, 0]]], np.uint8)
    assert decode(saved(Image.fromarray(pixels))).tolist() == [[[244, 224, 204], [10, 20, 30], [255, 255, 255]]]


def test_opaque_images_stay_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 4)).astype(np.uint8)
    pixels[..., 3] = 255
    np.testing.assert_array_equal(decode(saved(Image.fromarray(pixels))), pixels[..., :3])


def test_one_transparent_colour():
    grey = np.array([[0, 300, 65535, 40000]], np.uint16)
    encoded = saved(Image.fromarray(grey), transparency=300)
    assert decode(encoded)[0, :, 0].tolist() == [0, 255, 255, 156]
    assert from_pillow(Image.open(io.BytesIO(encoded)))[0, :, 0].tolist() == [0, 255, 255, 156]
    colours = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert decode(saved(colours, transparency=(1, 2, 3))).tolist() == [[[255, 255, 255], [4, 5, 6]]]


CASES = [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("WEBP", "RGBA"), ("BMP", "RGB")]
CASES += [("BMP", "P"), ("BMP", "1"), ("GIF", "L"), ("GIF", "P"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "L")]
CASES += [("PNG", "LA"), ("PNG", "P"), ("PNG", "1")]


@pytest.mark.parametrize(("format", "mode"), CASES)
def test_a_file_and_its_pillow_image_give_the_same_pixels(format, mode):
    encoded = encode(30, 40, format, mode)
    pixels = from_pillow(Image.open(io.BytesIO(encoded)))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, decode(encoded))


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bits_keep_their_upper_half(dtype):
    ramp = np.linspace(0, 65535, 64)[None].repeat(3, 0).astype(np.uint16)
    mode = "I;16" if dtype == "<u2" else "I;16B"
    image = Image.frombytes(mode, (64, 3), ramp.astype(dtype).tobytes())
    np.testing.assert_array_equal(from_pillow(image)[..., 1], ramp >> 8)
    np.testing.assert_array_equal(decode(saved(Image.fromarray(ramp)))[..., 1], ramp >> 8)


def test_a_transparent_colour_of_16_bits():
    import cv2

    pixels = np.array([[[3000, 2000, 1000], [60000, 50000, 40000]]], np.uint16)  # blue first, as in OpenCV
    whole = cv2.imencode(".png", pixels)[1].tobytes()
    encoded = with_chunk(whole, b"tRNS", np.array([1000, 2000, 3000], ">u2").tobytes())
    assert decode(encoded).tolist() == [[[255, 255, 255], [156, 195, 234]]]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("F", (2, 2)), "mode F, which does not define white; convert it"),
        (Image.new("I", (2, 2)), "mode I, which does not define white"),
        (Image.new("RGB", (0, 5)), "no pixels"),
        (Image.new("1", (9000, 9000)), "over 64 megapixels"),
        (Image.open(io.BytesIO(encode(300, 400, "PNG")[:-2000])), "cannot read"),
    ],
)
def test_images_of_pillow_that_are_refused(image, message):
    with pytest.raises(BadImageError, match=message):
        from_pillow(image)


def test_preparing_counts_them(tmp_path):
    (tmp_path / "source").mkdir()
    opaque = encode(6, 6, "PNG", "RGBA")
    for name, content in (("a.png", saved(black_square()[0])), ("b.png", opaque), ("c.png", encode(6, 6, "PNG"))):
        (tmp_path / "source" / name).write_bytes(content)
    names = ("a.png", "b.png", "c.png")
    lines(tmp_path / "source" / "train.jsonl", *({"image": name, "texts": ["a square"]} for name in names))
    folder = prepare("image_text", tmp_path / "data", tmp_path / "source")
    printed = describe(folder, read_summary(folder), ResizeRule(64, 64))
    assert "images of train that are partly transparent, white behind them: 1\n" in printed + "\n"


def test_damaged_transparent_files_are_refused():
    whole = saved(black_square()[0].resize((300, 300)))
    for cut in (60, len(whole) // 2):
        with pytest.raises(BadImageError):
            verify(whole[:cut])
        with pytest.raises(DataError, match=r"a\.png"):
            decode(whole[:cut], "a.png")
