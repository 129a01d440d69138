"""Accuracy and consistency of NLVR2 and NLVR, and the files that their official scripts read.

The scripts are nlvr2/eval/metrics.py and nlvr/metrics_images.py of the authors' repository.
"""

import collections
from collections.abc import Callable, Mapping
from pathlib import Path

from data_pipelines.errors import DataError, short_repr
from data_pipelines.storage.atomic_files import write_atomically
from experiments.evaluation.metrics.identifiers import reject_unknown

PERMUTATIONS = 6  # orders of the three boxes of an NLVR drawing
_LABELS = {"true": True, "false": False}


def pair_scores(
    predictions: Mapping[str, bool], labels: Mapping[str, bool], sentence_of: Callable[[str], str]
) -> dict[str, float | int]:
    """Scores of examples of any kind.

    Args:
      predictions: identifier -> prediction; an example without one counts as wrong, where the scripts refuse to run.
      labels: identifier -> label.
      sentence_of: identifier -> what the identifiers of all examples of its sentence have in common.

    Returns:
      accuracy; consistency: share of the sentences of which all examples are right; examples, sentences and
      unanswered, which are counts.

    Raises:
      DataError: there are no labels, or a prediction is for another example.
    """
    reject_unknown(predictions, labels, "example")
    correct = {identifier: predictions.get(identifier) == label for identifier, label in labels.items()}
    sentences: dict[str, list[bool]] = collections.defaultdict(list)
    for identifier, right in correct.items():
        sentences[sentence_of(identifier)].append(right)
    return {
        "accuracy": sum(correct.values()) / len(correct),
        "consistency": sum(map(all, sentences.values())) / len(sentences),
        "examples": len(correct),
        "sentences": len(sentences),
        "unanswered": len(labels) - len(predictions),
    }


def nlvr2_scores(predictions: Mapping[str, bool], labels: Mapping[str, bool]) -> dict[str, float | int]:
    """`pair_scores` of an NLVR2 split, whose examples are identified as SPLIT-SET-PAIR-SENTENCE.

    Raises:
      DataError: as there, or an identifier is of another form.
    """
    return pair_scores(predictions, labels, nlvr2_sentence)


def nlvr_scores(predictions: Mapping[str, bool], labels: Mapping[str, bool]) -> dict[str, float | int]:
    """`pair_scores` of an NLVR (v1) split; a sentence has up to four drawings in six permutations, all of which count.

    Args:
      predictions: identifier of a permutation (SENTENCE-DRAWING-PERMUTATION) -> prediction.
      labels: identifier of a drawing as published (SENTENCE-DRAWING) -> label.

    Raises:
      DataError: as there, or an identifier is of another form.
    """
    for identifier in labels:
        _fields(identifier, 2, "SENTENCE-DRAWING")
    permuted = {f"{identifier}-{k}": label for identifier, label in labels.items() for k in range(PERMUTATIONS)}
    return pair_scores(predictions, permuted, nlvr_sentence)


def nlvr2_sentence(identifier: str) -> str:
    """What the examples of one sentence have in common: all of the identifier but its third field, the pair."""
    split, images, _, sentence = _fields(identifier, 4, "SPLIT-SET-PAIR-SENTENCE")
    return f"{split}-{images}--{sentence}"


def nlvr_sentence(identifier: str) -> str:
    """The same for NLVR: the first field."""
    return identifier.split("-")[0]


def write_predictions(path: Path, predictions: Mapping[str, bool]) -> None:
    """Write lines `identifier,True` or `identifier,False`, NLVR2's format, atomically.

    Raises:
      DataError: an identifier cannot be part of such a line, or a prediction is neither true nor false.
    """
    broken = next((name for name in predictions if not name or set(name) & set(",\r\n") or name != name.strip()), None)
    if broken is not None:
        raise DataError(f"The identifier {broken!r} cannot be part of a line of {path}; rename that example.")
    unclear = next((name for name, answer in predictions.items() if answer not in (True, False)), None)
    if unclear is not None:
        raise DataError(
            f"The prediction {predictions[unclear]!r} for {unclear!r} is neither true nor false; give one of them."
        )
    write_atomically(path, "".join(f"{name},{bool(answer)}\n" for name, answer in predictions.items()))


def read_predictions(path: Path) -> dict[str, bool]:
    """identifier -> prediction, from a file that `write_predictions` wrote.

    Raises:
      DataError: it cannot be read or is not such a file, or an identifier occurs twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); give a file of predictions.") from error
    predictions: dict[str, bool] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            name, _, answer = line.strip().partition(",")
            if answer.lower() not in _LABELS:
                raise DataError(f"{path}, line {number}: not `identifier,True` or `identifier,False`; correct it.")
            if name in predictions:
                raise DataError(f"{path}, line {number}: {short_repr(name)} has a prediction already; remove one.")
            predictions[name] = _LABELS[answer.lower()]
    return predictions


def write_nlvr_predictions(path: Path, predictions: Mapping[str, bool], split: str) -> None:
    """Write lines `SPLIT-SENTENCE-DRAWING-PERMUTATION.png,True`, atomically.

    Args:
      path: path of the file.
      predictions: as `nlvr_scores` takes them.
      split: as in the names of the images; the script drops it.

    Raises:
      DataError: `split` has a hyphen, a comma or a full stop, at which the script splits.
    """
    if not split or set(split) & set("-,."):
        raise DataError(f"The split {split!r} cannot be part of a file of predictions; use a plain word such as dev.")
    write_predictions(path, {f"{split}-{identifier}.png": answer for identifier, answer in predictions.items()})


def read_nlvr_predictions(path: Path) -> dict[str, bool]:
    """The predictions of such a file, as `nlvr_scores` takes them; raises DataError if it is not one."""
    names = read_predictions(path)
    predictions = {"-".join(name.split(".")[0].split("-")[1:]): answer for name, answer in names.items()}
    if len(predictions) != len(names):
        raise DataError(f"{path}: an example occurs twice, under two splits; give a file of one split.")
    return predictions


def _fields(identifier: str, count: int, form: str) -> list[str]:
    fields = identifier.split("-")
    if len(fields) != count:
        raise DataError(f"The identifier {identifier!r} is not {form}; give examples as published.")
    return fields
