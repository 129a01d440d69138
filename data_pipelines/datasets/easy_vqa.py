"""easy-VQA: drawings of one shape, with questions from templates and thirteen different answers."""

import tensorflow_datasets as tfds

from data_pipelines.datasets.builder import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.labels import Labeller, TextsByImage
from data_pipelines.datasets.layout import find_image, list_images, load_json, require
from data_pipelines.errors import DataError

_SPLITS = ("train", "test")
_REMEDY = "copy the data folder of https://github.com/vzhou842/easy-VQA"


class EasyVqa(ImageTextBuilder):
    """Drawings of one shape, with questions about its form and colour."""

    name = "easy_vqa"
    VERSION = tfds.core.Version("1.0.0")
    LABELLED = True

    def candidates(self) -> dict[str, Candidates]:
        """The splits train and test."""
        return {split: self._split(split) for split in _SPLITS}

    def _split(self, split: str) -> Candidates:
        path = require(self.source_dir, (f"{split}/questions.json",), f"questions of {split}", _REMEDY)
        folder = require(self.source_dir, (f"{split}/images",), f"images of {split}", _REMEDY)
        paths = {image.stem: image for image in list_images([folder]).values()}
        texts = TextsByImage(Labeller(path, "question_id", "answers", required=True))
        entries = load_json(path)
        if not isinstance(entries, list):
            raise DataError(f"{path} is not a list of questions; {_REMEDY}.")
        for number, entry in enumerate(entries):
            if not isinstance(entry, list) or list(map(type, entry)) != [str, str, int] or not entry[1].strip():
                raise DataError(f"{path}: entry {number} is not [question, answer, number of the image]; {_REMEDY}.")
            question, answer, image = entry
            texts.add(image, question, {"question_id": None, "answers": [answer]})
        items = []
        for image, its_texts, labels in texts:
            source = find_image(paths, str(image), str(folder / f"{image}.png"))
            items.append(Candidate.of(f"{self.name}/{split}/{image}", its_texts, source, labels))
        return Candidates.of(items)
