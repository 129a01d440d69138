"""Labels of texts, such as the answers of a question: one JSON object a text, the form in which records hold them."""

import dataclasses
import json
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError, shown

_TRUTH = {"true": True, "false": False}


@dataclasses.dataclass
class Labeller:
    """Makes the labels of one split, and checks that none is missing and no id occurs twice.

    Attributes:
      path: of the file with the labels, for messages.
      id_key: of the text's id in its label, such as "question_id".
      target: key of what is to be learned, such as "answers".
      required: whether each text must have it; else all texts of the split have it or none has.
    """

    path: Path
    id_key: str
    target: str
    required: bool = False

    def __post_init__(self) -> None:
        self._ids: set[int | str] = set()
        self._labelled: bool | None = True if self.required else None

    def __call__(self, label: Mapping[str, Any]) -> str:
        """The JSON of a label, without what is None; raises DataError as `check`."""
        self.check(label)
        return to_json(label)

    def check(self, label: Mapping[str, Any]) -> None:
        """Raise DataError if a label lacks an id of its own, or lacks the target that others have."""
        identity = label.get(self.id_key)
        if not isinstance(identity, (int, str)) or isinstance(identity, bool):
            raise DataError(
                f"{self.path}: {self.id_key} {shown(identity)} is neither a number nor a string; correct it."
            )
        if identity in self._ids:
            raise DataError(f"{self.path}: {self.id_key} {shown(identity)} occurs twice; correct the file.")
        self._ids.add(identity)
        labelled = label.get(self.target) is not None
        if self._labelled is None:
            self._labelled = labelled
        if labelled != self._labelled:
            where = f"{self.path}: {self.id_key} {shown(identity)}"
            if self.required:
                raise DataError(f"{where} has no {self.target}; complete the file or download it again.")
            raise DataError(
                f"{where} has {self.target if labelled else f'no {self.target}'}, unlike those before it; "
                f"give {self.target} to all of a split or to none."
            )


class TextsByImage:
    """Texts and their labels by image, in the order in which the images are first named."""

    def __init__(self, labeller: Labeller) -> None:
        """Args: labeller: of the split."""
        self._labeller = labeller
        self._found: dict[Hashable, tuple[list[object], list[str]]] = {}

    def add_image(self, image: Hashable) -> None:
        """Name an image, which may have no text."""
        self._found.setdefault(image, ([], []))

    def add(self, image: Hashable, text: object, label: Mapping[str, Any]) -> None:
        """Add a text of an image; an id that is None becomes `<image>/<number of the text>`.

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
    """A label as records hold it, without what is None."""
    return json.dumps({key: value for key, value in label.items() if value is not None})


def answers(value: object, place: str) -> list[str] | None:
    """Answers of a question, None if there is none; raises DataError if they are no list of strings."""
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not all(isinstance(answer, str) and answer.strip() for answer in value):
        raise DataError(f"{place}: answers must be a list of strings that are not empty; correct that line.")
    return value


def truth(value: object, place: str) -> bool | None:
    """True or false, as JSON or as a word, None if it is not said; raises DataError for anything else."""
    if value is None:
        return None
    word = str(value).lower() if isinstance(value, (bool, str)) else ""
    if word not in _TRUTH:
        raise DataError(f"{place}: label {shown(value)} is neither true nor false; correct that line.")
    return _TRUTH[word]
