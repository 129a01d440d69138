"""Batches of NLVR2 and NLVR: one or two images with K sentences each, true or false."""

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.batches.pairs import PairBatches


@dataclasses.dataclass(frozen=True)
class Nlvr2Batches(PairBatches):
    """The arrays named in pixelbert_jax.tasks.nlvr2; a sentence without a label has label 0."""

    images_per_row: int = 2

    @property
    def images(self) -> int:
        return self.images_per_row

    def padding_labels(self, rows: int) -> dict[str, np.ndarray]:
        return {"label": np.zeros((rows, self.config.texts_per_image), np.int32)}

    def write_label(self, batch: dict[str, np.ndarray], index: int, k: int, label: dict[str, Any]) -> None:
        batch["label"][index, k] = bool(label.get("label", False))
