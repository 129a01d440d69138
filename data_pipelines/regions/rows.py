"""The common interface of all formats of region files: one row per image, read one at a time."""

import abc
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipelines.storage.detectors import DetectorDescription

MAX_BOXES = 10_000  # of one image
MAX_ROW_BYTES = 64 << 20


class BadRowError(ValueError):
    """The row cannot be used; the message is short and the same for all faults of one kind."""


@dataclasses.dataclass(frozen=True)
class Row:
    """The published regions of one image, with unchecked values; the shapes are checked, and N > 0.

    Attributes:
      features: NxF, any real type.
      boxes: float64 Nx4, x0, y0, x1, y1.
      in_pixels: whether the boxes are in pixels, not in fractions of the image.
      height, width: size in pixels of the image that the detector processed; None: unknown.
      classes: N; None if the source has none.
      scores: N; None if the source has none.
      global_feature: G; G = 0 if the source has none.
      transposed: whether the file stores the features as FxN.
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
        """The properties that all rows of a source must have in common."""
        return Layout(self.features.shape[1], len(self.global_feature), self.classes is not None)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Sizes of the features of a region and of an image, and whether there are classes."""

    region_size: int
    global_size: int
    has_classes: bool


class RegionSource(abc.ABC):
    """Files with the regions of many images. Rows are numbered from 0 in a fixed order. Reading is thread-safe.

    A source can be pickled after `ids` has been read to its end; other processes can then read rows by their numbers.

    Attributes:
      path: path as given by the user.
      detector: description of the detector (`data_pipelines.storage.detectors`); None: unknown.
    """

    detector: DetectorDescription | None = None

    def __init__(self, path: Path) -> None:
        """Args: path: path as given by the user."""
        self.path = path

    @abc.abstractmethod
    def ids(self) -> Iterator[str | None]:
        """The published image id of every row in order, None if it is unreadable; call this first, and only once."""

    @abc.abstractmethod
    def read(self, number: int) -> Row:
        """Read one row; raises BadRowError or OSError."""

    @abc.abstractmethod
    def location(self, number: int) -> str:
        """The location of a row, for messages."""


def positive(value: object, what: str) -> float:
    """Convert a cell or a single array element to a number; raises BadRowError if it is not a positive number."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise BadRowError(f"{what} is not a number") from error
    if not 0 < number < np.inf:
        raise BadRowError(f"{what} is not positive")
    return number
