"""A user's own images with questions and answers: JSON lines beside image files."""

from pathlib import Path

import tensorflow_datasets as tfds

from data_pipelines.datasets.builder import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.formats.json_lines import objects, read_lines, relative_path, require_lists
from data_pipelines.datasets.labels import Labeller, TextsByImage, answers
from data_pipelines.datasets.layout import source_below

_LINE = '{"image": path, "questions": [{"question": "...", "answers": ["..."]}]}'


class Vqa(ImageTextBuilder):
    """A user's own images with questions and answers."""

    name = "vqa"
    VERSION = tfds.core.Version("1.1.0")
    TURNED = True
    LABELLED = True

    def candidates(self) -> dict[str, Candidates]:
        """A split for each .jsonl file."""
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
