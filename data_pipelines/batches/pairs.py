"""Batches of rows with one or two images and K texts each, for visual question answering and NLVR2."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from data_pipelines.batches import shared
from data_pipelines.config import DataConfig
from data_pipelines.errors import BadRecordError, DataError
from data_pipelines.order.plan import BatchPlan
from data_pipelines.storage.records import Record, Records, parse_label
from data_pipelines.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class PairBatches:
    """Turns a BatchPlan into images and texts; a subclass adds the labels. Picklable.

    Attributes:
      sources: prepared splits.
      tokenizer: tokenizer of the run.
      config: sizes.
      seed: seed of the order of a record's texts in training.
      rows: range (first, last + 1) of the rows of the global batch to load; None: all rows.
      shuffle_images: pair each text with the image of another record of the batch, or with no image. This is a control
        experiment, which should score lower.
      evaluation: use each text exactly once, in the publisher's order.
    """

    sources: tuple[Records, ...]
    tokenizer: Tokenizer
    config: DataConfig
    seed: int
    rows: tuple[int, int] | None = None
    shuffle_images: bool = False
    evaluation: bool = False

    @property
    def images(self) -> int:
        """Images per row; 0: one image, without an axis for the images."""
        return 0

    def padding_labels(self, rows: int) -> dict[str, np.ndarray]:
        """Label arrays of `rows` padding rows."""
        raise NotImplementedError

    def write_label(self, batch: dict[str, np.ndarray], index: int, k: int, label: dict[str, Any]) -> None:
        """Write the label of text `k` to row `index`; raises ValueError if the label does not belong to the task."""
        raise NotImplementedError

    def __call__(self, plan: BatchPlan) -> dict[str, np.ndarray]:
        """The arrays of the task for the rows of this host.

        Rows with no record or a damaged record are padding rows.
        """
        reader = shared.Reader(self.sources, plan)

        def write_row(batch: shared.Batch, index: int, row: int) -> Callable[[], None]:
            image_row = shared.shuffled_image_row(plan, row) if self.shuffle_images else row
            image_record, record = None if image_row is None else reader[image_row], reader[row]
            for k, text in enumerate(self.texts_of_row(plan, row, len(record.texts))):
                ids = self.tokenizer.encode(record.texts[text], self.config.max_text_length)
                shared.write_ids(batch, index, k, ids)
                if not record.labels:
                    raise DataError(f"{record.image_id} has texts without labels; use a data set of this task.")
                try:
                    self.write_label(batch, index, k, parse_label(record.labels[text]))
                except ValueError as error:
                    raise BadRecordError(
                        f"{record.image_id}: the label of text {text} is damaged ({error}); prepare the data set again."
                    ) from error
            return functools.partial(self._write_images, batch, index, image_record)

        padding_rows = functools.partial(self._padding_rows, plan.canvas)
        return shared.make_rows(plan, self.rows, padding_rows, write_row, self.config.max_bad_records)

    def _write_images(self, batch: dict[str, np.ndarray], index: int, record: Record | None) -> None:
        """Write the images of a record, or black images, to row `index`."""
        if record is None:
            shared.show_nothing(batch, index)
            return
        for number, image in enumerate(shared.images_of(record, max(1, self.images))):
            at = (index, number) if self.images else (index,)
            row_arrays = batch["images"][at], batch["image_size"][at]
            shared.show(*row_arrays, image, record.image_id, self.config.resize)

    def _padding_rows(self, canvas: int, rows: int) -> dict[str, np.ndarray]:
        """All arrays of a batch of padding rows."""
        axes = (self.images,) if self.images else ()
        texts, length = self.config.texts_per_image, self.config.max_text_length
        return {
            **shared.blank_images(rows, self.config.all_canvases[canvas], *axes),
            **shared.blank_texts(rows, texts, length, self.tokenizer),
            **self.padding_labels(rows),
        }

    def texts_of_row(self, plan: BatchPlan, row: int, count: int) -> list[int]:
        """Indices of the texts of a row, in order, among the `count` texts of its record."""
        if self.evaluation:
            return shared.texts_in_order(plan, row, count, self.config.texts_per_image)
        return shared.visited_texts(self.seed, plan, row, count, self.config.texts_per_image)

    def texts_of(self, plan: BatchPlan) -> Iterator[tuple[int, int, int]]:
        """(row, k, index in the row's record) of each text of a batch, without padding; reads no record."""
        for row in np.flatnonzero(plan.record_B >= 0).tolist():
            count = int(self.sources[plan.source_B[row]].index.num_texts[plan.record_B[row]])
            for k, text in enumerate(self.texts_of_row(plan, row, count)):
                yield row, k, text
