"""VQA accuracy as in the official script (vqaEval.py of the VQA authors), and the server's file."""

import collections
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.storage.atomic_files import write_atomically
from data_pipelines.text.answers import clean_answer, normalize_answer
from experiments.evaluation.metrics.identifiers import reject_unknown

_FEWEST_ANSWERS = 4  # annotators who, where all agree, make an answer fully right
_TYPES = ("answer_type", "question_type")


def vqa_accuracy(predicted: str, answers: Sequence[str]) -> float:
    """Official accuracy of one answer in [0, 1].

    Mean over the annotators of min(1, how many of the others gave this answer / 3). As in the script, nothing is
    normalised, not even the case, where all annotators wrote the same.

    Args:
      predicted: the answer.
      answers: of the annotators, ten in VQA 2.0. With fewer than four even full agreement is less than 1, and a single
        one agrees with nobody; without any the accuracy is 0.
    """
    predicted, answers = clean_answer(predicted), [clean_answer(answer) for answer in answers]
    if len(set(answers)) > 1:
        predicted, answers = normalize_answer(predicted), [normalize_answer(answer) for answer in answers]
    if not answers:
        return 0.0
    same = answers.count(predicted)
    others = len(answers) - same
    return (same * min(1, max(same - 1, 0) / 3) + others * min(1, same / 3)) / len(answers)


def vqa_scores(
    predictions: Mapping[int | str, str], annotations: Iterable[Mapping[str, Any]]
) -> dict[str, float | int | dict[str, float]]:
    """Official accuracies of a split, as shares and not rounded (the script prints percent with two decimals).

    Args:
      predictions: question_id -> answer. A question without one counts as wrong; the script refuses to run then.
      annotations: the official entries, with question_id, answers (each `{"answer": ...}` or a text) and, where a
        question has them, answer_type and question_type. A question that nobody answered counts as wrong.

    Returns:
      accuracy; per_answer_type and per_question_type, each type -> accuracy; questions, unanswered and
      without_answers: how many there are, have no prediction, have no annotator's answer.

    Raises:
      DataError: an annotation is not such an entry or occurs twice, a question has too few answers for this accuracy,
        no question has answers, or a prediction is not a text or is for a question that is not in the annotations.
    """
    accuracies: dict[int | str, float] = {}
    types: dict[str, dict[str, list[float]]] = {key: collections.defaultdict(list) for key in _TYPES}
    without_answers = 0
    for annotation in annotations:
        question, answers = _question(annotation)
        if question in accuracies:
            raise DataError(f"Question {question!r} occurs twice in the annotations; remove one of them.")
        if 0 < len(answers) < _FEWEST_ANSWERS:
            raise DataError(
                f"Question {question!r} has {len(answers)} answers, too few for the accuracy of VQA, which compares "
                "annotators; use the accuracy over sets of answers."
            )
        predicted = predictions.get(question)
        if question in predictions and not isinstance(predicted, str):
            raise DataError(f"The prediction {predicted!r} for question {question!r} is not a text; give an answer.")
        accuracies[question] = 0.0 if predicted is None else vqa_accuracy(predicted, answers)
        without_answers += not answers
        for key, of_type in types.items():
            if annotation.get(key) is not None:
                of_type[str(annotation[key])].append(accuracies[question])
    reject_unknown(predictions, accuracies if without_answers < len(accuracies) else (), "question")
    return {
        "accuracy": _mean(list(accuracies.values())),
        **{f"per_{key}": {name: _mean(of_type[name]) for name in sorted(of_type)} for key, of_type in types.items()},
        "questions": len(accuracies),
        "unanswered": len(accuracies) - len(predictions),
        "without_answers": without_answers,
    }


def write_predictions(path: Path, predictions: Mapping[int | str, str]) -> None:
    """Write the file that the VQA server takes, a JSON list of {"question_id", "answer"}, atomically."""
    entries = [{"question_id": question, "answer": answer} for question, answer in predictions.items()]
    write_atomically(path, json.dumps(entries, ensure_ascii=False))


def read_predictions(path: Path) -> dict[int | str, str]:
    """question_id -> answer, from a file that `write_predictions` wrote; other keys are ignored.

    Raises:
      DataError: the file cannot be read or is not such a list, or a question occurs twice.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give a file of predictions.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); write the predictions again.") from error
    predictions: dict[int | str, str] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else [None]):
        fields = entry if isinstance(entry, dict) else {}
        question, answer = fields.get("question_id"), fields.get("answer")
        if not _is_identifier(question) or not isinstance(answer, str):
            raise DataError(f'{path}, entry {number}: not {{"question_id": ..., "answer": "..."}}; correct it.')
        if question in predictions:
            raise DataError(f"{path}, entry {number}: question {question!r} has a prediction already; remove one.")
        predictions[question] = answer
    return predictions


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _is_identifier(question: object) -> bool:
    return isinstance(question, int | str) and not isinstance(question, bool)


def _question(annotation: Mapping[str, Any]) -> tuple[int | str, list[str]]:
    question, answers = annotation.get("question_id"), annotation.get("answers", ())
    if _is_identifier(question) and isinstance(answers, list | tuple):
        texts = [answer.get("answer") if isinstance(answer, Mapping) else answer for answer in answers]
        if all(isinstance(text, str) for text in texts):
            return question, texts
    raise DataError(
        f'The annotation of question {question!r} is not {{"question_id": ..., "answers": [...]}}; correct it.'
    )
