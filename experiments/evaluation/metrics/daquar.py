"""DAQUAR's measures: accuracy over sets of answers, and WUPS (Malinowski & Fritz 2014, section 4.1)."""

import functools
import math
from collections.abc import Hashable, Mapping, Sequence

from data_pipelines.errors import DataError
from experiments.evaluation.metrics.identifiers import reject_unknown
from experiments.evaluation.metrics.wordnet import WordNet

THRESHOLDS = (0.9, 0.0)
_FAR = 0.1  # weight of a similarity below the threshold


def split_answers(text: str) -> tuple[str, ...]:
    """The answers of a line such as "table, chair", as calculate_wups.py splits it."""
    return tuple(answer.strip() for answer in text.split(","))


def word_similarity(first: str, second: str, threshold: float, wordnet: WordNet) -> float:
    """1 for the same word, else the Wu-Palmer similarity, times 0.1 where it is below the threshold."""
    if first == second:
        return 1.0
    similarity = wordnet.similarity(first, second)
    return similarity if similarity >= threshold else _FAR * similarity


def wups(predicted: Sequence[str], answers: Sequence[str], threshold: float, wordnet: WordNet) -> float:
    """WUPS of one question in [0, 1].

    The smaller of two products: the product over the right answers of the similarity to the nearest predicted answer,
    and the reverse. A repeated answer is a repeated factor, as in the authors' calculate_wups.py.

    Args:
      predicted, answers: the predicted and the right answers; the score is 1 if both are empty, 0 if one is.
      threshold: threshold of `word_similarity`; 0.9 and 0.0 are reported.
      wordnet: the source of the similarities.
    """
    if not predicted or not answers:
        return float(not predicted and not answers)
    similar = functools.partial(word_similarity, threshold=threshold, wordnet=wordnet)
    covered = math.prod(max(similar(right, given) for given in predicted) for right in answers)
    justified = math.prod(max(similar(given, right) for right in answers) for given in predicted)
    return min(covered, justified)


def daquar_scores(
    predictions: Mapping[Hashable, Sequence[str]],
    answers: Mapping[Hashable, Sequence[str]],
    wordnet: WordNet | None = None,
) -> dict[str, float | int]:
    """Scores of a split; also plain accuracy where each question has one answer.

    Args:
      predictions: question -> predicted answers; a question without any counts as wrong.
      answers: question -> right answers.
      wordnet: for WUPS; None: no WUPS.

    Returns:
      accuracy (the sets are equal; calculate_wups.py with threshold -1); wups_0.9 and wups_0.0; questions and
      unanswered, which are counts.

    Raises:
      DataError: there are no questions, a prediction is for a question that is not there, or answers are one text and
        not a sequence of them.
    """
    reject_unknown(predictions, answers, "question")
    for question, several in (*predictions.items(), *answers.items()):
        if isinstance(several, str):
            raise DataError(f"The answers {several!r} of question {question!r} are one text; split it into answers.")
    pairs = [(predictions.get(question, ()), right) for question, right in answers.items()]
    scores = {"accuracy": sum(set(predicted) == set(right) for predicted, right in pairs) / len(pairs)}
    if wordnet is not None:
        for threshold in THRESHOLDS:
            scores[f"wups_{threshold}"] = sum(wups(*pair, threshold, wordnet) for pair in pairs) / len(pairs)
    return {**scores, "questions": len(pairs), "unanswered": len(answers) - len(predictions)}
