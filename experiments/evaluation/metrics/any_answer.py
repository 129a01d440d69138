"""Accuracy of one's own questions, each of whose answers is right by itself."""

from collections.abc import Hashable, Mapping, Sequence

from data_pipelines.text.answers import AnswerVocabulary
from experiments.evaluation.metrics.identifiers import reject_unknown


def any_answer_scores(
    predictions: Mapping[Hashable, str], answers: Mapping[Hashable, Sequence[str]], vocabulary: AnswerVocabulary
) -> dict[str, float | int]:
    """Scores of a split, by the same comparison as the targets of training (`AnswerVocabulary.soft_targets`).

    Args:
      predictions: question -> the predicted answer, one of the vocabulary; a question without one counts as wrong.
      answers: question -> the right answers; one that is not in the vocabulary cannot be predicted.
      vocabulary: answers to choose from.

    Returns:
      accuracy: share of the questions whose prediction is among the right answers; questions and unanswered, counts.

    Raises:
      DataError: there are no questions, or a prediction is for a question that is not there.
    """
    reject_unknown(predictions, answers, "question")
    right = sum(
        vocabulary.index(predictions[question]) in set(map(vocabulary.index, given))
        for question, given in answers.items()
        if question in predictions
    )
    return {
        "accuracy": right / len(answers),
        "questions": len(answers),
        "unanswered": len(answers) - len(predictions),
    }
