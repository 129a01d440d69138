"""Transparent images are drawn over a white background."""

import numpy as np
from PIL import Image


def opacity(image: Image.Image) -> np.ndarray | None:
    """Opacity of each pixel of a Pillow image, uint8 HxW, 255 for opaque; None if all pixels are opaque.

    Raises:
      Exception: an exception of Pillow for damaged files and for modes that it cannot convert.
    """
    if not image.has_transparency_data:
        return None
    colour = image.info.get("transparency")
    if image.mode.startswith("I;16"):  # Pillow cannot convert these modes
        colour = colour if isinstance(colour, int) else -1
        opacity_HxW = np.where(np.asarray(image) == colour, 0, 255).astype(np.uint8)
    elif image.mode == "RGB" and isinstance(colour, tuple) and max(colour) > 255:
        # The file has 16 bits per channel, of which Pillow keeps the upper 8.
        upper_3 = [value >> 8 for value in colour]
        opacity_HxW = np.where((np.asarray(image) == upper_3).all(-1), 0, 255).astype(np.uint8)
    else:
        opacity_HxW = np.asarray(image.convert("RGBA"))[..., 3]
    return None if opacity_HxW.min() == 255 else opacity_HxW


def over_white(pixels_HxWx3: np.ndarray, opacity_HxW: np.ndarray) -> np.ndarray:
    """Blend pixels with a white background, uint8; opaque pixels stay unchanged."""
    weight_HxWx1 = opacity_HxW[..., None].astype(np.uint16)
    return ((pixels_HxWx3 * weight_HxWx1 + 255 * (255 - weight_HxWx1) + 127) // 255).astype(np.uint8)
