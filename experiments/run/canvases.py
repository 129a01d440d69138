"""The canvas of each record."""

import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.images.resize import choose_canvas, resized_size
from data_pipelines.storage.records import Records


def canvas_of(records: Records, data: DataConfig) -> np.ndarray:
    """Index of the canvas of each record; 0 for all where a model reads regions.

    Raises:
      DataError: an image fits none of the canvases.
    """
    index, canvases = records.index, data.all_canvases
    if data.regions:
        return np.zeros(len(records), np.int32)
    images = [index.heights, index.widths]
    if index.second_heights is not None:
        images += [index.second_heights, index.second_widths]
    sizes, inverse = np.unique(np.stack(images, 1), axis=0, return_inverse=True)
    resized = [[resized_size(int(h), int(w), data.resize) for h, w in size.reshape(-1, 2)] for size in sizes]
    # Both images of a pair lie on canvases of one size: the smallest that holds each.
    chosen = [choose_canvas(*map(max, *both, both[0]), canvases) for both in resized]
    return np.array(chosen, np.int32)[inverse.reshape(-1)]
