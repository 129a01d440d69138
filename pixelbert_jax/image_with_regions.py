"""Images with a detector's regions, which ImageBERT reads."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.regions.detector import Detector
from data_pipelines.regions.npz_folder import read_npz
from data_pipelines.regions.rows import MAX_BOXES, BadRowError
from data_pipelines.regions.usable import usable
from data_pipelines.storage.detectors import DetectorDescription, read_detector
from data_pipelines.storage.paths import AnyPath, as_path, is_dir, is_file, is_local
from data_pipelines.storage.regions import Regions
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.predictor_inputs import AnImage, pixels_of


@dataclasses.dataclass(frozen=True, eq=False)
class ImageWithRegions:
    """An image and the regions that a detector found in it.

    Attributes:
      image: uint8 HxWx3.
      regions: the highest-scoring first.
      image_id: its name in messages.
      dropped: number of the file's boxes that cannot be used, by reason.
    """

    image: np.ndarray
    regions: Regions
    image_id: str = "image"
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, image: AnImage, regions: str | Path) -> "ImageWithRegions":
        """An image and the .npz file of its regions; docs/data.md describes the file.

        Raises:
          ConfigError: there is no such file.
          DataError: a file is damaged, or the regions are of another image.
        """
        pixels_HxWx3, path = pixels_of(image), as_path(regions)
        try:
            row = read_npz(path)
            found = usable(row, row.layout, *pixels_HxWx3.shape[:2], MAX_BOXES)
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file of regions; give the .npz file of the image.") from None
        except (BadRowError, OSError) as error:
            raise DataError(f"{path}: {error}; give the regions that a detector found in this image.") from None
        return cls(pixels_HxWx3, found.regions, str(path), found.dropped)


class FindRegions(Protocol):
    """Finds the regions of an image.

    Attributes:
      description: of the detector (`data_pipelines.storage.detectors`); None: unknown.
    """

    description: DetectorDescription | None

    def __call__(self, image: AnImage) -> ImageWithRegions:
        """The image with its regions; raises ConfigError or DataError if there are none."""


class DetectedRegions:
    """Runs a detector on each image."""

    def __init__(self, detector: Detector) -> None:
        """Take a detector from `Detector.load`."""
        self._detector, self.description = detector, detector.description

    def __call__(self, image: AnImage) -> ImageWithRegions:
        """The image with its regions; raises ConfigError for what is no image, DataError if there is no region."""
        pixels_HxWx3 = pixels_of(image)
        return ImageWithRegions(pixels_HxWx3, self._detector([pixels_HxWx3])[0])


class RegionFolder:
    """Finds an image's regions in a folder of .npz files by the image's path.

    For `a/b.jpg`, the file is the first of `a/b.jpg.npz`, `a/b.npz`, `b.jpg.npz` and `b.npz` that exists in the folder.

    `detector.json` in the folder, if it is there, says which detector they are of.
    """

    def __init__(self, path: AnyPath) -> None:
        """Raises ConfigError if there is no such folder, DataError if its detector.json is damaged."""
        self.path = as_path(path)
        if not is_dir(self.path):
            raise ConfigError(f"{self.path}: no such folder; give the one with the regions' .npz files.")
        self.description = read_detector(self.path)

    def __call__(self, image: AnImage) -> ImageWithRegions:
        """The image with its regions.

        Raises:
          ConfigError: the image is not given by its path, or the folder has no regions of it.
          DataError: see ImageWithRegions.load.
        """
        if not isinstance(image, str | os.PathLike):
            raise ConfigError(
                f"{type(image).__name__}: regions in {self.path} are found by an image's path; give a path, or "
                "ImageWithRegions.load(image, npz_file)."
            )
        given = as_path(image)
        parts = (given.absolute() if is_local(given) else given).parts[1:]
        for first in range(len(parts)):
            for name in (f"{parts[-1]}.npz", f"{given.stem}.npz"):
                file = self.path.joinpath(*parts[first:-1], name)
                if is_file(file):
                    return ImageWithRegions.load(image, file)
        raise ConfigError(f"{self.path}: no {given.name}.npz, the regions of {image}; run the detector on this image.")
