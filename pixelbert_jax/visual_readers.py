"""How a predictor reads images: as pixels on a canvas (Pixel-BERT) or as a detector's regions (ImageBERT)."""

import dataclasses
from typing import Any, Protocol

import cv2
import numpy as np

from data_pipelines.batches.visuals import RegionVisuals
from data_pipelines.images import resize
from data_pipelines.storage.detectors import same_detector
from pixelbert_jax.config import ImageBertConfig, PixelBertConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.image_with_regions import FindRegions, ImageWithRegions
from pixelbert_jax.loading import LoadedModel
from pixelbert_jax.predictor_inputs import AnImage, pixels_of


@dataclasses.dataclass(frozen=True)
class AttentionMap:
    """The attention of a word over an image.

    Attributes:
      word: the word.
      grid: float32, the share of the word's attention that each visual token gets: rows x columns of the pixels, or R
        regions.
      weights: float32, for each pixel of the image, height x width: the grid, interpolated; of regions the greatest
        share of those that cover the pixel.
      image: the image, uint8 HxWx3.
      boxes: of the regions, Rx4, left, top, right, bottom as fractions of the image; None for pixels.
    """

    word: str
    grid: np.ndarray
    weights: np.ndarray
    image: np.ndarray
    boxes: np.ndarray | None = None

    @property
    def peak(self) -> tuple[float, float]:
        """x and y, as fractions of the image, of the centre of the pixel or region with the greatest share."""
        if self.boxes is not None:
            left, top, right, bottom = self.boxes[self.grid.argmax()]
            return float(left + right) / 2, float(top + bottom) / 2
        row, column = np.unravel_index(self.grid.argmax(), self.grid.shape)
        return (float(column) + 0.5) / self.grid.shape[1], (float(row) + 0.5) / self.grid.shape[0]

    def overlay(self) -> np.ndarray:
        """The image with the map over it, uint8 HxWx3: dark where little attention lies; scaled to its greatest."""
        weights_HxW = self.weights / max(float(self.weights.max()), 1e-12)
        colours = cv2.applyColorMap((255 * weights_HxW).round().astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
        share_HxWx1 = np.clip(0.25 + 0.6 * weights_HxW, 0, 1)[..., None]
        return ((1 - share_HxWx1) * self.image + share_HxWx1 * colours).round().astype(np.uint8)


class VisualReader(Protocol):
    """The visual input of one kind of model; an item is what `read` returns."""

    def read(self, image: Any) -> Any:
        """An image that is ready for a batch; an item is returned as it is."""

    def canvas(self, item: Any) -> int:
        """Items with the same number can be in one batch."""

    def batch(self, items: list[Any], canvas: int, rows: int) -> dict[str, np.ndarray]:
        """A batch for the model's `encode_visual`; the rows after those of the items are padding."""

    def attention_map(self, word: str, attention_P: np.ndarray, item: Any) -> AttentionMap:
        """The map of a word from its attention to the P visual tokens."""


class PixelReader:
    """Reads images for a Pixel-BERT."""

    def __init__(self, loaded: LoadedModel, find_regions: FindRegions | None) -> None:
        if find_regions is not None:
            raise ConfigError(f"{loaded.path} is a Pixel-BERT, which reads no regions; leave the regions out.")
        self._model, self._data = loaded.task.model, loaded.data

    def read(self, image: AnImage | ImageWithRegions) -> np.ndarray:
        """Pixels, uint8 HxWx3."""
        return image.image if isinstance(image, ImageWithRegions) else pixels_of(image)

    def canvas(self, item: np.ndarray) -> int:
        """Index of the canvas that holds the resized image."""
        return resize.choose_canvas(*self._size(item), self._data.all_canvases)

    def batch(self, items: list[np.ndarray], canvas: int, rows: int) -> dict[str, np.ndarray]:
        """Resized images in the top-left corners of their canvases."""
        images_BxHxWx3 = np.zeros((rows, *self._data.all_canvases[canvas], 3), np.uint8)
        size_Bx2 = np.ones((rows, 2), np.int32)
        for row, item in enumerate(items):
            resized = resize.resize(item, self._size(item))
            images_BxHxWx3[row, : resized.shape[0], : resized.shape[1]] = resized
            size_Bx2[row] = resized.shape[:2]
        return {"images": images_BxHxWx3, "image_size": size_Bx2}

    def attention_map(self, word: str, attention_P: np.ndarray, item: np.ndarray) -> AttentionMap:
        """The grid without the padding of the canvas, interpolated to the image's size."""
        size = self._size(item)
        rows, columns = self._model.grid(*size)
        grid = attention_P.reshape(self._model.grid(*self._data.all_canvases[self.canvas(item)]))[:rows, :columns]
        return AttentionMap(word, grid, interpolated(grid, self._model.stride, size, item), item)

    def _size(self, item: np.ndarray) -> tuple[int, int]:
        return resize.resized_size(*item.shape[:2], self._data.resize)


class RegionReader:
    """Reads images with regions for an ImageBERT; of each image the `data.regions` highest-scoring, as in training."""

    def __init__(self, loaded: LoadedModel, find_regions: FindRegions | None) -> None:
        self._path, self._data, self._find = loaded.path, loaded.data, find_regions
        if find_regions is not None:
            same_detector(
                [(self._path, loaded.description.get("detector")), ("this predictor", find_regions.description)]
            )
        sizes = loaded.task.model.regions
        self._visuals = RegionVisuals(loaded.data, sizes.feature_size, sizes.global_size)

    def read(self, image: AnImage | ImageWithRegions) -> ImageWithRegions:
        """The image with regions of the sizes that the model takes."""
        if not isinstance(image, ImageWithRegions):
            if self._find is None:
                raise ConfigError(
                    f"{self._path} is an ImageBERT, which reads a detector's regions with each image; give "
                    "ImageWithRegions.load(image, npz_file), the folder of their .npz files as `regions`, or a "
                    "`detector`."
                )
            image = self._find(image)
        found, needed = image.regions, self._visuals
        sizes = {"features of the regions": (found.features.shape[1], needed.size)}
        if self._data.whole_image == "stored":
            sizes["the feature of the whole image"] = (len(found.global_feature), needed.whole_size)
        for what, (size, expected) in sizes.items():
            if size != expected:
                raise ConfigError(
                    f"{image.image_id}: {what} have {size} numbers, but {self._path} takes {expected}; give regions "
                    "of the detector that the model was trained with."
                )
        return image

    def canvas(self, item: ImageWithRegions) -> int:
        """Regions have only one canvas."""
        del item
        return 0

    def batch(self, items: list[ImageWithRegions], canvas: int, rows: int) -> dict[str, np.ndarray]:
        """Regions, boxes and masks."""
        batch = self._visuals.blank(rows, canvas)
        for row, item in enumerate(items):
            self._visuals.write(batch, row, item)
        return batch

    def attention_map(self, word: str, attention_P: np.ndarray, item: ImageWithRegions) -> AttentionMap:
        """The shares of the regions; that of the whole image's feature is not part of the map."""
        regions = item.regions.best(self._data.regions)
        share_R = attention_P[-self._data.regions :][: len(regions)]
        weights_HxW = np.zeros(item.image.shape[:2], np.float32)
        height, width = weights_HxW.shape
        for share, (left, top, right, bottom) in zip(share_R, regions.boxes, strict=True):
            rows = slice(int(top * height), max(int(np.ceil(bottom * height)), int(top * height) + 1))
            columns = slice(int(left * width), max(int(np.ceil(right * width)), int(left * width) + 1))
            np.maximum(weights_HxW[rows, columns], share, out=weights_HxW[rows, columns])
        return AttentionMap(word, share_R, weights_HxW, item.image, regions.boxes)


_READERS = {PixelBertConfig: PixelReader, ImageBertConfig: RegionReader}


def visual_reader(loaded: LoadedModel, find_regions: FindRegions | None = None) -> VisualReader:
    """The reader for a model.

    Raises:
      ConfigError: there are regions for a model that reads none.
      DataError: the regions are of another detector than the model was trained with.
    """
    return _READERS[type(loaded.task.model)](loaded, find_regions)


def interpolated(grid: np.ndarray, stride: int, size: tuple[int, int], original: np.ndarray) -> np.ndarray:
    """A grid over an image that was resized to `size`, interpolated linearly to the original's size."""
    fine = cv2.resize(grid, (grid.shape[1] * stride, grid.shape[0] * stride), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(fine[: size[0], : size[1]], original.shape[1::-1], interpolation=cv2.INTER_LINEAR)
