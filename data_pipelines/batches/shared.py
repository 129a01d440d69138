"""What the batches of all tasks share: records of a plan, images on canvases, texts of a visit, encoded text."""

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
PROBLEMS = "problems"  # what a batch says of its damaged records; no array for the devices
_memory = BufferPool()
_TEXTS, _FLIPS = 10, 15  # purposes that the seed is split into; the other files here have the others


class Reader:
    """The records of one batch by row, each read once, and only when asked for.

    Attributes:
      rows: the batch's rows in order, without the padding rows.
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
        """Those of some rows whose record can be read, and the record; a bad image in it is no matter here."""
        for row in rows:
            try:
                record = self[row]
            except BadRecordError:
                continue
            yield row, record


def make_rows(
    plan: BatchPlan,
    rows: tuple[int, int] | None,
    blank: Callable[[int], Batch],
    write_row: Callable[[Batch, int, int], Callable[[], None]],
    max_bad_records: int,
) -> Batch:
    """A batch of some rows of a plan; one that needs a damaged record stays blank, whatever the other rows hold.

    Args:
      plan: of the whole batch; its rows with record -1 are padding rows.
      rows: first and last + 1 of those to make; None: all.
      blank: makes a batch of so many padding rows; images may still hold anything, as those of `blank_images`.
      write_row: gets the batch, a place in it and the plan's row that goes there; writes all but what the row shows,
        and returns a function that writes this, every image of the place. Both may raise BadRecordError half-way.
      max_bad_records: 0: the first such error passes.

    Returns:
      The arrays of `blank`, and `PROBLEMS` with a sentence for each row that stays blank, if there are some.
    """
    first, last = rows or (0, len(plan.record_B))
    batch, problems = blank(last - first), {}

    def attempt(place: int, write: Callable[[], T]) -> T | None:
        try:
            return write()
        except BadRecordError as error:
            if not max_bad_records:
                raise
            problems[place] = str(error)
            for name, array in blank(1).items():
                batch[name][place] = array[0]
            show_nothing(batch, place)
            return None

    shows = {}
    for place, record in enumerate(plan.record_B[first:last].tolist()):
        if record < 0:
            show_nothing(batch, place)
        else:
            shows[place] = attempt(place, functools.partial(write_row, batch, place, first + place))
    # Images come last: each empties the processor's caches, after which everything else takes twice as long.
    for place, show in shows.items():
        if show is not None:
            attempt(place, show)
    return batch | ({PROBLEMS: np.array([problems[place] for place in sorted(problems)])} if problems else {})


def make_rng(*key: int) -> np.random.Generator:
    """The generator of `np.random.default_rng(key)`, which takes 40% less time to read an array than a list."""
    numbers = [int(number) for number in key]
    try:
        return np.random.default_rng(np.array(numbers, np.uint32))
    except OverflowError:  # one of more than 32 bits
        return np.random.default_rng(numbers)


def visited_texts(seed: int, plan: BatchPlan, row: int, count: int, texts: int) -> list[int]:
    """Which of a record's `count` texts a visit shows in training: consecutive ones of an order that changes with
    every pass, from the beginning again where they run out."""
    order = list(range(count))
    make_rng(seed, _TEXTS, plan.source_B[row], plan.record_B[row], plan.pass_B[row]).shuffle(order)
    start = int(plan.visit_B[row]) * texts
    return [order[(start + k) % count] for k in range(texts)]


def is_mirrored(rate: float, seed: int, plan: BatchPlan, row: int) -> bool:
    """Whether a row shows its image mirrored, as a share `rate` of them does."""
    return rate > 0 and make_rng(seed, _FLIPS, plan.step, row).random() < rate


def texts_in_order(plan: BatchPlan, row: int, count: int, texts: int) -> list[int]:
    """Which of a record's `count` texts a visit shows in evaluation: each text in one visit, once."""
    start = int(plan.visit_B[row]) * texts
    return list(range(start, min(start + texts, count)))


def shown_row(plan: BatchPlan, row: int) -> int | None:
    """The row whose image is shown in place of the row's own, for the control with shuffled images: the next one of
    another record; None, for nothing at all, if the batch has no other."""
    valid = np.flatnonzero(plan.record_B >= 0)
    for other in np.roll(valid, -1 - np.searchsorted(valid, row)):
        if plan.record_B[other] != plan.record_B[row] or plan.source_B[other] != plan.source_B[row]:
            return int(other)
    return None


def show(
    images_HxWx3: np.ndarray, size_2: np.ndarray, image: RecordImage | Record, name: str, rule: ResizeRule
) -> None:
    """Put an image, decoded and resized, into the top-left corner of a row's canvas and note its size."""
    pixels = resize.decode(image.image, name, image.orientation)
    height, width = size = resize.resized_size(*pixels.shape[:2], rule)
    resize.resize(pixels, size, images_HxWx3[:height, :width])
    images_HxWx3[height:] = 0
    images_HxWx3[:height, width:] = 0
    size_2[:] = size


def show_nothing(batch: Batch, place: int) -> None:
    """Make the images of row `place` black; nothing to do where the model sees regions."""
    if "images" in batch:
        batch["images"][place] = 0


def images_of(record: Record, count: int) -> list[RecordImage]:
    """The record's image, or its two.

    Raises:
      DataError: it has another number of them.
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
    """Rows with sizes of one pixel, whose canvases hold anything yet: to clear what is then written over takes long."""
    return {
        "images": _memory.take((count, *images, *canvas, 3)),
        "image_size": np.ones((count, *images, 2), np.int32),
    }


def blank_texts(rows: int, texts: int, length: int, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Rows of texts without words, [CLS] [SEP], none of which counts."""
    batch = {
        "text": np.full((rows, texts, length), tokenizer.pad, np.int32),
        "text_mask": np.zeros((rows, texts, length), bool),
        "pair_mask": np.zeros((rows, texts), bool),
    }
    filler = tokenizer.encode("", length)
    batch["text"][..., : len(filler)] = filler
    batch["text_mask"][..., : len(filler)] = True
    return batch


def write_ids(batch: dict[str, np.ndarray], place: int, k: int, ids_T: np.ndarray) -> None:
    """Put an encoded text into slot `k` of row `place`, which is still blank; it counts from now on."""
    length = len(ids_T)
    batch["text"][place, k, :length] = ids_T
    batch["text_mask"][place, k, :length] = True
    batch["pair_mask"][place, k] = True
