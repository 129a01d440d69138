"""Images with the same bytes: dead links that all answer with one placeholder become records with different texts."""

import hashlib

OPTION = "max_identical"
DEFAULT = 10  # an image may be at a few addresses


def digest_of(image: bytes) -> int:
    """A number of 64 bits for the bytes of an image, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), "big")


class Identical:
    """Counts the images of a data set by their bytes, over all of its splits; about 100 bytes of memory an image."""

    def __init__(self, limit: int) -> None:
        """Args: limit: images with the same bytes that are taken, the first ones; 0: all."""
        self.reason = f"same bytes as {limit:,} earlier images"
        self._limit = limit
        self._once: set[int] = set()
        self._counts: dict[int, int] = {}  # of the images that came more than once

    def earlier(self, digest: int) -> int:
        """Number of images with those bytes before this one."""
        if digest in self._once:
            self._counts[digest] = self._counts.get(digest, 1) + 1
            return self._counts[digest] - 1
        self._once.add(digest)
        return 0

    def takes(self, earlier: int) -> bool:
        """Whether an image is taken that so many earlier ones have the bytes of."""
        return not self._limit or earlier < self._limit
