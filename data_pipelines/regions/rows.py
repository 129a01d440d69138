"""What all forms of region files have in common: rows of one image each, read one at a time."""

import abc
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MAX_BOXES = 10_000  # of one image
MAX_ROW_BYTES = 64 << 20


class BadRowError(ValueError):
    """A row that cannot be used; the text says why, shortly, and is the same for faults of one kind."""


@dataclasses.dataclass(frozen=True)
class Row:
    """The regions of one image as published, before a look at their values; shapes are right, and N > 0.

    Attributes:
      features: NxF, any real type.
      boxes: float64 Nx4, x0, y0, x1, y1.
      in_pixels: whether boxes are in pixels, not in fractions of the image.
      height, width: of the image that the detector saw, in pixels; None: not told.
      classes: N, None where the source has none.
      scores: N, None where the source has none.
      global_feature: G; G = 0 where the source has none.
      transposed: whether the file has the features as FxN.
    """

    features: np.ndarray
    boxes: np.ndarray
    in_pixels: bool
    height: float | None
    width: float | None
    classes: np.ndarray | None
    scores: np.ndarray | None
    global_feature: np.ndarray
    transposed: bool = False

    @property
    def layout(self) -> "Layout":
        """What all rows of a source must have in common."""
        return Layout(self.features.shape[1], len(self.global_feature), self.classes is not None)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Sizes of a region's and of an image's feature, and whether there are classes."""

    region_size: int
    global_size: int
    has_classes: bool


class RegionSource(abc.ABC):
    """Regions of many images in files. Rows have numbers from 0, in a fixed order. Safe to read from threads.

    May be pickled once `ids` has been read to its end; other processes then read the same rows by their numbers.
    """

    def __init__(self, path: Path) -> None:
        """Args: path: as the user gave it."""
        self.path = path

    @abc.abstractmethod
    def ids(self) -> Iterator[str | None]:
        """The published image id of every row in order, None where it cannot be told; to be called once, first."""

    @abc.abstractmethod
    def read(self, number: int) -> Row:
        """One row; raises BadRowError or OSError."""

    @abc.abstractmethod
    def place(self, number: int) -> str:
        """Where a row is, for messages."""


def positive(value: object, what: str) -> float:
    """A number from a cell or an array of one; raises BadRowError if it is none, or not positive."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise BadRowError(f"{what} is not a number") from error
    if not 0 < number < np.inf:
        raise BadRowError(f"{what} is not positive")
    return number
