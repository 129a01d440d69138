"""Transparent images: white lies behind them."""

import numpy as np
from PIL import Image


def opacity(image: Image.Image) -> np.ndarray | None:
    """Opacity of each pixel of a Pillow image, uint8 HxW, 255 where nothing shows through; None if that is everywhere.

    Raises:
      Exception: Pillow's, of damaged files and of modes that it does not convert.
    """
    if not image.has_transparency_data:
        return None
    colour = image.info.get("transparency")
    if image.mode.startswith("I;16"):  # Pillow does not convert these
        colour = colour if isinstance(colour, int) else -1
        opacity_HxW = np.where(np.asarray(image) == colour, 0, 255).astype(np.uint8)
    elif (
        image.mode == "RGB" and isinstance(colour, tuple) and max(colour) > 255
    ):  # of a file with 16 bits, of which Pillow keeps the upper half
        upper_3 = [value >> 8 for value in colour]
        opacity_HxW = np.where((np.asarray(image) == upper_3).all(-1), 0, 255).astype(np.uint8)
    else:
        opacity_HxW = np.asarray(image.convert("RGBA"))[..., 3]
    return None if opacity_HxW.min() == 255 else opacity_HxW


def over_white(pixels_HxWx3: np.ndarray, opacity_HxW: np.ndarray) -> np.ndarray:
    """Pixels as they look on white, uint8; where nothing shows through they stay as they are."""
    weight_HxWx1 = opacity_HxW[..., None].astype(np.uint16)
    return ((pixels_HxWx3 * weight_HxWx1 + 255 * (255 - weight_HxWx1) + 127) // 255).astype(np.uint8)
