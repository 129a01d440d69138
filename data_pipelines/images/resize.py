"""Images: encoded bytes in, a uint8 canvas and the size of its valid region out.

The papers keep the aspect ratio (Pixel-BERT section 3.1: shorter edge 800, longer at most 1333 for ResNet-50; 600 and
1000 for ResNeXt-152). Compilers want few shapes, so a resized image lies in the top-left corner of the smallest of a
few canvases whose sides are multiples of 64, and the rest of the canvas is zero.
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
    """Scale so that the shorter edge has `shorter_edge` pixels, unless the longer would pass `longer_edge`."""

    shorter_edge: int = 800
    longer_edge: int = 1333

    def __post_init__(self) -> None:
        if not 0 < self.shorter_edge <= self.longer_edge:
            raise ValueError(
                f"ResizeRule: shorter_edge={self.shorter_edge} must be positive and at most "
                f"longer_edge={self.longer_edge}; change one of the two."
            )


def resized_size(height: int, width: int, rule: ResizeRule) -> Canvas:
    """Size in pixels after the rule, aspect ratio kept to rounding; never below 1."""
    scale = min(rule.shorter_edge / min(height, width), rule.longer_edge / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def default_canvases(rule: ResizeRule, multiple: int = 64) -> tuple[Canvas, ...]:
    """Canvases that hold every image under `rule`, smallest area first: square, 4:3 and longest, both ways up."""

    def up(pixels: float) -> int:
        return -(-int(np.ceil(pixels)) // multiple) * multiple

    shorter = up(rule.shorter_edge)
    longer_edges = sorted({shorter, up(min(rule.shorter_edge * 4 / 3, rule.longer_edge)), up(rule.longer_edge)})
    canvases = {(shorter, edge) for edge in longer_edges} | {(edge, shorter) for edge in longer_edges}
    return tuple(sorted(canvases, key=lambda canvas: (canvas[0] * canvas[1], canvas)))


def choose_canvas(height: int, width: int, canvases: Sequence[Canvas]) -> int:
    """Index of the canvas with the smallest area that holds a resized image of `height` x `width` pixels.

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
    """Decode JPEG, PNG, WebP, BMP or GIF into uint8 RGB, HxWx3; the header is looked at first.

    White lies behind transparent images.

    Args:
      encoded: the file.
      name: for messages.
      orientation: turn the image so; the file's own tag is not looked at.

    Raises:
      BadRecordError: the bytes are not an image that OpenCV can read, or it would be too large.
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
    """A Pillow image as uint8 RGB, HxWx3, turned upright: the pixels that `decode` gives of its file.

    Raises:
      BadImageError: no pixels, over a limit, a damaged file, or a mode that does not say what is black and white.
    """
    check_size(image.height, image.width)
    if image.mode in ("I", "F"):
        raise BadImageError(f"mode {image.mode}, which does not say what white is; convert it to RGB, L or I;16")
    try:
        opacity_HxW = opacity(image)
        if image.mode.startswith("I;16"):
            grey_HxW = (np.asarray(image) >> 8).astype(np.uint8)
            pixels_HxWx3 = np.repeat(grey_HxW[..., None], 3, axis=2)
        elif image.mode == "CMYK":
            pixels_HxWx3 = _from_cmyk(np.asarray(image))
        else:  # RGB alone forgets colours behind an opacity in some modes
            pixels_HxWx3 = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))[..., :3]
    except DAMAGE as error:
        raise BadImageError(
            f"mode {image.mode} that Pillow cannot read; convert it to RGB, or save it again"
        ) from error
    pixels_HxWx3 = pixels_HxWx3 if opacity_HxW is None else over_white(pixels_HxWx3, opacity_HxW)
    return upright(pixels_HxWx3, orientation_of(image))


def _from_cmyk(cmyk_HxWx4: np.ndarray) -> np.ndarray:
    """RGB as OpenCV makes it of a JPEG, which differs from Pillow's by a rounding."""
    white_HxWx1 = 255 - cmyk_HxWx4[..., 3:].astype(np.int32)
    return (white_HxWx1 - (cmyk_HxWx4[..., :3] * white_HxWx1 >> 8)).astype(np.uint8)


def resize(image_HxWx3: np.ndarray, size: Canvas, out_hxwx3: np.ndarray | None = None) -> np.ndarray:
    """Resize uint8 pixels to `size` = (height, width): area average when shrinking, cubic when growing.

    Written into `out_hxwx3`, which may be a part of a canvas, where it is given; a copy less is a quarter of the time.
    """
    height, width = image_HxWx3.shape[:2]
    if (height, width) == size:
        if out_hxwx3 is None:
            return image_HxWx3
        out_hxwx3[:] = image_HxWx3
        return out_hxwx3
    method = cv2.INTER_AREA if size[0] * size[1] < height * width else cv2.INTER_CUBIC
    resized = cv2.resize(image_HxWx3, size[::-1], dst=out_hxwx3, interpolation=method)
    if out_hxwx3 is not None and not np.may_share_memory(resized, out_hxwx3):  # OpenCV may refuse a layout
        out_hxwx3[:] = resized
    return resized


def place_on_canvas(image_HxWx3: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Copy pixels into the top-left corner of a canvas of zeros, canvas_height x canvas_width x 3, uint8."""
    canvas_HxWx3 = np.zeros((*canvas, 3), np.uint8)
    canvas_HxWx3[: image_HxWx3.shape[0], : image_HxWx3.shape[1]] = image_HxWx3
    return canvas_HxWx3
