"""The orientation tag of photographs (EXIF 0x0112): how a viewer turns the stored pixels."""

import numpy as np
from PIL import Image

_TAG = 0x0112
AS_STORED = 1


def orientation_of(image: Image.Image) -> int:
    """The orientation tag of a Pillow image, 1 to 8; 1 (as stored) if the tag is missing or invalid."""
    try:
        found = image.getexif().get(_TAG, AS_STORED)
    except Exception:  # Pillow raises many exceptions for damaged tags, which are ignored
        return AS_STORED
    return found if isinstance(found, int) and 1 <= found <= 8 else AS_STORED


def upright_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Height and width of an image after `upright`."""
    return (width, height) if orientation > 4 else (height, width)


def upright(pixels_HxWx3: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels as a viewer does; pixels that are stored upright are returned unchanged, without a copy."""
    if orientation == AS_STORED:
        return pixels_HxWx3
    if orientation > 4:
        pixels_HxWx3 = pixels_HxWx3.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(pixels_HxWx3[rows, columns])
