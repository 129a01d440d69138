"""Batches of visual question answering: images with K questions each, and how right each answer is."""

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.batches.pairs import PairBatches
from data_pipelines.text.answers import AnswerVocabulary


@dataclasses.dataclass(frozen=True)
class VqaBatches(PairBatches):
    """The arrays named in pixelbert_jax.tasks.vqa.

    Attributes:
      answers: to choose from. A question none of whose answers is in it keeps its place with all scores 0; with None
        nothing is known, as on a test split.
      answer_slots: different answers of one question at most; the less right ones beyond are left out.
    """

    answers: AnswerVocabulary | None = None
    answer_slots: int = 10

    def blank_labels(self, rows: int) -> dict[str, np.ndarray]:
        shape = (rows, self.config.texts_per_image, self.answer_slots)
        return {
            "answer": np.zeros(shape, np.int32),
            "answer_score": np.zeros(shape, np.float32),
            "one_is_enough": np.ones(shape[:2], bool),
        }

    def label(self, batch: dict[str, np.ndarray], place: int, k: int, stated: dict[str, Any]) -> None:
        if self.answers is None:
            return
        given = stated.get("answers", [])
        if not isinstance(given, list) or not all(isinstance(answer, str) for answer in given):
            raise ValueError("answers that are no list of texts")
        # An answer that nobody else was asked for is right, as those of Visual Genome in a mixture.
        votes = self.config.answers_are == "votes" and len(given) > 1
        index_S, score_S = self.answers.soft_targets(given, votes=votes)
        batch["one_is_enough"][place, k] = self.config.answers_are != "set" or len(set(given)) < 2
        best = np.argsort(-score_S, kind="stable")[: self.answer_slots]
        batch["answer"][place, k, : len(best)] = index_S[best]
        batch["answer_score"][place, k, : len(best)] = score_S[best]
