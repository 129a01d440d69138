"""Batches of visual question answering: images with K questions each, and a score for each answer."""

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.batches.pairs import PairBatches
from data_pipelines.text.answers import AnswerVocabulary


@dataclasses.dataclass(frozen=True)
class VqaBatches(PairBatches):
    """The arrays named in pixelbert_jax.tasks.vqa.

    Attributes:
      answers: answer vocabulary. A question without a known answer stays in the batch, and all its scores are 0. None:
        no answer is known, as on a test split.
      answer_slots: maximum number of different answers of one question; those with the lowest scores are dropped.
    """

    answers: AnswerVocabulary | None = None
    answer_slots: int = 10

    def padding_labels(self, rows: int) -> dict[str, np.ndarray]:
        shape = (rows, self.config.texts_per_image, self.answer_slots)
        return {
            "answer": np.zeros(shape, np.int32),
            "answer_score": np.zeros(shape, np.float32),
            "one_is_enough": np.ones(shape[:2], bool),
        }

    def write_label(self, batch: dict[str, np.ndarray], index: int, k: int, label: dict[str, Any]) -> None:
        if self.answers is None:
            return
        given = label.get("answers", [])
        if not isinstance(given, list) or not all(isinstance(answer, str) for answer in given):
            raise ValueError("answers that are no list of texts")
        # A single answer is not a vote but the right answer, as in Visual Genome, which may be part of the mixture.
        votes = self.config.answers_are == "votes" and len(given) > 1
        index_S, score_S = self.answers.soft_targets(given, votes=votes)
        batch["one_is_enough"][index, k] = self.config.answers_are != "set" or len(set(given)) < 2
        best = np.argsort(-score_S, kind="stable")[: self.answer_slots]
        batch["answer"][index, k, : len(best)] = index_S[best]
        batch["answer_score"][index, k, : len(best)] = score_S[best]
