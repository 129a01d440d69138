"""The visual input of each row of a batch: an image on a canvas, or the regions of a detector."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from data_pipelines.batches import shared
from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.storage.records import Record, Records
from data_pipelines.storage.regions import Regions


class WithRegions(Protocol):
    """What a batch of regions needs of a record."""

    image_id: str
    regions: Regions | None


@dataclasses.dataclass(frozen=True)
class PixelVisuals:
    """The fields images and image_size."""

    config: DataConfig

    def blank(self, rows: int, canvas: int) -> dict[str, np.ndarray]:
        """Rows for `write` or `shared.show_nothing` to fill; `canvas` is the index of a canvas."""
        return shared.blank_images(rows, self.config.all_canvases[canvas])

    def write(self, batch: dict[str, np.ndarray], index: int, record: Record, *, mirrored: bool = False) -> None:
        """Write the image of a record to row `index`, mirrored left to right if `mirrored`."""
        row = batch["images"][index], batch["image_size"][index]
        shared.show(*row, record, record.image_id, self.config.resize)
        if mirrored:
            height, width = batch["image_size"][index]
            image_HxWx3 = batch["images"][index, :height, :width]
            image_HxWx3[:] = image_HxWx3[:, ::-1].copy()


@dataclasses.dataclass(frozen=True)
class RegionVisuals:
    """The fields regions, boxes and region_mask, and the optional field whole."""

    config: DataConfig
    size: int  # length of the feature of a region
    whole_size: int  # length of the feature of the whole image; 0: none

    def blank(self, rows: int, canvas: int) -> dict[str, np.ndarray]:
        """Rows without regions."""
        del canvas  # regions have only one canvas
        regions = self.config.regions
        batch = {
            "regions": np.zeros((rows, regions, self.size), np.float16),
            "boxes": np.zeros((rows, regions, 4), np.float32),
            "region_mask": np.zeros((rows, regions), bool),
        }
        return batch | ({"whole": np.zeros((rows, self.whole_size), np.float16)} if self.whole_size else {})

    def write(self, batch: dict[str, np.ndarray], index: int, record: WithRegions, *, mirrored: bool = False) -> None:
        """Write the highest-scoring regions of a record to row `index`; `mirrored` has no effect."""
        del mirrored
        found = record.regions
        if found is None:
            raise DataError(f"{record.image_id} has no regions; prepare its data set with --regions.")
        count = min(self.config.regions, len(found.features))
        batch["regions"][index, :count] = found.features[:count]
        batch["boxes"][index, :count] = found.boxes[:count]
        batch["region_mask"][index, :count] = True
        if self.config.whole_image == "mean":
            batch["whole"][index] = found.features[:count].astype(np.float32).mean(0)
        elif self.config.whole_image == "stored":
            batch["whole"][index] = found.global_feature


def visuals_of(sources: Sequence[Records], config: DataConfig) -> PixelVisuals | RegionVisuals:
    """The visual input for batches of some sources.

    Raises:
      DataError: the configuration asks for regions, but a source has none, or its features have another size.
    """
    if not config.regions:
        return PixelVisuals(config)
    kinds = {}
    for records in sources:
        index = records.index
        if not index.region_size:
            raise DataError(
                f"{records!r} has no regions, but data.regions={config.regions}; prepare it with --regions."
            )
        if config.whole_image == "stored" and not index.global_size:
            raise DataError(f"{records!r} has no feature of the whole image; set data.whole_image to 'mean'.")
        whole_size = {"none": 0, "mean": index.region_size, "stored": index.global_size}[config.whole_image]
        kinds[index.region_size, whole_size] = records
    if len(kinds) > 1:
        named = " and ".join(f"{size} numbers in {records!r}" for (size, _), records in kinds.items())
        raise DataError(f"The regions of the data sets differ: {named}; use regions of one detector.")
    ((size, whole_size),) = kinds
    return RegionVisuals(config, size, whole_size)
