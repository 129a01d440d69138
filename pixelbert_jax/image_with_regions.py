"""Images with a detector's regions, which ImageBERT reads."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.regions.npz_folder import read_npz
from data_pipelines.regions.rows import MAX_BOXES, BadRowError
from data_pipelines.regions.usable import usable
from data_pipelines.storage.paths import AnyPath, as_path, is_local
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


FindRegions = Callable[[AnImage], ImageWithRegions]


@dataclasses.dataclass(frozen=True)
class RegionFolder:
    """Finds an image's regions in a folder of .npz files by the image's path.

    For `a/b/c.jpg`, the file is the first of `a/b/c.npz`, `b/c.npz` and `c.npz` that exists in the folder.

    Attributes:
      path: the folder.
    """

    path: AnyPath

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise ConfigError(f"{self.path}: no such folder; give the one with the regions' .npz files.")

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
        parts = (given.absolute() if is_local(given) else given).with_suffix(".npz").parts[1:]
        for first in range(len(parts)):
            file = self.path.joinpath(*parts[first:])
            if file.is_file():
                return ImageWithRegions.load(image, file)
        raise ConfigError(f"{self.path}: no {parts[-1]}, the regions of {image}; run the detector on this image.")
