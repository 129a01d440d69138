"""Records in memory, for tests of batches."""

import json

import numpy as np

from data_pipelines.batches.buffer_pool import BufferPool
from data_pipelines.images import resize
from data_pipelines.storage.records import Index, Record, RecordImage

_memory = BufferPool()


class FakeRecords:
    """Records made in memory."""

    def __init__(self, records: list[Record]):
        self.records = records
        heights, widths = (np.array([getattr(r, side) for r in records], np.int32) for side in ("height", "width"))
        self.index = Index(heights, widths, np.array([len(r.texts) for r in records], np.int32), "fake")

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Record:
        return self.records[i]


def image(colour: int, height: int = 48, width: int = 64) -> RecordImage:
    """An image with one grey level, which identifies it."""
    return RecordImage(
        resize.cv2.imencode(".png", np.full((height, width, 3), colour, np.uint8))[1].tobytes(), height, width
    )


def record(number: int, texts: list[str], labels: list[dict] | None = None, second: RecordImage | None = None, **size):
    first = image(10 + number, **size)
    encoded = tuple(map(json.dumps, labels)) if labels is not None else ()
    return Record(first.image, first.height, first.width, f"fake/{number}", tuple(texts), encoded, second)


class FilledMemory:
    """A substitute for BufferPool: arrays that are filled with one number."""

    def __init__(self, value: int) -> None:
        self.value = value

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.value, np.uint8)


def filled_batch(step: int) -> dict[str, np.ndarray]:
    """A batch in memory of a buffer pool, filled with its step; picklable for workers."""
    images = _memory.take((4, 1 << 9, 1 << 9))
    images[:] = step
    return {"images": images}
