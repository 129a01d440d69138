"""Encoded images: read the header, and check that the whole file decodes.

The size is read from the header before anything is decoded, so that a small file with a huge image is rejected early.
Training decodes with OpenCV. Pillow reads the headers and detects truncated files, which some OpenCV releases fill
with grey.
"""

import dataclasses
import io
import struct

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from data_pipelines.errors import DataError
from data_pipelines.images.orientation import AS_STORED, orientation_of, upright_size
from data_pipelines.images.transparency import opacity

MAX_MEGAPIXELS = 64.0
MAX_SIDE = 30_000  # pixels
MAX_BYTES = 256 << 20
MAX_SCANS = 100  # of a progressive JPEG; each scan takes as long as the whole image, and ten are usual

# The readers are called directly, because Image.open applies Pillow's own, process-wide size limit.
_READERS: tuple[tuple[bytes, str, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", "JPEG", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", "PNG", PngImagePlugin.PngImageFile),
    (b"RIFF", "WEBP", WebPImagePlugin.WebPImageFile),
    (b"BM", "BMP", BmpImagePlugin.BmpImageFile),
    (b"GIF8", "GIF", GifImagePlugin.GifImageFile),
)

_START_OF_SCAN = b"\xff\xda"

# Exceptions of Pillow's readers for damaged files.
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError)
DAMAGE += (struct.error, MemoryError, Image.DecompressionBombError)


class BadImageError(DataError):
    """The bytes are not a usable image; `reason` is short and the same for all damage of one kind."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of an image: its format ("JPEG", "PNG", ...) and its size in pixels.

    Only `verify` sets the other fields: `transparent` is True if some pixel is not opaque, and `orientation` is the
    orientation tag.
    """

    format: str
    height: int
    width: int
    transparent: bool = False
    orientation: int = AS_STORED


def read_header(encoded: bytes, *, max_megapixels: float = MAX_MEGAPIXELS, max_side: int = MAX_SIDE) -> Header:
    """Read the format and size of an encoded image without decoding it.

    Raises:
      BadImageError: the file is not a JPEG, PNG, WebP, BMP or GIF, has a damaged header or no pixels, or exceeds a
        limit.
    """
    return open_image(encoded, max_megapixels, max_side)[0]


def verify(
    encoded: bytes, *, max_megapixels: float = MAX_MEGAPIXELS, max_side: int = MAX_SIDE, turn: bool = False
) -> Header:
    """Decode an image completely, as training does, and return its header.

    With `turn`, the size is the size after turning the image upright by its orientation tag. Without it, the tag is
    ignored, and the size is that of the header.

    Raises:
      BadImageError: as `read_header`; also if the file is truncated, or does not decode to the size in the header.
    """
    header, image = open_image(encoded, max_megapixels, max_side)
    try:
        image.draft("RGB", (1, 1))  # reads a JPEG to its end, but at an eighth of its size
        image.load()
        transparent = opacity(image) is not None
    except DAMAGE as error:
        raise BadImageError("truncated or damaged file") from error
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels_HxWx3 = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error:
        pixels_HxWx3 = None
    if pixels_HxWx3 is None:
        raise BadImageError("not decodable by OpenCV")
    if pixels_HxWx3.shape != (header.height, header.width, 3):
        raise BadImageError("decoded size differs from the header")
    orientation = orientation_of(image) if turn else AS_STORED
    height, width = upright_size(header.height, header.width, orientation)
    return Header(header.format, height, width, transparent, orientation)


def open_image(
    encoded: bytes, max_megapixels: float = MAX_MEGAPIXELS, max_side: int = MAX_SIDE
) -> tuple[Header, ImageFile.ImageFile]:
    """Read the header, check the limits, and return it with the Pillow image, which is not decoded yet.

    Raises:
      BadImageError: as `read_header`.
    """
    if not encoded:
        raise BadImageError("empty file")
    if len(encoded) > MAX_BYTES:
        raise BadImageError(f"file over {MAX_BYTES >> 20} MiB")
    match = next((entry for entry in _READERS if encoded.startswith(entry[0])), None)
    if match is None:
        raise BadImageError("not a JPEG, PNG, WebP, BMP or GIF")
    _, name, reader = match
    if name == "WEBP":
        check_size(*_webp_size(encoded), max_megapixels, max_side)  # Pillow's reader allocates the whole image
    try:
        image = reader(io.BytesIO(encoded))
        width, height = image.size
    except DAMAGE as error:
        raise BadImageError("damaged header") from error
    check_size(height, width, max_megapixels, max_side)
    if name == "JPEG" and _scans(encoded, image) > MAX_SCANS:
        raise BadImageError(f"over {MAX_SCANS} scans")
    return Header(name, height, width), image


def _scans(encoded: bytes, image: JpegImagePlugin.JpegImageFile) -> int:
    """Upper bound of the number of scans that a JPEG decoder processes: the number of scan markers in the file.

    For a sequential JPEG whose first scan holds all components, libjpeg reads only this scan, whatever follows it. This
    check takes a tenth of the time of counting the markers.
    """
    components = image.layers
    start = image.fp.tell() - (len(_START_OF_SCAN) + 2 + 1 + 2 * components + 3)  # Pillow has read the scan's header
    if "progressive" not in image.info and start >= 0:
        header = encoded[start : start + 5]
        if header == _START_OF_SCAN + (6 + 2 * components).to_bytes(2, "big") + bytes([components]):
            return 1
    return encoded.count(_START_OF_SCAN)


def check_size(height: int, width: int, max_megapixels: float = MAX_MEGAPIXELS, max_side: int = MAX_SIDE) -> None:
    """Raise BadImageError if an image has no pixels or exceeds a limit."""
    if height < 1 or width < 1:
        raise BadImageError("no pixels")
    if max(height, width) > max_side:
        raise BadImageError(f"a side over {max_side:,} pixels")
    if height * width > max_megapixels * 1e6:
        raise BadImageError(f"over {max_megapixels:g} megapixels")


def _webp_size(encoded: bytes) -> tuple[int, int]:
    """Height and width from the first chunk of a WebP file, which has one of three formats."""
    kind, part = encoded[12:16], encoded[20:30]
    if len(part) == 10 and kind == b"VP8X":
        return int.from_bytes(part[7:10], "little") + 1, int.from_bytes(part[4:7], "little") + 1
    if len(part) == 10 and kind == b"VP8 ":
        return int.from_bytes(part[8:10], "little") & 0x3FFF, int.from_bytes(part[6:8], "little") & 0x3FFF
    if len(part) == 10 and kind == b"VP8L":
        bits = int.from_bytes(part[1:5], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    raise BadImageError("damaged header")
