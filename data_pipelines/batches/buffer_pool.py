"""Memory of large arrays that is used again: the first writer of a fresh page waits for the system to clear it."""

import math
import sys
import threading

import numpy as np

_LEAST_BYTES = 1 << 20  # the allocator keeps smaller blocks itself
_MOST_BLOCKS = 8  # more arrays than these at once get memory of their own
_ALIGNMENT = 64  # bytes; JAX copies what lies otherwise, even where its device is this processor


class BufferPool:
    """Hands out uint8 arrays with any content, in blocks that nobody refers to any more.

    A block is in use as long as an array that lies in it lives, or anything that holds one: another view, a transfer to
    a device, an array of JAX, which lies in the block itself where the device is this processor. JAX holds it until the
    last computation that reads it has ended. Blocks are kept for as long as this object is. Safe to use from threads.
    """

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array of a shape."""
        size = math.prod(shape)
        if size < _LEAST_BYTES:
            return np.empty(shape, np.uint8)
        with self._lock:
            free = [i for i in range(len(self._blocks)) if sys.getrefcount(self._blocks[i]) == 2]  # the list, the call
            fitting = [i for i in free if self._blocks[i].size >= size + _ALIGNMENT]
            if fitting:
                block = self._blocks[fitting[0]]
            else:
                for i in reversed(free):  # too small ones: canvases differ, and the largest holds all
                    del self._blocks[i]
                block = np.empty(size + _ALIGNMENT, np.uint8)
                if len(self._blocks) < _MOST_BLOCKS:
                    self._blocks.append(block)
            first = -block.ctypes.data % _ALIGNMENT
            return block[first : first + size].reshape(shape)
