"""VQA 2.0: questions about COCO photographs with ten answers each, and optionally the questions of Visual Genome."""

import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_pipelines.datasets import visual_genome
from data_pipelines.datasets.builder import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.formats import coco_files
from data_pipelines.datasets.labels import Labeller, TextsByImage
from data_pipelines.datasets.layout import field, first_existing, stream_json
from data_pipelines.errors import DataError

_SUBTYPES = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
_LABELLED_SPLITS = ("train", "val")
_PHOTOGRAPHS = ("train2014", "val2014", "test2015", "train2017", "val2017", "test2017")
_IMAGE_FOLDERS = (*_PHOTOGRAPHS, *(f"images/{name}" for name in _PHOTOGRAPHS), "images")
_TEXT_FOLDERS = ("", "questions/", "annotations/")
_PAGE = "https://visualqa.org/download.html"


class VqaV2(ImageTextBuilder):
    """COCO photographs with the questions and answers of VQA 2.0."""

    name = "vqa_v2"
    VERSION = tfds.core.Version("1.0.0")
    OPTIONS = {"visual_genome_qa": False}
    LABELLED = True

    def candidates(self) -> dict[str, Candidates]:
        """The splits train, val, test and test-dev, if their files exist, and visual_genome with --visual_genome_qa."""
        questions = self._question_files()
        photographs = coco_files.find_photographs(self.source_dir, _IMAGE_FOLDERS)
        splits = {}
        evaluation: set[int] = set()
        for split, path in questions.items():
            texts = _read_split(path, self._annotation_file(split, path), split in _LABELLED_SPLITS)
            if split != "train":
                evaluation |= texts.images()
            folder = _SUBTYPES[split].replace("-dev", "")
            splits[split] = Candidates.of(
                [
                    photographs.candidate(image, its_texts, f"{folder}/COCO_{folder}_{image:012d}.jpg", labels)
                    for image, its_texts, labels in texts
                ]
            )
        if self.options["visual_genome_qa"]:
            if "val" not in questions:
                raise DataError(
                    f"--visual_genome_qa skips the images of val, and {self.source_dir} has no "
                    f"{_file_name('val', 'questions')} to tell which they are; put it there, from {_PAGE}."
                )
            splits["visual_genome"] = self._visual_genome(evaluation)
        return splits

    def _question_files(self) -> dict[str, Path]:
        found = {split: self._find(_file_name(split, "questions")) for split in _SUBTYPES}
        found = {split: path for split, path in found.items() if path is not None}
        single = self._find("questions.json")
        if not found and single is not None:
            subtype = next(stream_json(single, "data_subtype"), None)
            found = {split: single for split, name in _SUBTYPES.items() if name == subtype}
        if not found:
            names = ", ".join(_file_name(split, "questions") for split in _SUBTYPES)
            raise DataError(f"No questions of VQA 2.0 in {self.source_dir}: looked for {names}; get them from {_PAGE}.")
        return found

    def _annotation_file(self, split: str, questions: Path) -> Path | None:
        name = "annotations.json" if questions.name == "questions.json" else _file_name(split, "annotations")
        path = self._find(name)
        if path is None and split in _LABELLED_SPLITS:
            raise DataError(
                f"No answers to the questions of {split} in {self.source_dir}: looked for {name}; "
                f"put it there, from {_PAGE}."
            )
        return path

    def _find(self, name: str) -> Path | None:
        return first_existing(self.source_dir, [f"{folder}{name}" for folder in _TEXT_FOLDERS])

    def _visual_genome(self, evaluation: Container[int]) -> Candidates:
        folder = self.source_dir
        if (folder / "visual_genome").is_dir():
            folder = folder / "visual_genome"
        path = visual_genome.require_file(folder, "question_answers.json", "questions of Visual Genome")
        photographs = visual_genome.find_photographs(folder, evaluation)
        self.notes.append(f"visual_genome: {photographs.num_skipped:,} images of VQA's val and test splits skipped")
        self.notes += [f"visual_genome: {note}" for note in photographs.notes()]
        return photographs.candidates(_read_visual_genome(path, photographs))


def _file_name(split: str, kind: str) -> str:
    prefix = "v2_OpenEnded_mscoco" if kind == "questions" else "v2_mscoco"
    return f"{prefix}_{_SUBTYPES[split]}_{kind}.json"


def _read_split(questions: Path, annotations: Path | None, required: bool) -> TextsByImage:
    """Questions by the COCO id of their image, with their answers if there are annotations."""
    answered = {} if annotations is None else _read_annotations(annotations)
    texts = TextsByImage(Labeller(annotations or questions, "question_id", "answers", required))
    for question in stream_json(questions, "questions.item"):
        number = field(question, "question_id", int, questions)
        label = {"question_id": number, **answered.pop(number, {})}
        texts.add(field(question, "image_id", int, questions), question.get("question"), label)
    if not texts.images():
        raise DataError(f"{questions} lists no question; download it again, from {_PAGE}.")
    return texts


def _read_annotations(path: Path) -> dict[int, dict[str, Any]]:
    """Question id -> label; read as a stream, because the file has hundreds of megabytes."""
    found = {}
    for annotation in stream_json(path, "annotations.item"):
        given = [field(answer, "answer", str, path) for answer in field(annotation, "answers", list, path)]
        found[field(annotation, "question_id", int, path)] = {
            "question_type": _text(annotation.get("question_type")),
            "answer_type": _text(annotation.get("answer_type")),
            # Interning saves memory, because most answers occur many times.
            "answers": [sys.intern(answer) for answer in given] or None,
            "multiple_choice_answer": _text(annotation.get("multiple_choice_answer")),
        }
    return found


def _text(value: object) -> str | None:
    """An optional text field; None for other values."""
    return value if isinstance(value, str) else None


def _read_visual_genome(path: Path, photographs: visual_genome.Photographs) -> Iterator[Candidate]:
    """Candidates in the order of the file; one answer per question."""
    label = Labeller(path, "question_id", "answers", required=True)
    for number, questions in visual_genome.read_entries(path, "qas", photographs):
        texts, labels = [], []
        for question in questions:
            identity, answer = field(question, "qa_id", int, path), question.get("answer")
            answered = isinstance(answer, str) and answer.strip()
            texts.append(question.get("question"))
            labels.append(label({"question_id": identity, "answers": [answer] if answered else None}))
        yield photographs.candidate(number, texts, labels)
