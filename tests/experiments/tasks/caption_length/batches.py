"""Batches of images with the lengths of their captions; the captions themselves are not given."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

from data_pipelines.batches import shared
from data_pipelines.batches.visuals import visuals_of
from data_pipelines.config import DataConfig
from data_pipelines.order.plan import BatchPlan
from data_pipelines.storage.records import Records
from data_pipelines.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class CaptionLengthBatches:
    """Turns a BatchPlan into arrays. Picklable."""

    sources: tuple[Records, ...]
    tokenizer: Tokenizer
    config: DataConfig
    seed: int
    rows: tuple[int, int] | None = None
    shuffle_images: bool = False
    evaluation: bool = False

    def __call__(self, plan: BatchPlan) -> dict[str, np.ndarray]:
        visuals, reader = visuals_of(self.sources, self.config), shared.Reader(self.sources, plan)

        def write_row(batch: shared.Batch, index: int, row: int) -> Callable[[], None]:
            record, shown = reader[row], shared.shuffled_image_row(plan, row) if self.shuffle_images else row
            for k, text in enumerate(self._texts(plan, row, len(record.texts))):
                batch["length"][index, k] = len(self.tokenizer.pieces(record.texts[text]))
                batch["pair_mask"][index, k] = True
            if shown is None:
                return functools.partial(shared.show_nothing, batch, index)
            return functools.partial(visuals.write, batch, index, reader[shown])

        def blank(rows: int) -> shared.Batch:
            texts, length = self.config.texts_per_image, self.config.max_text_length
            return {
                **visuals.blank(rows, plan.canvas),
                **shared.blank_texts(rows, texts, length, self.tokenizer),
                "length": np.zeros((rows, texts), np.float32),
            }

        return shared.make_rows(plan, self.rows, blank, write_row, self.config.max_bad_records)

    def _texts(self, plan: BatchPlan, row: int, count: int) -> list[int]:
        if self.evaluation:
            return shared.texts_in_order(plan, row, count, self.config.texts_per_image)
        return shared.visited_texts(self.seed, plan, row, count, self.config.texts_per_image)

    def texts_of(self, plan: BatchPlan) -> Iterator[tuple[int, int, int]]:
        """(row, k, index in the row's record) of each text of a batch."""
        for row in np.flatnonzero(plan.record_B >= 0).tolist():
            count = int(self.sources[plan.source_B[row]].index.num_texts[plan.record_B[row]])
            for k, text in enumerate(self._texts(plan, row, count)):
                yield row, k, text
