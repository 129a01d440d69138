"""Batches of rows with one or two images and K texts each: what visual question answering and NLVR2 share."""

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
    """Turns a BatchPlan into images and texts; a subclass adds its labels. Picklable.

    Attributes:
      sources: prepared splits.
      tokenizer: of the run.
      config: sizes.
      seed: of the order of a record's texts in training.
      rows: first and last + 1 of the global batch's rows to load; None: all.
      shuffle_images: show each text the image of another record of the batch, or none: a control that must lose.
      evaluation: show each text exactly once, in the publisher's order.
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
        """Images a row; 0: one, without an axis of its own."""
        return 0

    def blank_labels(self, rows: int) -> dict[str, np.ndarray]:
        """Arrays of labels for nothing, with `rows` rows."""
        raise NotImplementedError

    def label(self, batch: dict[str, np.ndarray], place: int, k: int, stated: dict[str, Any]) -> None:
        """Write what a label states to row `place`, text `k`; ValueError if it cannot be the task's."""
        raise NotImplementedError

    def __call__(self, plan: BatchPlan) -> dict[str, np.ndarray]:
        """The task's arrays, for this host's rows. A row without a record, or with a damaged one, is padding."""
        reader = shared.Reader(self.sources, plan)

        def write_row(batch: shared.Batch, place: int, row: int) -> Callable[[], None]:
            shown_row = shared.shown_row(plan, row) if self.shuffle_images else row
            shown, record = None if shown_row is None else reader[shown_row], reader[row]
            for k, text in enumerate(self.shown_texts(plan, row, len(record.texts))):
                ids = self.tokenizer.encode(record.texts[text], self.config.max_text_length)
                shared.write_ids(batch, place, k, ids)
                if not record.labels:
                    raise DataError(f"{record.image_id} has texts without labels; use a data set of this task.")
                try:
                    self.label(batch, place, k, parse_label(record.labels[text]))
                except ValueError as error:
                    raise BadRecordError(
                        f"{record.image_id}: the label of text {text} is damaged ({error}); prepare the data set again."
                    ) from error
            return functools.partial(self._show, batch, place, shown)

        blank = functools.partial(self._blank, plan.canvas)
        return shared.make_rows(plan, self.rows, blank, write_row, self.config.max_bad_records)

    def _show(self, batch: dict[str, np.ndarray], place: int, shown: Record | None) -> None:
        """Show a record's images, or nothing, in row `place`."""
        if shown is None:
            shared.show_nothing(batch, place)
            return
        for number, image in enumerate(shared.images_of(shown, max(1, self.images))):
            at = (place, number) if self.images else (place,)
            row_arrays = batch["images"][at], batch["image_size"][at]
            shared.show(*row_arrays, image, shown.image_id, self.config.resize)

    def _blank(self, canvas: int, rows: int) -> dict[str, np.ndarray]:
        """Rows of padding rows."""
        axes = (self.images,) if self.images else ()
        texts, length = self.config.texts_per_image, self.config.max_text_length
        return {
            **shared.blank_images(rows, self.config.all_canvases[canvas], *axes),
            **shared.blank_texts(rows, texts, length, self.tokenizer),
            **self.blank_labels(rows),
        }

    def shown_texts(self, plan: BatchPlan, row: int, count: int) -> list[int]:
        """Which of a record's texts a row shows, in order."""
        if self.evaluation:
            return shared.texts_in_order(plan, row, count, self.config.texts_per_image)
        return shared.visited_texts(self.seed, plan, row, count, self.config.texts_per_image)

    def texts_of(self, plan: BatchPlan) -> Iterator[tuple[int, int, int]]:
        """(row, k, index in the row's record) of each text of a batch without its padding; no record is read."""
        for row in np.flatnonzero(plan.record_B >= 0).tolist():
            count = int(self.sources[plan.source_B[row]].index.num_texts[plan.record_B[row]])
            for k, text in enumerate(self.shown_texts(plan, row, count)):
                yield row, k, text
