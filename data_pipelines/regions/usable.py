"""Convert published rows to regions for records: check the values, and convert the boxes to fractions."""

import collections

import numpy as np

from data_pipelines.datasets.candidates import FoundRegions
from data_pipelines.regions.rows import BadRowError, Layout, Row
from data_pipelines.storage.regions import Regions

OUTSIDE = "outside of the image"
NO_AREA = "without area"
_MAX_CLASS = 1_000_000
_SIZE_TOLERANCE = 2  # pixels by which sides may differ after scaling


def usable(row: Row, layout: Layout, height: int, width: int, max_regions: int) -> FoundRegions:
    """The `max_regions` highest-scoring regions of a row in descending order; ties keep the order of the row.

    Boxes that exceed the image by at most one pixel are clipped. Boxes that exceed it by more, and boxes without area,
    are dropped and counted.

    Args:
      row: row of the image.
      layout: common layout of all rows.
      height, width: size of the image in pixels.
      max_regions: maximum number of regions, at least 1.

    Raises:
      BadRowError: the values have another fault, or no box is left.
    """
    if row.layout != layout:
        raise BadRowError("features of another length, or other arrays, than other rows have")
    number = len(row.features)
    scores_N = np.ones(number) if row.scores is None else row.scores
    features_NxF = _halved(row.features, "features")
    global_feature_G = _halved(row.global_feature, "the global feature")
    for what, values in (("boxes", row.boxes), ("confidences", scores_N)):
        if not np.isfinite(values).all():
            raise BadRowError(f"NaN or infinity in {what}")
    classes_N = np.full(number, -1) if row.classes is None else row.classes
    if classes_N.min() < (-1 if row.classes is None else 0) or classes_N.max() > _MAX_CLASS:
        raise BadRowError("a class that is negative or too large")
    boxes_Nx4, outside_N = _fractions(row, height, width)
    empty_N = (boxes_Nx4[:, 2:] <= boxes_Nx4[:, :2]).any(1) & ~outside_N
    dropped = collections.Counter({OUTSIDE: int(outside_N.sum()), NO_AREA: int(empty_N.sum())})
    kept = np.flatnonzero(~outside_N & ~empty_N)
    if not len(kept):
        raise BadRowError("no box that lies in the image and has an area")
    best = kept[np.argsort(-scores_N[kept].astype(np.float64), kind="stable")][:max_regions]
    regions = Regions(
        features=features_NxF[best],
        boxes=boxes_Nx4[best],
        classes=classes_N[best].astype(np.int32),
        scores=scores_N[best].astype(np.float32),
        global_feature=global_feature_G,
    )
    return FoundRegions(regions, +dropped)


def _halved(values: np.ndarray, what: str) -> np.ndarray:
    """Convert to float16; raises BadRowError for numbers that are not finite or too large."""
    if not np.isfinite(values).all():
        raise BadRowError(f"NaN or infinity in {what}")
    with np.errstate(over="ignore"):
        halved = values.astype(np.float16)
    if np.isinf(halved).any():
        raise BadRowError(f"numbers in {what} that float16 cannot hold")
    return halved


def _fractions(row: Row, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as float32 fractions clipped to the image, and which of them exceed the image by more than one pixel."""
    row_height, row_width = row.height or height, row.width or width
    scale = height / row_height
    if abs(row_width * scale - width) > _SIZE_TOLERANCE * max(1, scale):
        raise BadRowError("regions of an image of another shape")
    sides_4 = np.array([row_width, row_height] * 2, np.float64)
    boxes_Nx4 = row.boxes / sides_4 if row.in_pixels else row.boxes
    pixel_4 = 1 / sides_4 + 1e-9  # tolerance for rounding in the division
    outside_N = ((boxes_Nx4 < -pixel_4) | (boxes_Nx4 > 1 + pixel_4)).any(1)
    if row.in_pixels and row.height is None and row.boxes.max() <= 1:
        raise BadRowError("boxes of a pixel: fractions must be called norm_bb")
    return np.clip(boxes_Nx4, 0, 1).astype(np.float32), outside_N
