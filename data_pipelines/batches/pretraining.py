"""Batches of pre-training: images with K texts each, half of the pairs mismatched, and masked tokens.

Every random choice depends only on (seed, step, row), so hosts that load different rows of a batch agree on it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from data_pipelines.batches import shared
from data_pipelines.batches.visuals import PixelVisuals, RegionVisuals, visuals_of
from data_pipelines.config import DataConfig
from data_pipelines.order.plan import BatchPlan
from data_pipelines.storage.records import Record, Records
from data_pipelines.text.tokenizer import Tokenizer, mask_tokens

_MISMATCHES, _ROW = 11, 12  # streams of random numbers; shared.py has others


@dataclasses.dataclass(frozen=True)
class PretrainingBatches:
    """Turns a BatchPlan into arrays; picklable for workers."""

    sources: tuple[Records, ...]
    tokenizer: Tokenizer
    config: DataConfig
    seed: int
    rows: tuple[int, int] | None = None  # range (first, last + 1) of the rows of the global batch to load; None: all
    shuffle_images: bool = False  # pair each text with the image of another row, as a control that should score lower

    def __call__(self, plan: BatchPlan) -> dict[str, np.ndarray]:
        """The arrays of `PretrainingTask.fields()` (pixelbert_jax), for the rows of this host.

        Rows with no record or a damaged record are padding rows: pair_mask is False, and the image is one black pixel.
        """
        visuals, reader = visuals_of(self.sources, self.config), shared.Reader(self.sources, plan)
        mismatched_BxK, replaced_B = self._mismatched(plan)

        def write_row(batch: shared.Batch, index: int, row: int) -> Callable[[], None]:
            rng = shared.make_rng(self.seed, _ROW, plan.step, row)
            replacement = self._other_row(reader, row, rng) if replaced_B[row] else None
            image_row = row if replacement is None else replacement
            if self.shuffle_images:
                image_row = shared.shuffled_image_row(plan, row)
            visual_record = None if image_row is None else reader[image_row]
            length, slots = self.config.max_text_length, self.config.mask_slots
            for k, text in enumerate(self._own_texts(reader[row], plan, row)):
                other = self._other_text(reader, row, rng) if mismatched_BxK[row, k] else None
                batch["itm_label"][index, k] = other is None and replacement is None
                ids = self.tokenizer.encode(text if other is None else other, length)
                masked, position, target = mask_tokens(
                    ids,
                    self.tokenizer,
                    rng,
                    rate=self.config.mask_rate,
                    slots=slots,
                    whole_words=self.config.whole_word_masking,
                )
                shared.write_ids(batch, index, k, masked)
                batch["mlm_position"][index, k, : len(position)] = position
                batch["mlm_target"][index, k, : len(position)] = target
                batch["mlm_mask"][index, k, : len(position)] = True
            return functools.partial(self._write_visuals, visuals, batch, index, visual_record, plan, row)

        padding_rows = functools.partial(self._padding_rows, visuals, plan.canvas)
        return shared.make_rows(plan, self.rows, padding_rows, write_row, self.config.max_bad_records)

    def _write_visuals(
        self,
        visuals: PixelVisuals | RegionVisuals,
        batch: dict[str, np.ndarray],
        index: int,
        record: Record | None,
        plan: BatchPlan,
        row: int,
    ) -> None:
        """Write the visual input from a record, or an empty one, for row `row` of the plan."""
        if record is None:
            shared.show_nothing(batch, index)
        else:
            mirrored = shared.is_mirrored(self.config.flip_rate, self.seed, plan, row)
            visuals.write(batch, index, record, mirrored=mirrored)
            self.write_regions(batch, index, record, plan, row)

    def _padding_rows(self, visuals: PixelVisuals | RegionVisuals, canvas: int, rows: int) -> dict[str, np.ndarray]:
        """All arrays of a batch of padding rows."""
        texts, slots = self.config.texts_per_image, self.config.mask_slots
        return {
            **visuals.blank(rows, canvas),
            **shared.blank_texts(rows, texts, self.config.max_text_length, self.tokenizer),
            "mlm_position": np.zeros((rows, texts, slots), np.int32),
            "mlm_target": np.zeros((rows, texts, slots), np.int32),
            "mlm_mask": np.zeros((rows, texts, slots), bool),
            "itm_label": np.zeros((rows, texts), np.int32),
            **self.padding_regions(rows),
        }

    def padding_regions(self, rows: int) -> dict[str, np.ndarray]:
        """Additional arrays of `rows` padding rows for a task that masks regions."""
        del rows
        return {}

    def write_regions(
        self, batch: dict[str, np.ndarray], index: int, record: Record, plan: BatchPlan, row: int
    ) -> None:
        """Write these arrays for row `row` of the plan, whose visual input is from `record`."""

    def _mismatched(self, plan: BatchPlan) -> tuple[np.ndarray, np.ndarray]:
        """Choose half of the pairs: pairs that get another image's text (BxK), and rows that get another image (B)."""
        texts, valid = self.config.texts_per_image, np.flatnonzero(plan.record_B >= 0)
        rng = shared.make_rng(self.seed, _MISMATCHES, plan.step)
        half, replaced_B = len(valid) * texts // 2, np.zeros(len(plan.record_B), bool)
        if self.config.replaced_images:
            wanted = round(self.config.replaced_images * half / texts)
            replaced_B[rng.permutation(valid)[: min(wanted, half // texts)]] = True
        pairs = np.flatnonzero(np.repeat((plan.record_B >= 0) & ~replaced_B, texts))
        mismatched = np.zeros(len(plan.record_B) * texts, bool)
        mismatched[rng.permutation(pairs)[: half - int(replaced_B.sum()) * texts]] = True
        return mismatched.reshape(len(plan.record_B), -1), replaced_B

    def _own_texts(self, record: Record, plan: BatchPlan, row: int) -> list[str]:
        """The K texts of this visit of a record."""
        chosen = shared.visited_texts(self.seed, plan, row, len(record.texts), self.config.texts_per_image)
        return [record.texts[i] for i in chosen]

    def _other_text(self, reader: shared.Reader, row: int, rng: np.random.Generator) -> str | None:
        """A text of another image of the global batch that this image does not have; None if there is none."""
        own_texts = {comparable(text) for text in reader[row].texts}
        for _, other in self._others(reader, row, rng):
            texts = list(other.texts)
            rng.shuffle(texts)
            for text in texts:
                if comparable(text) not in own_texts:
                    return text
        return None

    def _other_row(self, reader: shared.Reader, row: int, rng: np.random.Generator) -> int | None:
        """A row of the global batch with another image that has none of this image's texts; None if there is none."""
        own_texts = {comparable(text) for text in reader[row].texts}
        for number, other in self._others(reader, row, rng):
            if own_texts.isdisjoint(map(comparable, other.texts)):
                return number
        return None

    @staticmethod
    def _others(reader: shared.Reader, row: int, rng: np.random.Generator) -> Iterator[tuple[int, Record]]:
        """Rows of other images with their records, in random order."""
        rows = reader.rows.copy()
        rng.shuffle(rows)  # a list: NumPy draws the same numbers as for an array, in half of the time
        for number, other in reader.readable(rows):
            if other.image_id != reader[row].image_id:
                yield number, other


def can_mismatch(sources: Iterable[Records]) -> bool:
    """Whether mismatched pairs are possible: False if all images have the same texts."""
    first = None
    for record in itertools.chain.from_iterable(records.texts() for records in sources):
        texts = frozenset(map(comparable, record.texts))
        if first not in (None, texts):
            return True
        first = texts
    return False


def comparable(text: str) -> str:
    """Normalize a text for comparison: ignore case, repeated spaces and final full stops."""
    return " ".join(text.casefold().split()).rstrip(" .")
