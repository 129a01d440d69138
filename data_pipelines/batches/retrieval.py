"""Batches of image-text retrieval: each image has one of its own texts and texts of other images."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from data_pipelines.batches import shared
from data_pipelines.batches.pretraining import comparable
from data_pipelines.batches.visuals import PixelVisuals, RegionVisuals, visuals_of
from data_pipelines.config import DataConfig
from data_pipelines.order.plan import BatchPlan
from data_pipelines.storage.records import Record, Records
from data_pipelines.text.tokenizer import Tokenizer

_OTHERS = 13  # stream of random numbers


@dataclasses.dataclass(frozen=True)
class RetrievalBatches:
    """The arrays named in pixelbert_jax.tasks.retrieval.

    A row is one image with one of its texts (data.texts_per_image = 1: each text is visited once per pass). The other
    texts are of other images of the same global batch, without replacement. A small batch may have fewer of them than
    `negatives`.
    """

    sources: tuple[Records, ...]
    tokenizer: Tokenizer
    config: DataConfig
    seed: int
    negatives: int = 20
    rows: tuple[int, int] | None = None

    def __call__(self, plan: BatchPlan) -> dict[str, np.ndarray]:
        """The arrays for the rows of this host; rows with no record (-1) or a damaged record are padding rows."""
        visuals, reader = visuals_of(self.sources, self.config), shared.Reader(self.sources, plan)
        # Every host reads all rows, so that all hosts agree on the group numbers and on the pool of texts.
        groups: dict[str, int] = {}
        pool: dict[tuple[str, str], str] = {}  # (image id, normalized text) -> text
        for _, record in reader.readable(reader.rows):
            groups.setdefault(record.image_id, len(groups))
            pool |= {(record.image_id, comparable(text)): text for text in record.texts}

        def write_row(batch: shared.Batch, index: int, row: int) -> Callable[[], None]:
            record = reader[row]
            batch["image_group"][index] = groups[record.image_id]
            for k, text in enumerate(self._texts(record, pool, plan, row)):
                ids = self.tokenizer.encode(text, self.config.max_text_length)
                shared.write_ids(batch, index, k, ids)
            mirrored = shared.is_mirrored(self.config.flip_rate, self.seed, plan, row)
            return functools.partial(visuals.write, batch, index, record, mirrored=mirrored)

        padding_rows = functools.partial(self._padding_rows, visuals, plan.canvas)
        return shared.make_rows(plan, self.rows, padding_rows, write_row, self.config.max_bad_records)

    def _padding_rows(self, visuals: PixelVisuals | RegionVisuals, canvas: int, rows: int) -> dict[str, np.ndarray]:
        """All arrays of a batch of padding rows."""
        return {
            **visuals.blank(rows, canvas),
            **shared.blank_texts(rows, 1 + self.negatives, self.config.max_text_length, self.tokenizer),
            "image_group": np.zeros(rows, np.int32),
        }

    def _texts(self, record: Record, pool: dict[tuple[str, str], str], plan: BatchPlan, row: int) -> list[str]:
        """A text of the row's image, then texts of other images, different from its own texts and from each other."""
        taken = {text for image_id, text in pool if image_id == record.image_id}
        (chosen,) = shared.visited_texts(self.seed, plan, row, len(record.texts), 1)
        texts, others = [record.texts[chosen]], list(pool.items())
        rng = shared.make_rng(self.seed, _OTHERS, plan.step, row)
        for choice in rng.permutation(len(others)):
            (_, comparable_text), text = others[choice]
            if len(texts) > self.negatives:
                break
            if comparable_text not in taken:
                taken.add(comparable_text)
                texts.append(text)
        return texts
