"""Labels of texts, such as the answers of a question: one JSON object per text, as in records."""

import dataclasses
import json
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError, short_repr

_TRUTH = {"true": True, "false": False}


@dataclasses.dataclass
class Labeller:
    """Makes the labels of one split, and checks that no label is missing and no id occurs twice.

    Attributes:
      path: path of the file with the labels, for messages.
      id_key: key of the text's id in its label, such as "question_id".
      target: key of the training target, such as "answers".
      required: whether each text must have the target; otherwise either all texts of the split have it, or none.
    """

    path: Path
    id_key: str
    target: str
    required: bool = False

    def __post_init__(self) -> None:
        self._ids: set[int | str] = set()
        self._labelled: bool | None = True if self.required else None

    def __call__(self, label: Mapping[str, Any]) -> str:
        """Check a label and return its JSON without None values; raises DataError as `check`."""
        self.check(label)
        return to_json(label)

    def check(self, label: Mapping[str, Any]) -> None:
        """Raise DataError if a label has no unique id, or if its target is missing although others have one."""
        identity = label.get(self.id_key)
        if not isinstance(identity, (int, str)) or isinstance(identity, bool):
            raise DataError(
                f"{self.path}: {self.id_key} {short_repr(identity)} is neither a number nor a string; correct it."
            )
        if identity in self._ids:
            raise DataError(f"{self.path}: {self.id_key} {short_repr(identity)} occurs twice; correct the file.")
        self._ids.add(identity)
        labelled = label.get(self.target) is not None
        if self._labelled is None:
            self._labelled = labelled
        if labelled != self._labelled:
            where = f"{self.path}: {self.id_key} {short_repr(identity)}"
            if self.required:
                raise DataError(f"{where} has no {self.target}; complete the file or download it again.")
            raise DataError(
                f"{where} has {self.target if labelled else f'no {self.target}'}, unlike those before it; "
                f"give {self.target} to all of a split or to none."
            )


class TextsByImage:
    """Texts and their labels by image, in the order in which the images are first added."""

    def __init__(self, labeller: Labeller) -> None:
        """Args: labeller: labeller of the split."""
        self._labeller = labeller
        self._found: dict[Hashable, tuple[list[object], list[str]]] = {}

    def add_image(self, image: Hashable) -> None:
        """Add an image, which may have no text."""
        self._found.setdefault(image, ([], []))

    def add(self, image: Hashable, text: object, label: Mapping[str, Any]) -> None:
        """Add a text of an image; if the id in the label is None, it becomes `<image>/<number of the text>`.

        Raises:
          DataError: as `Labeller.check`.
        """
        texts, labels = self._found.setdefault(image, ([], []))
        if label.get(self._labeller.id_key) is None:
            label = {**label, self._labeller.id_key: f"{image}/{len(texts)}"}
        texts.append(text)
        labels.append(self._labeller(label))

    def __iter__(self) -> Iterator[tuple[Any, list[object], list[str]]]:
        """Image, texts and labels of each image."""
        for image, (texts, labels) in self._found.items():
            yield image, texts, labels

    def images(self) -> frozenset[Any]:
        """All images."""
        return frozenset(self._found)


def to_json(label: Mapping[str, Any]) -> str:
    """The JSON of a label as in records, without None values."""
    return json.dumps({key: value for key, value in label.items() if value is not None})


def answers(value: object, location: str) -> list[str] | None:
    """Answers of a question; None if there are none. Raises DataError if they are not a list of strings."""
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not all(isinstance(answer, str) and answer.strip() for answer in value):
        raise DataError(f"{location}: answers must be a list of strings that are not empty; correct that line.")
    return value


def truth(value: object, location: str) -> bool | None:
    """True or False from JSON or from a word; None for None. Raises DataError for other values."""
    if value is None:
        return None
    word = str(value).lower() if isinstance(value, (bool, str)) else ""
    if word not in _TRUTH:
        raise DataError(f"{location}: label {short_repr(value)} is neither true nor false; correct that line.")
    return _TRUTH[word]
