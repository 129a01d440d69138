"""Batches of Pixel-BERT's pre-training: pictures with K texts each, half of the pairs mismatched, words hidden.

Every choice depends on (seed, step, row) alone, so hosts that load different rows of a batch agree on it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines import images
from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.plan import BatchPlan
from data_pipelines.records import Record, Records
from data_pipelines.text import Tokenizer, mask_words

_TEXTS, _MISMATCHES, _ROW = 10, 11, 12  # purposes that the seed is split into


@dataclasses.dataclass(frozen=True)
class PretrainingBatches:
    """Turns a BatchPlan into arrays; picklable, so that it can go into a worker."""

    sources: tuple[Records, ...]
    tokenizer: Tokenizer
    config: DataConfig
    seed: int
    rows: tuple[int, int] | None = None  # first and last + 1 of the global batch's rows to load; None: all
    shuffle_images: bool = False  # show each text the picture of another row: a control that must lose

    def __call__(self, plan: BatchPlan) -> dict[str, np.ndarray]:
        """The arrays named in pixelbert_jax.tasks.pretraining, for this host's rows.

        Rows with record -1 are fillers: pair_mask is False and the picture is one black pixel.
        """
        first, last = self.rows or (0, len(plan.record_B))
        texts, length, slots = (
            self.config.texts_per_image,
            self.config.max_text_length,
            self.config.mask_slots,
        )
        canvas = self.config.all_canvases[plan.canvas]
        count = last - first
        batch = {
            "images": np.zeros((count, *canvas, 3), np.uint8),
            "image_size": np.ones((count, 2), np.int32),
            "text": np.full((count, texts, length), self.tokenizer.pad, np.int32),
            "text_mask": np.zeros((count, texts, length), bool),
            "mlm_position": np.zeros((count, texts, slots), np.int32),
            "mlm_target": np.zeros((count, texts, slots), np.int32),
            "mlm_mask": np.zeros((count, texts, slots), bool),
            "itm_label": np.zeros((count, texts), np.int32),
            "pair_mask": np.zeros((count, texts), bool),
        }
        reader = _Reader(self.sources, plan)
        mismatched_BxK = self._mismatched(plan)
        for row in range(first, last):
            place = row - first
            if plan.record_B[row] < 0:
                ids = self.tokenizer.encode("", length)
                batch["text"][place, :, : len(ids)] = ids
                batch["text_mask"][place, :, : len(ids)] = True
                continue
            picture = self._picture(reader[self._shown_row(plan, row)])
            batch["images"][place, : picture.shape[0], : picture.shape[1]] = picture
            batch["image_size"][place] = picture.shape[:2]
            batch["pair_mask"][place] = True
            rng = np.random.default_rng([self.seed, _ROW, plan.step, row])
            for k, text in enumerate(self._own_texts(reader[row], plan, row)):
                other = self._other_text(reader, plan, row, rng) if mismatched_BxK[row, k] else None
                batch["itm_label"][place, k] = other is None
                ids = self.tokenizer.encode(text if other is None else other, length)
                masked, position, target = mask_words(
                    ids,
                    self.tokenizer,
                    rng,
                    rate=self.config.mask_rate,
                    slots=slots,
                    whole_words=self.config.whole_word_masking,
                )
                batch["text"][place, k, : len(ids)] = masked
                batch["text_mask"][place, k, : len(ids)] = True
                batch["mlm_position"][place, k, : len(position)] = position
                batch["mlm_target"][place, k, : len(position)] = target
                batch["mlm_mask"][place, k, : len(position)] = True
        return batch

    def _mismatched(self, plan: BatchPlan) -> np.ndarray:
        """True for the half of the pairs (BxK) that get another image's text."""
        pairs = np.flatnonzero(np.repeat(plan.record_B >= 0, self.config.texts_per_image))
        rng = np.random.default_rng([self.seed, _MISMATCHES, plan.step])
        mismatched = np.zeros(len(plan.record_B) * self.config.texts_per_image, bool)
        mismatched[rng.permutation(pairs)[: len(pairs) // 2]] = True
        return mismatched.reshape(len(plan.record_B), -1)

    def _own_texts(self, record: Record, plan: BatchPlan, row: int) -> list[str]:
        """The K texts of this visit: consecutive ones of an order that changes with every pass."""
        key = (plan.source_B[row], plan.record_B[row], plan.pass_B[row])
        rng = np.random.default_rng([self.seed, _TEXTS, *map(int, key)])
        order = rng.permutation(len(record.texts))
        texts = self.config.texts_per_image
        start = int(plan.visit_B[row]) * texts
        return [record.texts[order[(start + k) % len(order)]] for k in range(texts)]

    def _other_text(self, reader: "_Reader", plan: BatchPlan, row: int, rng: np.random.Generator) -> str | None:
        """A text of another image of the global batch that is none of this image's; None if there is none."""
        own = reader[row]
        own_texts = {comparable(text) for text in own.texts}
        for other_row in rng.permutation(np.flatnonzero(plan.record_B >= 0)):
            other = reader[int(other_row)]
            if other.image_id == own.image_id:
                continue
            for choice in rng.permutation(len(other.texts)):
                if comparable(other.texts[choice]) not in own_texts:
                    return other.texts[choice]
        return None

    def _shown_row(self, plan: BatchPlan, row: int) -> int:
        valid = np.flatnonzero(plan.record_B >= 0)
        if not self.shuffle_images or len(valid) < 2:
            return row
        return int(valid[(np.searchsorted(valid, row) + 1) % len(valid)])

    def _picture(self, record: Record) -> np.ndarray:
        pixels = images.decode(record.image, record.image_id)
        return images.resize(pixels, images.resized_size(*pixels.shape[:2], self.config.resize))


def comparable(text: str) -> str:
    """A text without what does not make it a different one: case, spaces and a final full stop."""
    return " ".join(text.casefold().split()).rstrip(" .")


class _Reader:
    """The records of one batch, each read once, and only when asked for."""

    def __init__(self, sources: Sequence[Records], plan: BatchPlan) -> None:
        self._sources, self._plan = sources, plan
        self._read: dict[tuple[int, int], Record] = {}

    def __getitem__(self, row: int) -> Record:
        key = int(self._plan.source_B[row]), int(self._plan.record_B[row])
        if key not in self._read:
            record = self._sources[key[0]][key[1]]
            if not record.texts:
                raise DataError(f"Record {key[1]} ({record.image_id}) has no text; prepare its data set again.")
            self._read[key] = record
        return self._read[key]
