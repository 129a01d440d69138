"""Batches of ImageBERT's pre-training: those of Pixel-BERT with regions, some of which are hidden from each pair."""

import dataclasses

import numpy as np

from data_pipelines.batches import shared
from data_pipelines.batches.pretraining import PretrainingBatches
from data_pipelines.order.plan import BatchPlan
from data_pipelines.storage.records import Record

_REGIONS = 14  # purpose that the seed is split into


@dataclasses.dataclass(frozen=True)
class RegionsPretrainingBatches(PretrainingBatches):
    """The arrays named in pixelbert_jax.tasks.regions_pretraining."""

    def blank_regions(self, rows: int) -> dict[str, np.ndarray]:
        regions, texts = self.config.regions, self.config.texts_per_image
        return {
            "region_class": np.zeros((rows, regions), np.int32),
            "region_target": np.zeros((rows, texts, regions), bool),
            "region_zeroed": np.zeros((rows, texts, regions), bool),
        }

    def write_regions(self, batch: dict[str, np.ndarray], place: int, shown: Record, plan: BatchPlan, row: int) -> None:
        count = int(batch["region_mask"][place].sum())
        batch["region_class"][place, :count] = np.maximum(shown.regions.classes[:count], 0)
        rng = shared.make_rng(self.seed, _REGIONS, plan.step, row)
        texts = self.config.texts_per_image
        target_KxR = rng.random((texts, count)) < self.config.region_mask_rate
        zeroed_KxR = target_KxR & (rng.random((texts, count)) >= self.config.region_keep_rate)
        batch["region_target"][place, :, :count] = target_KxR
        batch["region_zeroed"][place, :, :count] = zeroed_KxR
        if self.config.whole_image == "mean":
            # The mean of all would tell what is hidden.
            seen_RxF = shown.regions.features[:count][~zeroed_KxR.any(0)].astype(np.float32)
            batch["whole"][place] = seen_RxF.mean(0) if len(seen_RxF) else 0
