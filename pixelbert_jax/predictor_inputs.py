"""A predictor's inputs: images and texts of every accepted kind, as arrays and lists."""

import os
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from data_pipelines.images import resize
from data_pipelines.images.files import BadImageError, open_image
from data_pipelines.images.orientation import orientation_of
from data_pipelines.storage.bucket_errors import reason
from data_pipelines.storage.paths import as_path, is_file
from pixelbert_jax.errors import ConfigError, in_short

AnImage = str | Path | bytes | np.ndarray | jax.Array | Image.Image


def pixels_of(image: AnImage) -> np.ndarray:
    """An image as uint8 HxWx3, turned upright; sizes are checked before anything is decoded."""
    if isinstance(image, str | os.PathLike):
        path = as_path(image)
        try:
            encoded = path.read_bytes() if is_file(path) else None
        except Exception as error:  # of several libraries, if it is in a bucket
            raise ConfigError(f"{path}: cannot be read ({reason(error)}); give an image that can.") from None
        if encoded is None:
            name = path if os.fspath(image) else "''"
            raise ConfigError(f"{name}: no such image; give the path of a file.")
        return _decoded(encoded, str(path))
    if isinstance(image, bytes | bytearray | memoryview):
        return _decoded(bytes(image), "image")
    if isinstance(image, Image.Image):
        try:
            return resize.from_pillow(image)
        except BadImageError as error:
            raise resize.DataError(f"A PIL image cannot be used: {error}.") from None
    array = _array(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ConfigError(
            f"An array of type {array.dtype} and shape {array.shape} is no image; give uint8, HxWx3 (RGB) or HxW."
        )
    if not array.size:
        raise ConfigError(f"An array of shape {array.shape} has no pixels; give an image of at least one.")
    return np.ascontiguousarray(array) if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2)


def _array(image: Any) -> np.ndarray:
    """An array of any library, or a list, as a NumPy array; `pixels_of` then refuses a wrong type."""
    if not (hasattr(image, "__array__") or isinstance(image, list | tuple)):
        raise ConfigError(
            f"{type(image).__name__} {_shown(image)} is no image; give a path, bytes, a PIL image or a uint8 array."
        )
    try:
        return np.asarray(image)
    except Exception as error:  # of the array's library: it lies on a GPU, or is ragged
        reason = in_short(error, 100)
        raise ConfigError(
            f"{type(image).__name__} is no image that NumPy can read ({reason}); give a NumPy array, uint8 HxWx3."
        ) from None


def _decoded(encoded: bytes, name: str) -> np.ndarray:
    try:
        _, image = open_image(encoded)
    except resize.DataError as error:
        raise resize.DataError(f"{name}: {error}") from None
    return resize.decode(encoded, name, orientation_of(image))


def listed_images(images: Any) -> list:
    """One image or many as a list."""
    if isinstance(images, list | tuple):
        return list(images)
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image):
        return [images]
    if hasattr(images, "ndim") and hasattr(images, "__array__"):
        array = _array(images)
        of_objects = array.ndim == 1 and array.dtype.kind in "OU"  # paths or images, such as a column of a table
        return list(array) if array.ndim == 4 or of_objects else [array]
    if (
        isinstance(images, Iterable)
        and not isinstance(images, Mapping | set | frozenset)
        and not hasattr(images, "read")
    ):
        return list(images)
    return [images]


def listed_texts(texts: Any) -> list[str]:
    """One text or many as a list of strings.

    Raises:
      ConfigError: an entry is not a string; the message has its index.
    """
    if isinstance(texts, str):
        found = [texts]
    elif isinstance(texts, np.ndarray) and texts.ndim < 2:
        found = texts.reshape(-1).tolist()
    elif (
        isinstance(texts, Iterable)
        and getattr(texts, "ndim", 1) == 1
        and not isinstance(texts, bytes | bytearray | Mapping | set | frozenset)
    ):
        found = list(texts)
    else:
        raise ConfigError(f"{type(texts).__name__} {_shown(texts)} is no text; give a string or a list of strings.")
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise ConfigError(
                f"Text {index} of {len(found)} is {type(text).__name__} {_shown(text)}, no string; leave it out, or "
                'give "" for none.'
            )
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ConfigError(f"Text {index} of {len(found)} is no valid Unicode: {_shown(text)}; decode it as UTF-8.")
    return [str(text) for text in found]


def only_text(text: Any) -> str:
    """A text, or the one of a list of one."""
    texts = listed_texts(text)
    if len(texts) != 1:
        raise ConfigError(f"One text is needed here, {len(texts)} were given; call this once for each.")
    return texts[0]


def _shown(value: Any) -> str:
    """A value in an error: short, on one line."""
    return " ".join(reprlib.repr(value).split())[:60]


def checked_top(top: int) -> int:
    """How many results are wanted; raises ConfigError if it is no number of 1 or more."""
    if isinstance(top, bool) or not isinstance(top, (int, np.integer)) or top < 1:
        raise ConfigError(f"top={in_short(repr(top))}: give how many results you want, a whole number of 1 or more.")
    return int(top)
