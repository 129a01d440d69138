"""Near-duplicates: a perceptual hash of 64 bits, and the images that have a better near-duplicate."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import cv2
import numpy as np

MAX_DISTANCE = 10  # bits; with more, bands are so short that most images share one
_SIDE, _KEPT = 32, 8

# The rows are the first basis functions of the DCT over 32 points.
_COSINES_8x32 = np.cos(np.pi * np.arange(_KEPT)[:, None] * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE))


@dataclasses.dataclass(frozen=True)
class ImageHash:
    """The perceptual hash `value` of an image; `score` (higher is better) and `sha256` rank near-duplicates."""

    sha256: str
    value: int
    score: float = 0.0

    @property
    def rank(self) -> tuple[float, str]:
        """Sort key; the smallest is the best."""
        return -self.score, self.sha256


def perceptual_hash(image_HxWx3: np.ndarray) -> int:
    """Which of the 64 lowest frequencies of the brightness have a coefficient above the median, as 64 bits.

    Resizing, compression and small changes of brightness flip only a few bits. The hash of an image with one colour is
    0.
    """
    grey_HxW = cv2.cvtColor(image_HxWx3, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey_HxW, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    coefficients_8x8 = _COSINES_8x32 @ small @ _COSINES_8x32.T
    coefficients_8x8[0, 0] = 0.0  # the mean brightness
    # Rounding makes coefficients that are only rounding errors equal to zero on all machines.
    coefficients_64 = np.round(coefficients_8x8, 3).ravel()
    bits_64 = coefficients_64 > np.median(coefficients_64)
    return int.from_bytes(np.packbits(bits_64).tobytes(), "big")


def bands(value: int, distance: int) -> list[str]:
    """Parts of a hash with their positions: two hashes that differ in at most `distance` bits share at least one."""
    edges = [64 * i // (distance + 1) for i in range(distance + 2)]
    return [f"{start}:{value >> start & (1 << end - start) - 1:x}" for start, end in itertools.pairwise(edges)]


def near_duplicates(images: Iterable[ImageHash], distance: int) -> Iterator[tuple[ImageHash, ImageHash]]:
    """Each image with a better image within `distance` bits, and the best of these images.

    The better image may itself have a better one. So two images within `distance` bits are never both kept, and the
    result does not depend on any order.
    """
    ranked = sorted(set(images), key=lambda image: image.rank)
    # Images with the same hash are grouped, because there may be very many, such as images with one colour.
    best_by_value: dict[int, ImageHash] = {}
    for image in ranked:
        best_by_value.setdefault(image.value, image)
    best, values = list(best_by_value.values()), np.array(list(best_by_value), np.uint64)
    for value in best_by_value:
        near = np.bitwise_count(values ^ np.uint64(value)) <= distance
        best_by_value[value] = best[int(near.argmax())]
    for image in ranked:
        better = best_by_value[image.value]
        if better is not image:
            yield image, better
