"""Batches of image-text retrieval: pictures with one true text and texts of other pictures."""

import dataclasses

import numpy as np

from data_pipelines.batches import shared
from data_pipelines.batches.pretraining import comparable
from data_pipelines.batches.visuals import visuals_of
from data_pipelines.config import DataConfig
from data_pipelines.plan import BatchPlan
from data_pipelines.records import Record, Records
from data_pipelines.text import Tokenizer

_OTHERS = 13  # purpose that the seed is split into


@dataclasses.dataclass(frozen=True)
class RetrievalBatches:
    """The arrays named in pixelbert_jax.tasks.retrieval.

    A row is one picture with one of its texts (data.texts_per_image = 1: each text is visited once a pass). The others
    are texts of other pictures of the same global batch, without replacement; a small batch may have fewer than asked.
    """

    sources: tuple[Records, ...]
    tokenizer: Tokenizer
    config: DataConfig
    seed: int
    negatives: int = 20
    rows: tuple[int, int] | None = None

    def __call__(self, plan: BatchPlan) -> dict[str, np.ndarray]:
        """The arrays for this host's rows; rows with record -1 are fillers."""
        first, last = self.rows or (0, len(plan.record_B))
        count, length, candidates = last - first, self.config.max_text_length, 1 + self.negatives
        visuals = visuals_of(self.sources, self.config)
        batch = {
            **visuals.blank(count, plan.canvas),
            **shared.blank_texts(count, candidates, length, self.tokenizer),
            "image_group": np.zeros(count, np.int32),
        }
        reader = shared.Reader(self.sources, plan)
        # Every host looks at all rows, so that the numbers of groups and the texts to choose from agree.
        groups: dict[str, int] = {}
        pool: dict[tuple[str, str], str] = {}  # each text of each picture once
        for row in np.flatnonzero(plan.record_B >= 0):
            record = reader[int(row)]
            groups.setdefault(record.image_id, len(groups))
            pool |= {(record.image_id, comparable(text)): text for text in record.texts}
        for row in range(first, last):
            if plan.record_B[row] < 0:
                continue
            place, record = row - first, reader[row]
            visuals.write(batch, place, record)
            batch["image_group"][place] = groups[record.image_id]
            for k, text in enumerate(self._texts(record, pool, plan, row)):
                shared.write_ids(batch, place, k, self.tokenizer.encode(text, length), self.tokenizer)
        return batch

    def _texts(self, record: Record, pool: dict[tuple[str, str], str], plan: BatchPlan, row: int) -> list[str]:
        """A text of the row's picture, then texts of other pictures, none of them like one of its own or another."""
        taken = {text for image_id, text in pool if image_id == record.image_id}
        (chosen,) = shared.visited_texts(self.seed, plan, row, len(record.texts), 1)
        texts, others = [record.texts[chosen]], list(pool.items())
        rng = np.random.default_rng([self.seed, _OTHERS, plan.step, row])
        for choice in rng.permutation(len(others)):
            (_, comparable_text), text = others[choice]
            if len(texts) > self.negatives:
                break
            if comparable_text not in taken:
                taken.add(comparable_text)
                texts.append(text)
        return texts
