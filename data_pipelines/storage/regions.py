"""Regions of an image from an object detector, in the form in which records store them."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
    """The regions of a detector for one image, the highest-scoring first; at least one.

    Two objects are equal if all of their arrays are equal. An array with another type or shape raises ValueError.

    Attributes:
      features: float16 NxF, the detector's feature of each box.
      boxes: float32 Nx4, x0, y0, x1, y1 as fractions of the image, 0 to 1, from its top left corner.
      classes: int32 N, the detector's class of each box from 0, or -1 if the source has no classes.
      scores: float32 N, the detector's confidence, descending.
      global_feature: float16 G, feature of the whole image; G = 0 if the source has none.
    """

    features: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    global_feature: np.ndarray

    def __post_init__(self) -> None:
        number = len(self.scores)
        size = self.features.shape[-1]
        expected = {
            "features": (np.float16, (number, size)),
            "boxes": (np.float32, (number, 4)),
            "classes": (np.int32, (number,)),
            "scores": (np.float32, (number,)),
            "global_feature": (np.float16, (self.global_feature.size,)),
        }
        for name, (dtype, shape) in expected.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"regions: {name} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}")
        if number < 1 or size < 1:
            raise ValueError(f"regions: {number} boxes with features of size {size}; there must be one of each")

    def __len__(self) -> int:
        return len(self.scores)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Regions):
            return NotImplemented
        return all(np.array_equal(array, getattr(other, name)) for name, array in vars(self).items())

    __hash__ = None

    def best(self, number: int) -> "Regions":
        """The first `number` regions, or all regions if there are fewer."""
        return Regions(
            self.features[:number],
            self.boxes[:number],
            self.classes[:number],
            self.scores[:number],
            self.global_feature,
        )

    def digest(self) -> str:
        """Hex digest of all arrays with their shapes; the same on all machines."""
        digest = hashlib.blake2b(digest_size=16)
        for array in vars(self).values():
            digest.update(repr(array.shape).encode())
            digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return digest.hexdigest()


class RegionStatistics:
    """Statistics of the regions of a split for the index; call `add` for each record."""

    def __init__(self) -> None:
        self._sizes: set[tuple[int, int]] = set()  # of features and of global features
        self._numbers: list[int] = []
        self._greatest_class = -1

    def add(self, regions: Regions) -> None:
        """Add the regions of one record."""
        self._sizes.add((regions.features.shape[1], len(regions.global_feature)))
        self._numbers.append(len(regions))
        self._greatest_class = max(self._greatest_class, int(regions.classes.max()))

    def problem(self, num_records: int) -> str:
        """Describe a problem of the regions in a split of `num_records` records; empty if there is none."""
        if self._numbers and len(self._numbers) != num_records:
            return f"regions of {len(self._numbers)} among {num_records} records of a split"
        if len(self._sizes) > 1:
            return f"regions with features of different sizes: {sorted(self._sizes)}"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Fields of a split's entry in the index; empty if there are no regions."""
        if not self._numbers:
            return {}
        ((region_size, global_size),) = self._sizes
        return {
            "region_size": region_size,
            "global_size": global_size,
            "region_classes": self._greatest_class + 1,
            "regions": {
                "mean": sum(self._numbers) / len(self._numbers),
                "min": min(self._numbers),
                "max": max(self._numbers),
            },
        }


def to_fields(regions: Regions) -> dict[str, Any]:
    """Fields of a tf.train.Example: features as raw bytes of little-endian float16, the other arrays as numbers."""
    return {
        "region_features": _to_bytes(regions.features),
        "region_boxes": regions.boxes,
        "region_classes": regions.classes,
        "region_scores": regions.scores,
        "global_feature": _to_bytes(regions.global_feature),
    }


def from_feature(feature: Mapping[str, Any]) -> Regions | None:
    """Regions from the fields of a parsed tf.train.Example; None if it has no regions.

    Raises:
      ValueError: the shapes of the fields do not match.
    """
    if "region_features" not in feature:
        return None
    scores_N = np.array(feature["region_scores"].float_list.value, np.float32)
    features = _from_bytes(feature["region_features"].bytes_list.value[0])
    return Regions(
        features=features.reshape(len(scores_N), -1),
        boxes=np.array(feature["region_boxes"].float_list.value, np.float32).reshape(-1, 4),
        classes=np.array(feature["region_classes"].int64_list.value, np.int32),
        scores=scores_N,
        global_feature=_from_bytes(feature["global_feature"].bytes_list.value[0]),
    )


def _to_bytes(array: np.ndarray) -> bytes:
    return array.astype("<f2", copy=False).tobytes()


def _from_bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, "<f2").astype(np.float16, copy=False)
