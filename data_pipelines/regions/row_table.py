"""A table from keys of images to rows of regions; it takes about thirty bytes per row."""

import array
import hashlib
from collections.abc import Iterable

import numpy as np


class RowTable:
    """Row numbers by key; if several rows have the same key, the first one is used.

    Attributes:
      num_rows: number of rows of the source, including rows without a key.
      without_key: numbers of the rows without a key.
      repeated: numbers of the rows with a key that an earlier row has.
    """

    def __init__(self, keys: Iterable[str | None]) -> None:
        """Args: keys: keys of all rows in order, None for a row without a key."""
        hashes = array.array("Q")
        numbers = array.array("q")
        self.without_key: list[int] = []
        self.num_rows = 0
        for number, key in enumerate(keys):
            self.num_rows += 1
            if key is None:
                self.without_key.append(number)
            else:
                hashes.append(_hash(key))
                numbers.append(number)
        hashes_R = np.frombuffer(hashes, np.uint64)
        order_R = np.argsort(hashes_R, kind="stable")
        hashes_R = hashes_R[order_R]
        first_R = np.ones(len(hashes_R), bool)
        first_R[1:] = hashes_R[1:] != hashes_R[:-1]
        numbers_R = np.frombuffer(numbers, np.int64)[order_R]
        self.repeated: list[int] = sorted(numbers_R[~first_R].tolist())
        self._hashes_K, self._numbers_K = hashes_R[first_R], numbers_R[first_R]
        self._image_K = np.zeros(len(self._hashes_K), np.uint64)  # hash of the joined image's id; 0: none

    @property
    def num_unjoined(self) -> int:
        """Number of distinct keys that no image has joined."""
        return int((self._image_K == 0).sum())

    def join(self, key: str, image_id: str) -> int | None:
        """Join an image with the row of a key and return the number of the row; None if there is no such row.

        Raises:
          KeyError: another image has already joined this row.
        """
        hashed = np.uint64(_hash(key))
        k = int(np.searchsorted(self._hashes_K, hashed))
        if k == len(self._hashes_K) or self._hashes_K[k] != hashed:
            return None
        image = np.uint64(_hash(image_id))
        if self._image_K[k] not in (0, image):
            raise KeyError(key)
        self._image_K[k] = image
        return int(self._numbers_K[k])


def _hash(text: str) -> int:
    """A hash of 64 bits that is never 0."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") or 1
