"""What a model sees of each row of a batch: an image on a canvas, or a detector's regions."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.batches import shared
from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.storage.records import Record, Records


@dataclasses.dataclass(frozen=True)
class PixelVisuals:
    """The fields images and image_size."""

    config: DataConfig

    def blank(self, rows: int, canvas: int) -> dict[str, np.ndarray]:
        """Rows for `write` or `shared.show_nothing` to fill; `canvas` is the number of a canvas."""
        return shared.blank_images(rows, self.config.all_canvases[canvas])

    def write(self, batch: dict[str, np.ndarray], place: int, record: Record, *, mirrored: bool = False) -> None:
        """Show a record in row `place`, mirrored left to right if that is asked for."""
        row = batch["images"][place], batch["image_size"][place]
        shared.show(*row, record, record.image_id, self.config.resize)
        if mirrored:
            height, width = batch["image_size"][place]
            image_HxWx3 = batch["images"][place, :height, :width]
            image_HxWx3[:] = image_HxWx3[:, ::-1].copy()


@dataclasses.dataclass(frozen=True)
class RegionVisuals:
    """The fields regions, boxes and region_mask, and whole where it is asked for."""

    config: DataConfig
    size: int  # numbers of a feature
    whole_size: int  # numbers of the feature of the whole image; 0: none

    def blank(self, rows: int, canvas: int) -> dict[str, np.ndarray]:
        """Rows that show nothing."""
        del canvas  # there is only one
        regions = self.config.regions
        batch = {
            "regions": np.zeros((rows, regions, self.size), np.float16),
            "boxes": np.zeros((rows, regions, 4), np.float32),
            "region_mask": np.zeros((rows, regions), bool),
        }
        return batch | ({"whole": np.zeros((rows, self.whole_size), np.float16)} if self.whole_size else {})

    def write(self, batch: dict[str, np.ndarray], place: int, record: Record, *, mirrored: bool = False) -> None:
        """Show a record's highest-scoring regions in row `place`; they are never `mirrored`."""
        del mirrored
        found = record.regions
        if found is None:
            raise DataError(f"{record.image_id} has no regions; prepare its data set with --regions.")
        count = min(self.config.regions, len(found.features))
        batch["regions"][place, :count] = found.features[:count]
        batch["boxes"][place, :count] = found.boxes[:count]
        batch["region_mask"][place, :count] = True
        if self.config.whole_image == "mean":
            batch["whole"][place] = found.features[:count].astype(np.float32).mean(0)
        elif self.config.whole_image == "stored":
            batch["whole"][place] = found.global_feature


def visuals_of(sources: Sequence[Records], config: DataConfig) -> PixelVisuals | RegionVisuals:
    """What the batches of some sources show.

    Raises:
      DataError: regions are asked for, but a source has none, or of another kind than the others.
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
