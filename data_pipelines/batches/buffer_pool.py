"""A pool of buffers for large arrays, because the first write to fresh memory waits until the system has cleared it."""

import math
import sys
import threading

import numpy as np

_MIN_BYTES = 1 << 20  # the allocator itself reuses smaller blocks
_MAX_BLOCKS = 8  # if more arrays are in use at once, the others get memory outside the pool
_ALIGNMENT = 64  # bytes; JAX copies arrays with another alignment, even on the CPU


class BufferPool:
    """Provides uint8 arrays with arbitrary content, in memory blocks that are no longer referenced.

    A block is in use as long as something refers to it: an array, a view, a transfer to a device, or a JAX array. On
    the CPU, a JAX array uses the block itself, and JAX holds it until the last computation that reads it has ended.
    The pool keeps its blocks as long as it exists. It is thread-safe.
    """

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array of the given shape."""
        size = math.prod(shape)
        if size < _MIN_BYTES:
            return np.empty(shape, np.uint8)
        with self._lock:
            # A free block has two references: the list and the call.
            free = [i for i in range(len(self._blocks)) if sys.getrefcount(self._blocks[i]) == 2]
            fitting = [i for i in free if self._blocks[i].size >= size + _ALIGNMENT]
            if fitting:
                block = self._blocks[fitting[0]]
            else:
                for i in reversed(free):  # all free blocks are too small; the new block also holds smaller canvases
                    del self._blocks[i]
                block = np.empty(size + _ALIGNMENT, np.uint8)
                if len(self._blocks) < _MAX_BLOCKS:
                    self._blocks.append(block)
            first = -block.ctypes.data % _ALIGNMENT
            return block[first : first + size].reshape(shape)
