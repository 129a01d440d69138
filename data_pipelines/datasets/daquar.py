"""DAQUAR: questions by people about indoor photographs of the NYU depth data set.

Each question in the files contains the name of its image ("... in the image3 ?"). Records have "image" instead, because
the number does not describe the image, but a model could memorize it.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from data_pipelines.datasets.builder import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.labels import Labeller, TextsByImage
from data_pipelines.datasets.layout import find_image, list_images, require
from data_pipelines.errors import DataError

_SPLITS = ("train", "test")
_ALL = "all_qa_pairs.txt"
_IMAGE_FOLDERS = ("images", "nyu_depth_images")
_PAGE = "https://www.mpi-inf.mpg.de/departments/computer-vision-and-machine-learning/research/vision-and-language/visual-turing-challenge"
_Pair = tuple[str, str, list[str]]  # name of the image, question, answers
_NAME = re.compile(r"\bimage ?(\d+)\b")


class Daquar(ImageTextBuilder):
    """Indoor photographs with questions and answers; a question may have a set of answers, all of which are needed."""

    name = "daquar"
    VERSION = tfds.core.Version("1.0.0")
    LABELLED = True

    def candidates(self) -> dict[str, Candidates]:
        """The splits train and test."""
        folder = require(self.source_dir, _IMAGE_FOLDERS, "images of DAQUAR", "unpack them there")
        paths = {path.stem: path for path in list_images([folder]).values()}
        splits = {}
        for split, texts in self._texts().items():
            items = []
            for image, its_texts, labels in texts:
                source = find_image(paths, image, str(folder / image))
                items.append(Candidate.of(f"{self.name}/{image}", its_texts, source, labels))
            splits[split] = Candidates.of(items)
        return splits

    def _texts(self) -> dict[str, TextsByImage]:
        """Read one file of questions and the list of images of each split, or one file per split."""
        path = self.source_dir / _ALL
        if not path.exists():
            files = {s: self._require((_ALL, f"qa.894.raw.{s}.txt"), f"questions of {s}") for s in _SPLITS}
            return {split: _gather(file, _read_pairs(file)) for split, file in files.items()}
        split_of = {image: split for split in _SPLITS for image in self._list(split)}
        pairs: dict[str, list[_Pair]] = {split: [] for split in _SPLITS}
        for pair in _read_pairs(path):
            if pair[0] not in split_of:
                raise DataError(
                    f"{path} asks about {pair[0][:80]}, which neither list of images names; download all three again."
                )
            pairs[split_of[pair[0]]].append(pair)
        return {split: _gather(path, its_pairs) for split, its_pairs in pairs.items()}

    def _list(self, split: str) -> list[str]:
        path = self._require((f"{split}_images_list.txt",), f"list of the images of {split}")
        return [line.strip() for line in _read_text(path) if line.strip()]

    def _require(self, names: tuple[str, ...], what: str) -> Path:
        return require(self.source_dir, names, what, f"put it there, from {_PAGE}")


def _gather(path: Path, pairs: Iterable[_Pair]) -> TextsByImage:
    texts = TextsByImage(Labeller(path, "question_id", "answers", required=True))
    for image, question, answers in pairs:
        texts.add(image, question, {"question_id": None, "answers": answers})
    return texts


def _read_pairs(path: Path) -> Iterator[_Pair]:
    """Name of the image, question and answers from each two lines; raises DataError, which names the line."""
    lines = _read_text(path)
    while lines and not lines[-1].strip():
        lines.pop()
    for i in range(0, len(lines), 2):
        numbers = set(_NAME.findall(lines[i]))
        if len(numbers) != 1:
            raise DataError(f"{path}, line {i + 1}: not a question that names one image, as in image3; correct it.")
        answers = [answer.strip() for answer in (lines[i + 1] if i + 1 < len(lines) else "").split(",")]
        if not all(answers):
            raise DataError(f"{path}, line {i + 2}: no answer to the question before it; correct it.")
        yield f"image{numbers.pop()}", _NAME.sub("image", lines[i]), answers


def _read_text(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); download it again.") from error
