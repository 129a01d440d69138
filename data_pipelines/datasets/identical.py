"""Count images with the same bytes: dead links may all return one placeholder image, with different captions."""

import hashlib

OPTION = "max_identical"
DEFAULT = 10  # a real image may have a few addresses


def digest_of(image: bytes) -> int:
    """A 64-bit hash of the bytes of an image, the same on all machines."""
    return int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), "big")


class Identical:
    """Counts the images of all splits of a data set by their bytes; it takes about 100 bytes of memory per image."""

    def __init__(self, limit: int) -> None:
        """Args: limit: number of images with the same bytes that are kept, the first ones; 0: all."""
        self.reason = f"same bytes as {limit:,} earlier images"
        self._limit = limit
        self._once: set[int] = set()
        self._counts: dict[int, int] = {}  # of the images that occurred more than once

    def earlier(self, digest: int) -> int:
        """Count an image, and return the number of earlier images with the same bytes."""
        if digest in self._once:
            self._counts[digest] = self._counts.get(digest, 1) + 1
            return self._counts[digest] - 1
        self._once.add(digest)
        return 0

    def takes(self, earlier: int) -> bool:
        """Whether to keep an image if `earlier` earlier images have the same bytes."""
        return not self._limit or earlier < self._limit
