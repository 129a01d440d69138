"""Rows of the feature files of VinVL and Oscar: a key with base64 features, or a key with JSON that has the features.

The last six numbers of a feature are the position of its region in fractions of the image: left, top, right, bottom,
width, height. The other numbers are the feature of the detector.
"""

import json
from collections.abc import Sequence

import numpy as np

from data_pipelines.regions.rows import BadRowError, Row
from data_pipelines.regions.tsv_cells import decode_array, number_of_boxes

COLUMNS = ("image_id", "num_boxes", "features")
JSON_COLUMNS = ("image_id", '{"num_boxes": N, "features": base64}')
_POSITION = 6  # numbers at the end of a feature
_TOLERANCE = 1e-2


def parse(cells: Sequence[bytes]) -> Row:
    """Parse a row of two or three cells.

    Raises:
      BadRowError: the cells have another format, or the features do not end with the position of the region.
    """
    if len(cells) == len(JSON_COLUMNS):
        cells = _from_json(cells)
    number = number_of_boxes(cells[1])
    values = decode_array(cells[2], np.dtype("<f4"))
    if not len(values) or len(values) % number:
        raise BadRowError("base64 of a wrong length")
    values_NxF = values.reshape(number, -1)
    if values_NxF.shape[1] <= _POSITION:
        raise BadRowError("features without the region's position, six numbers at their end")
    boxes_Nx4 = values_NxF[:, -_POSITION:-2].astype(np.float64)
    sides_Nx2 = values_NxF[:, -2:]
    if not np.allclose(boxes_Nx4[:, 2:] - boxes_Nx4[:, :2], sides_Nx2, atol=_TOLERANCE):
        raise BadRowError("features without the region's position, six numbers at their end")
    return Row(
        features=values_NxF[:, :-_POSITION],
        boxes=boxes_Nx4,
        in_pixels=False,
        height=None,
        width=None,
        classes=None,
        scores=None,
        global_feature=np.zeros(0, np.float32),
    )


def _from_json(cells: Sequence[bytes]) -> tuple[bytes, bytes, bytes]:
    try:
        about = json.loads(cells[1])
        number, features = about["num_boxes"], about["features"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadRowError("JSON without num_boxes and features") from error
    if type(number) is not int or not isinstance(features, str):
        raise BadRowError("JSON without num_boxes and features")
    return cells[0], str(number).encode(), features.encode()
