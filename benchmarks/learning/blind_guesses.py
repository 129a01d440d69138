"""Answers to questions that are guessed from the text alone."""

import collections
from collections.abc import Iterator

import numpy as np

from data_pipelines.storage.records import Records


def questions(records: Records) -> Iterator[tuple[str, str]]:
    """Text and true answer (or label) of every text."""
    for record in records.texts():
        for text, label in zip(record.texts, record.parsed, strict=True):
            yield text, ", ".join(sorted(label["answers"])) if "answers" in label else str(label["label"])


def usual(known: list[tuple[str, str]]) -> str:
    """The most frequent answer."""
    return collections.Counter(answer for _, answer in known).most_common(1)[0][0]


def nearest(known: list[tuple[str, str]], asked: list[tuple[str, str]]) -> list[bool]:
    """Right or not, by the most frequent answer among the training questions that share the largest part of words."""
    words = {
        word: i for i, word in enumerate(sorted({w for text, _ in (*known, *asked) for w in text.lower().split()}))
    }

    def rows(questions: list[tuple[str, str]]) -> np.ndarray:
        table = np.zeros((len(questions), len(words)), np.float32)
        for row, (text, _) in enumerate(questions):
            table[row, [words[word] for word in text.lower().split()]] = 1
        return table

    known_KxW, right = rows(known), []
    for start in range(0, len(asked), 256):
        asked_QxW = rows(asked[start : start + 256])
        common_QxK = asked_QxW @ known_KxW.T
        share_QxK = common_QxK / (asked_QxW.sum(1)[:, None] + known_KxW.sum(1)[None] - common_QxK)
        for (_, answer), share_K in zip(asked[start : start + 256], share_QxK, strict=True):
            most_alike = np.flatnonzero(share_K == share_K.max())
            right.append(collections.Counter(known[k][1] for k in most_alike).most_common(1)[0][0] == answer)
    return right
