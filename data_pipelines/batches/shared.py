"""Shared parts of the batches of all tasks: records of a plan, images on canvases, texts of a visit, encoded texts."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from data_pipelines.batches.buffer_pool import BufferPool
from data_pipelines.errors import BadRecordError, DataError
from data_pipelines.images import resize
from data_pipelines.images.resize import Canvas, ResizeRule
from data_pipelines.order.plan import BatchPlan
from data_pipelines.storage.records import Record, RecordImage, Records
from data_pipelines.text.tokenizer import Tokenizer

T = TypeVar("T")
Batch = dict[str, np.ndarray]
PROBLEMS = "problems"  # key for the messages about damaged records of a batch; not an array for the devices
_memory = BufferPool()
_TEXTS, _FLIPS = 10, 15  # streams of random numbers; the other files in this folder have others


class Reader:
    """The records of one batch by row; a record is read at its first use and only once.

    Attributes:
      rows: the rows of the batch in order, without the padding rows.
    """

    def __init__(self, sources: Sequence[Records], plan: BatchPlan) -> None:
        self._sources = sources
        self._keys = list(zip(plan.source_B.tolist(), plan.record_B.tolist(), strict=True))
        self._read: dict[tuple[int, int], Record] = {}
        self.rows = [row for row, (_, number) in enumerate(self._keys) if number >= 0]

    def __getitem__(self, row: int) -> Record:
        key = self._keys[row]
        if key not in self._read:
            record = self._sources[key[0]][key[1]]
            if not record.texts:
                raise BadRecordError(f"Record {key[1]} ({record.image_id}) has no text; prepare its data set again.")
            self._read[key] = record
        return self._read[key]

    def readable(self, rows: Iterable[int]) -> Iterator[tuple[int, Record]]:
        """Those of the given rows whose record can be read, with the record; images are not decoded here."""
        for row in rows:
            try:
                record = self[row]
            except BadRecordError:
                continue
            yield row, record


def make_rows(
    plan: BatchPlan,
    rows: tuple[int, int] | None,
    padding_rows: Callable[[int], Batch],
    write_row: Callable[[Batch, int, int], Callable[[], None]],
    max_bad_records: int,
) -> Batch:
    """Make a batch of some rows of a plan; a row that needs a damaged record becomes a padding row.

    Args:
      plan: plan of the whole batch; its rows with record -1 are padding rows.
      rows: range (first, last + 1) of the rows to make; None: all rows.
      padding_rows: makes a batch of the given number of padding rows; the content of its images may be arbitrary, as
        that of `blank_images`.
      write_row: called with the batch, the index of a row in it, and the row of the plan. It writes everything except
        the visual input, and returns a function that writes the visual input, including all images of the row. Both
        may raise BadRecordError after a part of the work.
      max_bad_records: if 0, the first BadRecordError is raised.

    Returns:
      The arrays of `padding_rows`, and `PROBLEMS` with a message for each row with a damaged record, if there are any.
    """
    first, last = rows or (0, len(plan.record_B))
    batch, problems = padding_rows(last - first), {}

    def attempt(index: int, write: Callable[[], T]) -> T | None:
        try:
            return write()
        except BadRecordError as error:
            if not max_bad_records:
                raise
            problems[index] = str(error)
            for name, array in padding_rows(1).items():
                batch[name][index] = array[0]
            show_nothing(batch, index)
            return None

    visual_writers = {}
    for index, record in enumerate(plan.record_B[first:last].tolist()):
        if record < 0:
            show_nothing(batch, index)
        else:
            visual_writers[index] = attempt(index, functools.partial(write_row, batch, index, first + index))
    # Images come last: each image clears the CPU caches, and then everything else takes twice as long.
    for index, write_visuals in visual_writers.items():
        if write_visuals is not None:
            attempt(index, write_visuals)
    return batch | ({PROBLEMS: np.array([problems[index] for index in sorted(problems)])} if problems else {})


def make_rng(*key: int) -> np.random.Generator:
    """The generator `np.random.default_rng(key)`; an array as key takes 40% less time than a list."""
    numbers = [int(number) for number in key]
    try:
        return np.random.default_rng(np.array(numbers, np.uint32))
    except OverflowError:  # a number has more than 32 bits
        return np.random.default_rng(numbers)


def visited_texts(seed: int, plan: BatchPlan, row: int, count: int, texts: int) -> list[int]:
    """Indices of the texts of a visit in training, among the `count` texts of a record.

    The texts are consecutive in a random order, which changes with every pass. After the last text, the order starts
    again.
    """
    order = list(range(count))
    make_rng(seed, _TEXTS, plan.source_B[row], plan.record_B[row], plan.pass_B[row]).shuffle(order)
    start = int(plan.visit_B[row]) * texts
    return [order[(start + k) % count] for k in range(texts)]


def is_mirrored(rate: float, seed: int, plan: BatchPlan, row: int) -> bool:
    """Whether the image of a row is mirrored; this is true for a share `rate` of the rows."""
    return rate > 0 and make_rng(seed, _FLIPS, plan.step, row).random() < rate


def texts_in_order(plan: BatchPlan, row: int, count: int, texts: int) -> list[int]:
    """Indices of the texts of a visit in evaluation, among the `count` texts of a record: each text is in one visit."""
    start = int(plan.visit_B[row]) * texts
    return list(range(start, min(start + texts, count)))


def shuffled_image_row(plan: BatchPlan, row: int) -> int | None:
    """The row whose image replaces the image of `row`, for the control with shuffled images.

    This is the next row with another record. None means no image, because the batch has only one record.
    """
    valid = np.flatnonzero(plan.record_B >= 0)
    for other in np.roll(valid, -1 - np.searchsorted(valid, row)):
        if plan.record_B[other] != plan.record_B[row] or plan.source_B[other] != plan.source_B[row]:
            return int(other)
    return None


def show(
    images_HxWx3: np.ndarray, size_2: np.ndarray, image: RecordImage | Record, name: str, rule: ResizeRule
) -> None:
    """Decode and resize an image, write it to the top-left corner of a row's canvas, and write its size."""
    pixels = resize.decode(image.image, name, image.orientation)
    height, width = size = resize.resized_size(*pixels.shape[:2], rule)
    resize.resize(pixels, size, images_HxWx3[:height, :width])
    images_HxWx3[height:] = 0
    images_HxWx3[:height, width:] = 0
    size_2[:] = size


def show_nothing(batch: Batch, index: int) -> None:
    """Make the images of row `index` black; does nothing if the visual input is regions."""
    if "images" in batch:
        batch["images"][index] = 0


def images_of(record: Record, count: int) -> list[RecordImage]:
    """The one or two images of a record.

    Raises:
      DataError: the record does not have `count` images.
    """
    found = [
        RecordImage(record.image, record.height, record.width, record.orientation),
        *([record.second] if record.second else []),
    ]
    if len(found) != count:
        raise DataError(
            f"{record.image_id} has {len(found)} image(s), the task needs {count}; change task.images or the data."
        )
    return found


def blank_images(count: int, canvas: Canvas, *images: int) -> dict[str, np.ndarray]:
    """Canvases with arbitrary content, and sizes of one pixel; clearing memory that is overwritten later takes long."""
    return {
        "images": _memory.take((count, *images, *canvas, 3)),
        "image_size": np.ones((count, *images, 2), np.int32),
    }


def blank_texts(rows: int, texts: int, length: int, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Texts of padding rows: [CLS] [SEP] without other tokens, and pair_mask is False."""
    batch = {
        "text": np.full((rows, texts, length), tokenizer.pad, np.int32),
        "text_mask": np.zeros((rows, texts, length), bool),
        "pair_mask": np.zeros((rows, texts), bool),
    }
    empty_text = tokenizer.encode("", length)
    batch["text"][..., : len(empty_text)] = empty_text
    batch["text_mask"][..., : len(empty_text)] = True
    return batch


def write_ids(batch: dict[str, np.ndarray], index: int, k: int, ids_T: np.ndarray) -> None:
    """Write an encoded text to slot `k` of row `index`, which is a padding row so far, and set its masks."""
    length = len(ids_T)
    batch["text"][index, k, :length] = ids_T
    batch["text_mask"][index, k, :length] = True
    batch["pair_mask"][index, k] = True
