"""A user's own images with questions and answers: JSON lines beside image files, or Parquet files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_pipelines.datasets.candidates import Candidate, Candidates, NoText
from data_pipelines.datasets.formats.json_lines import objects, read_lines, relative_path, require_lists
from data_pipelines.datasets.formats.parquet_columns import IDENTIFIERS, IMAGE, NAMES, Role
from data_pipelines.datasets.labels import Labeller, TextsByImage, answers
from data_pipelines.datasets.layout import source_below
from data_pipelines.datasets.own_data import OwnDataBuilder
from data_pipelines.datasets.parquet_rows import RowFormat, Text, Values, identifier, only

_LINE = '{"image": path, "questions": [{"question": "...", "answers": ["..."]}]}'

_TEXT = frozenset({"text"})
_ANSWERS = _TEXT | {"list of text", "list of structure", "structure"}
_ROLES = (
    IMAGE,
    Role("question", ("question",), _TEXT, required=True),
    Role("question_id", ("question_id", "questionId"), IDENTIFIERS),
    Role("question_type", ("question_type",), _TEXT),
    Role("answer_type", ("answer_type",), _TEXT),
    Role("answers", ("answers", "answer"), _ANSWERS),
    Role("multiple_choice_answer", ("multiple_choice_answer",), _TEXT),
    *NAMES,
)


def _row_texts(values: Values) -> list[Text]:
    """The question of a row with the fields of VQA's annotations."""
    number = identifier(values, "question_id")
    fields = {role: only(values, role) for role in ("question_type", "answer_type", "multiple_choice_answer")}
    fields = {role: value if isinstance(value, str) else None for role, value in fields.items()}
    label = {
        "question_id": number,
        "question_type": fields["question_type"],
        "answer_type": fields["answer_type"],
        "answers": _row_answers(only(values, "answers")),
        "multiple_choice_answer": fields["multiple_choice_answer"],
    }
    return [(number if isinstance(number, NoText) else only(values, "question"), label)]


def _row_answers(value: Any) -> list[str] | None:
    """Answers from a string, a list of strings, or a list of `{answer: ...}`; None if there are none."""
    if isinstance(value, Mapping):  # a structure of lists
        value = value.get("answer")
    given = value if isinstance(value, list) else [value]
    given = [answer.get("answer") if isinstance(answer, Mapping) else answer for answer in given]
    return [answer for answer in given if isinstance(answer, str) and answer.strip()] or None


class Vqa(OwnDataBuilder):
    """A user's own images with questions and answers."""

    name = "vqa"
    VERSION = tfds.core.Version("1.1.0")
    ROWS = RowFormat("vqa", _ROLES, _row_texts, id_key="question_id", target="answers")
    LABELLED = True

    def candidates(self) -> dict[str, Candidates]:
        """A split for each .jsonl file, or for each name of Parquet files."""
        if (found := self.from_parquet()) is not None:
            return found
        lists = require_lists(self.source_dir, _LINE)
        return {split: Candidates.of(self._read(path)) for split, path in lists.items()}

    def _read(self, path: Path) -> list[Candidate]:
        """Images in the order of their first lines; the lines of an image are joined."""
        texts = TextsByImage(Labeller(path, "question_id", "answers"))
        for location, entry in read_lines(path, _LINE, ("image", "questions")):
            image = relative_path(entry["image"], location)
            texts.add_image(image)
            for question in objects(entry, "questions", "question", location):
                label = {
                    "question_id": question.get("question_id"),
                    "answers": answers(question.get("answers"), location),
                }
                texts.add(image, question["question"], label)
        items = []
        for image, its_texts, labels in texts:
            source = source_below(path.parent, image)
            items.append(Candidate.of(f"{self.name}/{image}", its_texts, source, labels))
        return items
