"""Images that look alike: a fingerprint of 64 bits, and the images that a better one makes superfluous."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import cv2
import numpy as np

MAX_DISTANCE = 10  # bits; beyond it bands are so short that most images share one
_SIDE, _KEPT = 32, 8

# Rows are the first cosines of the DCT over 32 points.
_COSINES_8x32 = np.cos(np.pi * np.arange(_KEPT)[:, None] * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE))


@dataclasses.dataclass(frozen=True)
class Likeness:
    """What is compared: `score` (greater is better) and `sha256` order images that look alike."""

    sha256: str
    fingerprint: int
    score: float = 0.0

    @property
    def rank(self) -> tuple[float, str]:
        """The least is the best."""
        return -self.score, self.sha256


def fingerprint(image_HxWx3: np.ndarray) -> int:
    """Perceptual hash: which of the 64 slowest waves of the brightness are stronger than their median.

    Resizing, other compression and small changes of brightness turn a few bits; 0 for an image of one colour.
    """
    grey_HxW = cv2.cvtColor(image_HxWx3, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey_HxW, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    waves_8x8 = _COSINES_8x32 @ small @ _COSINES_8x32.T
    waves_8x8[0, 0] = 0.0  # the mean brightness
    # Rounded, so that what is nothing but rounding errors is equal to zero everywhere.
    waves_64 = np.round(waves_8x8, 3).ravel()
    bits_64 = waves_64 > np.median(waves_64)
    return int.from_bytes(np.packbits(bits_64).tobytes(), "big")


def bands(value: int, distance: int) -> list[str]:
    """Pieces of a fingerprint, with their places: two that differ in at most `distance` bits share at least one."""
    edges = [64 * i // (distance + 1) for i in range(distance + 2)]
    return [f"{start}:{value >> start & (1 << end - start) - 1:x}" for start, end in itertools.pairwise(edges)]


def near_duplicates(images: Iterable[Likeness], distance: int) -> Iterator[tuple[Likeness, Likeness]]:
    """Each image that has a better one within `distance` bits, with the best of those.

    The better one may itself be superfluous: so no two images within `distance` bits are ever both kept, and the
    result does not depend on any order.
    """
    ranked = sorted(set(images), key=lambda image: image.rank)
    # Images with one fingerprint have one best: there may be very many, all of one colour.
    of_value: dict[int, Likeness] = {}
    for image in ranked:
        of_value.setdefault(image.fingerprint, image)
    best, values = list(of_value.values()), np.array(list(of_value), np.uint64)
    for value in of_value:
        near = np.bitwise_count(values ^ np.uint64(value)) <= distance
        of_value[value] = best[int(near.argmax())]
    for image in ranked:
        better = of_value[image.fingerprint]
        if better is not image:
            yield image, better
