"""Headers and damage of encoded images."""

import io
import json
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from data_pipelines.images.files import BadImageError, Header, read_header, verify
from tests.data_pipelines.publishers import encode
from tests.real_data import real_data


def bare_png(height: int, width: int) -> bytes:
    """A PNG with a size in its header, but without pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + crc


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk before its pixels."""
    index = png.index(b"IDAT") - 4
    return png[:index] + chunk(kind, content) + png[index:]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_header_and_verify_agree(format: str) -> None:
    encoded = encode(30, 40, format)
    assert read_header(encoded) == verify(encoded) == Header(format, 30, 40)


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("PNG", "L"),
        ("PNG", "LA"),
        ("PNG", "P"),
        ("PNG", "1"),
        ("PNG", "RGBA"),
        ("PNG", "I;16"),
        ("WEBP", "RGBA"),
    ],
)
def test_unusual_pixels_work(format: str, mode: str) -> None:
    if mode == "I;16":
        pixels = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) * 50
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format)
        encoded = buffer.getvalue()
    else:
        encoded = encode(30, 40, format, mode)
    assert verify(encoded) == Header(format, 30, 40)


def test_orientation_tag_does_not_turn_the_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "JPEG", exif=exif)
    assert verify(buffer.getvalue()) == Header("JPEG", 30, 40)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.99])
def test_truncated_jpeg_is_bad(progressive: bool, kept: float, monkeypatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", progressive=progressive)
    whole = buffer.getvalue()
    assert verify(whole) == Header("JPEG", 200, 300)
    # Simulate OpenCV releases that decode a part and fill the rest.
    grey = np.full((200, 300, 3), 128, np.uint8)
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: grey)
    with pytest.raises(BadImageError, match="truncated"):
        verify(whole[: int(len(whole) * kept)])


def test_truncation_is_found_even_after_a_thumbnail_with_an_end_marker() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x\xff\xd9"
    buffer = io.BytesIO()
    Image.new("RGB", (640, 480), "red").save(buffer, "JPEG", exif=exif, comment=b"\xff\xd9")
    whole = buffer.getvalue()
    with pytest.raises(BadImageError, match="truncated"):
        verify(whole[:-600])


def test_truncated_jpeg_with_pillows_tolerant_mode_off_by_default() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False  # no code may turn it on


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "empty file"),
        (b"<html>404</html>", "not a JPEG"),
        (b"\xff\xd8\xff", "damaged header"),
        (b"\x89PNG\r\n\x1a\n", "damaged header"),
        (b"RIFF....WAVE", "damaged header"),
        (b"BM", "damaged header"),
        (b"GIF89a", "damaged header"),
        (bare_png(0, 5), "no pixels|damaged header"),
        (bare_png(9000, 9000), "over 64 megapixels"),
        (bare_png(30_000, 30_000), "over 64 megapixels"),  # over Pillow's own limit too
        (bare_png(1, 30_001), "a side over 30,000 pixels"),
        (bare_png(5, 5), "truncated"),
    ],
)
def test_reasons(encoded: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=reason):
        verify(encoded)


def test_limits_can_be_given() -> None:
    encoded = encode(100, 200)
    assert read_header(encoded, max_megapixels=0.02).width == 200
    with pytest.raises(BadImageError, match=r"over 0\.019 megapixels"):
        read_header(encoded, max_megapixels=0.019)
    with pytest.raises(BadImageError, match="a side over 199"):
        read_header(encoded, max_side=199)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_random_damage_never_crashes(format: str) -> None:
    whole = encode(30, 40, format)
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.integers(0, len(damaged))] = rng.integers(0, 256)
        try:
            verify(bytes(damaged))
            outcomes.add("good")
        except BadImageError:
            outcomes.add("bad")
    assert "bad" in outcomes


def test_real_photographs() -> None:
    folder = real_data("coco")
    published = json.loads((folder / "annotations" / "captions_val2017.json").read_text())
    for image in published["images"][:10]:
        encoded = (folder / "val2017" / image["file_name"]).read_bytes()
        assert verify(encoded) == Header("JPEG", image["height"], image["width"])
        with pytest.raises(BadImageError):
            verify(encoded[: len(encoded) // 2])
