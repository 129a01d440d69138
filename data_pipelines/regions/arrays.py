"""Rows made of named arrays, as in .npz and HDF5 files, with the common names of the arrays."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.regions.rows import MAX_BOXES, MAX_ROW_BYTES, BadRowError, Row, positive

FEATURES = ("features", "x", "feat", "image_features")
BOXES = ("boxes", "bbox", "image_bb")
FRACTIONS = ("norm_bb", "spatial_features")
CLASSES = ("objects_id", "objects", "cls", "classes")
SCORES = ("objects_conf", "conf", "scores")
HEIGHT = ("image_h", "img_h")
WIDTH = ("image_w", "img_w")
NUMBER = ("num_boxes", "num_bbox")
GLOBAL = ("global_feature",)


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array in a file: its shape and type from the header, and a function that reads it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[], np.ndarray]


def row_of(find: Callable[[str], Stored | None]) -> Row:
    """Make a row from the arrays of one image; `find` returns the array with a name, or None.

    The arrays may have more rows than the image has boxes, if `num_boxes` gives the number of boxes.

    Raises:
      BadRowError: an array is missing, has a wrong type or shape, or is too large.
    """
    features = _first(find, FEATURES)
    boxes, in_pixels = _first(find, BOXES), True
    height, width = (_number(_first(find, names), names[0]) for names in (HEIGHT, WIDTH))
    fractions = _first(find, FRACTIONS)
    if fractions is not None and (boxes is None or height is None):
        boxes, in_pixels = fractions, False
    if features is None or boxes is None:
        raise BadRowError(f"no array called {' or '.join(FEATURES if features is None else BOXES + FRACTIONS)}")
    if len(features.shape) != 2 or features.shape[1] < 1:
        raise BadRowError("features that are not a matrix")
    numbers, regions = features.shape
    transposed = len(boxes.shape) == 2 and boxes.shape[0] == regions != numbers and 0 < numbers <= MAX_BOXES
    if transposed:  # as in MCAN's files
        features = Stored(features.shape[::-1], features.dtype, lambda load=features.load: load().T)
    given = _number(_first(find, NUMBER), "num_boxes", lowest=0)
    number = features.shape[0] if given is None else int(given)
    if number < 1:
        raise BadRowError("no boxes")
    if max(number, features.shape[0]) > MAX_BOXES:
        raise BadRowError(f"over {MAX_BOXES:,} boxes")
    columns = (4,) if in_pixels else (4, 5, 6, 7)  # fractions may be followed by width, height and area
    if number > features.shape[0] or len(boxes.shape) != 2 or boxes.shape[1] not in columns:
        raise BadRowError("boxes and features that do not fit each other")
    global_feature = _first(find, GLOBAL)
    return Row(
        features=_load(features, "features")[:number],
        boxes=_per_box(boxes, features, number, "boxes")[:, :4].astype(np.float64),
        in_pixels=in_pixels,
        height=height,
        width=width,
        classes=_whole(_per_box(_first(find, CLASSES), features, number, "classes", 1)),
        scores=_per_box(_first(find, SCORES), features, number, "confidences", 1),
        global_feature=np.zeros(0) if global_feature is None else _load(global_feature, "global feature").reshape(-1),
        transposed=transposed,
    )


def _first(find: Callable[[str], Stored | None], names: Sequence[str]) -> Stored | None:
    """The array of the first name that exists; None if there is none."""
    return next((stored for name in names if (stored := find(name)) is not None), None)


def _load(stored: Stored, what: str) -> np.ndarray:
    """Read an array, after a check of the header: it must be small and have real numbers."""
    if stored.dtype.hasobject:
        raise BadRowError(f"{what} that are Python objects, which are never unpickled")
    if stored.dtype.kind not in "iuf":
        raise BadRowError(f"{what} that are not numbers")
    if np.prod(stored.shape, dtype=object) * stored.dtype.itemsize > MAX_ROW_BYTES:
        raise BadRowError(f"{what} over {MAX_ROW_BYTES >> 20} MiB")
    return stored.load()


def _per_box(stored: Stored | None, features: Stored, number: int, what: str, dimensions: int = 2) -> np.ndarray | None:
    """Read an array with as many rows as `features`, cut to the number of boxes."""
    if stored is None:
        return None
    if len(stored.shape) != dimensions or stored.shape[0] != features.shape[0]:
        raise BadRowError(f"{what} and features that do not fit each other")
    return _load(stored, what)[:number]


def _whole(classes: np.ndarray | None) -> np.ndarray | None:
    """Check that classes are whole numbers; they may be stored as floats."""
    if classes is not None and classes.dtype.kind == "f" and not (classes == np.floor(classes)).all():
        raise BadRowError("classes that are not whole numbers")
    return classes


def _number(stored: Stored | None, what: str, lowest: int = 1) -> float | None:
    """The single number of an array; None if there is no array."""
    if stored is None:
        return None
    values = _load(stored, what).reshape(-1) if np.prod(stored.shape, dtype=object) == 1 else None
    if values is None:
        raise BadRowError(f"{what} is not a number")
    return float(values[0]) if lowest == 0 and values[0] == 0 else positive(values[0], what)
