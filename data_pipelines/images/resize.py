"""Decode images, resize them, and place them on canvases.

The papers keep the aspect ratio (Pixel-BERT section 3.1: shorter edge 800, longer edge at most 1333 for ResNet-50; 600
and 1000 for ResNeXt-152). A compiled step needs few shapes. So a resized image lies in the top-left corner of a canvas,
and the rest of the canvas is zero. There are only a few canvases, with sides that are multiples of 64; an image gets
the smallest one that holds it. A canvas is a padded shape, which others call a bucket.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from data_pipelines.errors import BadRecordError, DataError
from data_pipelines.images.files import DAMAGE, BadImageError, check_size, open_image
from data_pipelines.images.orientation import AS_STORED, orientation_of, upright
from data_pipelines.images.transparency import opacity, over_white

Canvas = tuple[int, int]  # (height, width) in pixels


@dataclasses.dataclass(frozen=True)
class ResizeRule:
    """Scale the shorter edge to `shorter_edge` pixels, or less if the longer edge would exceed `longer_edge`."""

    shorter_edge: int = 800
    longer_edge: int = 1333

    def __post_init__(self) -> None:
        if not 0 < self.shorter_edge <= self.longer_edge:
            raise ValueError(
                f"ResizeRule: shorter_edge={self.shorter_edge} must be positive and at most "
                f"longer_edge={self.longer_edge}; change one of the two."
            )


def resized_size(height: int, width: int, rule: ResizeRule) -> Canvas:
    """Height and width in pixels after resizing: the aspect ratio is kept up to rounding, and each side is >= 1."""
    scale = min(rule.shorter_edge / min(height, width), rule.longer_edge / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def default_canvases(rule: ResizeRule, multiple: int = 64) -> tuple[Canvas, ...]:
    """Canvases that hold all images under `rule`, by ascending area: square, 4:3 and longest, in both orientations."""

    def round_up(pixels: float) -> int:
        return -(-int(np.ceil(pixels)) // multiple) * multiple

    shorter = round_up(rule.shorter_edge)
    four_thirds = round_up(min(rule.shorter_edge * 4 / 3, rule.longer_edge))
    longer_edges = sorted({shorter, four_thirds, round_up(rule.longer_edge)})
    canvases = {(shorter, edge) for edge in longer_edges} | {(edge, shorter) for edge in longer_edges}
    return tuple(sorted(canvases, key=lambda canvas: (canvas[0] * canvas[1], canvas)))


def choose_canvas(height: int, width: int, canvases: Sequence[Canvas]) -> int:
    """Index of the smallest canvas by area that holds a resized image of `height` x `width` pixels.

    Raises:
      DataError: no canvas is large enough.
    """
    fitting = [(h * w, i) for i, (h, w) in enumerate(canvases) if h >= height and w >= width]
    if not fitting:
        raise DataError(
            f"An image of {height}x{width} pixels (after resizing) fits none of the canvases {list(canvases)}; "
            "add a larger one to data.canvases."
        )
    return min(fitting)[1]


def decode(encoded: bytes, name: str = "image", orientation: int = AS_STORED) -> np.ndarray:
    """Decode JPEG, PNG, WebP, BMP or GIF into uint8 RGB, HxWx3, after a check of the header.

    Transparent images are drawn over white.

    Args:
      encoded: content of the file.
      name: name of the image for messages.
      orientation: orientation tag to apply; the tag in the file is ignored.

    Raises:
      BadRecordError: OpenCV cannot read the image, or the image is too large.
    """
    try:
        _, header = open_image(encoded)
    except BadImageError as error:
        too_large = "over" in error.reason
        what = error.reason if too_large else f"{len(encoded)} bytes that are not a readable image"
        raise BadRecordError(f"{name}: {what}; prepare the data set again.") from error
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
        opacity_HxW = opacity(header)
    except (cv2.error, *DAMAGE):
        image = None
    if image is None or (opacity_HxW is not None and opacity_HxW.shape != image.shape[:2]):
        raise BadRecordError(f"{name}: {len(encoded)} bytes that are not a readable image; prepare the data set again.")
    return upright(image if opacity_HxW is None else over_white(image, opacity_HxW), orientation)


def from_pillow(image: Image.Image) -> np.ndarray:
    """Convert a Pillow image to uint8 RGB, HxWx3, turned upright: the pixels are those of `decode` for its file.

    Raises:
      BadImageError: the image has no pixels, exceeds a limit or is damaged, or its mode does not define black and
        white.
    """
    check_size(image.height, image.width)
    if image.mode in ("I", "F"):
        raise BadImageError(f"mode {image.mode}, which does not define white; convert it to RGB, L or I;16")
    try:
        image.load()
    except (*DAMAGE, AttributeError) as error:
        raise BadImageError("a truncated, damaged or closed file, which Pillow cannot read") from error
    try:
        opacity_HxW = opacity(image)
        if image.mode.startswith("I;16"):
            grey_HxW = (np.asarray(image) >> 8).astype(np.uint8)
            pixels_HxWx3 = np.repeat(grey_HxW[..., None], 3, axis=2)
        elif image.mode == "CMYK":
            pixels_HxWx3 = _from_cmyk(np.asarray(image))
        else:  # in some modes, conversion to RGB loses the colours of transparent pixels
            pixels_HxWx3 = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))[..., :3]
    except DAMAGE as error:
        raise BadImageError(
            f"mode {image.mode} that Pillow cannot read; convert it to RGB, or save it again"
        ) from error
    pixels_HxWx3 = pixels_HxWx3 if opacity_HxW is None else over_white(pixels_HxWx3, opacity_HxW)
    return upright(pixels_HxWx3, orientation_of(image))


def _from_cmyk(cmyk_HxWx4: np.ndarray) -> np.ndarray:
    """Convert CMYK to RGB as OpenCV does for a JPEG; Pillow rounds differently."""
    white_HxWx1 = 255 - cmyk_HxWx4[..., 3:].astype(np.int32)
    return (white_HxWx1 - (cmyk_HxWx4[..., :3] * white_HxWx1 >> 8)).astype(np.uint8)


def resize(image_HxWx3: np.ndarray, size: Canvas, out_hxwx3: np.ndarray | None = None) -> np.ndarray:
    """Resize uint8 pixels to `size` = (height, width): area average for shrinking, cubic for enlarging.

    The result is written to `out_hxwx3` if it is given. It may be a part of a canvas: this saves a copy, which is a
    quarter of the time.
    """
    height, width = image_HxWx3.shape[:2]
    if (height, width) == size:
        if out_hxwx3 is None:
            return image_HxWx3
        out_hxwx3[:] = image_HxWx3
        return out_hxwx3
    method = cv2.INTER_AREA if size[0] * size[1] < height * width else cv2.INTER_CUBIC
    resized = cv2.resize(image_HxWx3, size[::-1], dst=out_hxwx3, interpolation=method)
    if out_hxwx3 is not None and not np.may_share_memory(resized, out_hxwx3):  # OpenCV may reject the memory layout
        out_hxwx3[:] = resized
    return resized


def place_on_canvas(image_HxWx3: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Copy pixels to the top-left corner of a canvas of zeros: uint8, canvas_height x canvas_width x 3."""
    canvas_HxWx3 = np.zeros((*canvas, 3), np.uint8)
    canvas_HxWx3[: image_HxWx3.shape[0], : image_HxWx3.shape[1]] = image_HxWx3
    return canvas_HxWx3
