"""Batches of ImageBERT's pre-training: as those of Pixel-BERT, with regions, some of which are masked in each pair."""

import dataclasses

import numpy as np

from data_pipelines.batches import shared
from data_pipelines.batches.pretraining import PretrainingBatches
from data_pipelines.order.plan import BatchPlan
from data_pipelines.storage.records import Record

_REGIONS = 14  # stream of random numbers


@dataclasses.dataclass(frozen=True)
class RegionsPretrainingBatches(PretrainingBatches):
    """The arrays named in pixelbert_jax.tasks.regions_pretraining."""

    def padding_regions(self, rows: int) -> dict[str, np.ndarray]:
        regions, texts = self.config.regions, self.config.texts_per_image
        return {
            "region_class": np.zeros((rows, regions), np.int32),
            "region_target": np.zeros((rows, texts, regions), bool),
            "region_zeroed": np.zeros((rows, texts, regions), bool),
        }

    def write_regions(
        self, batch: dict[str, np.ndarray], index: int, record: Record, plan: BatchPlan, row: int
    ) -> None:
        count = int(batch["region_mask"][index].sum())
        batch["region_class"][index, :count] = np.maximum(record.regions.classes[:count], 0)
        rng = shared.make_rng(self.seed, _REGIONS, plan.step, row)
        texts = self.config.texts_per_image
        target_KxR = rng.random((texts, count)) < self.config.region_mask_rate
        zeroed_KxR = target_KxR & (rng.random((texts, count)) >= self.config.region_keep_rate)
        batch["region_target"][index, :, :count] = target_KxR
        batch["region_zeroed"][index, :, :count] = zeroed_KxR
        if self.config.whole_image == "mean":
            # The mean over all regions would reveal the masked features.
            visible_RxF = record.regions.features[:count][~zeroed_KxR.any(0)].astype(np.float32)
            batch["whole"][index] = visible_RxF.mean(0) if len(visible_RxF) else 0
