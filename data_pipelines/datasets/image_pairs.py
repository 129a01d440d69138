"""A user's own pairs of images with true or false sentences: JSON lines beside image files."""

from pathlib import Path

import tensorflow_datasets as tfds

from data_pipelines.datasets.builder import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.formats.json_lines import objects, read_lines, relative_path, require_lists
from data_pipelines.datasets.labels import Labeller, TextsByImage, truth
from data_pipelines.datasets.layout import source_below
from data_pipelines.errors import DataError, short_repr

_LINE = '{"images": [left, right], "sentences": [{"sentence": "...", "label": true}]}'


class ImagePairs(ImageTextBuilder):
    """A user's own pairs of images with sentences."""

    name = "image_pairs"
    VERSION = tfds.core.Version("1.1.0")
    TURNED = True
    LABELLED = True
    PAIRED = True

    def candidates(self) -> dict[str, Candidates]:
        """A split for each .jsonl file."""
        lists = require_lists(self.source_dir, _LINE)
        return {split: Candidates.of(self._read(path)) for split, path in lists.items()}

    def _read(self, path: Path) -> list[Candidate]:
        """Pairs in the order of their first lines; the lines of a pair are joined."""
        texts = TextsByImage(Labeller(path, "identifier", "label"))
        pairs: dict[str, list[str]] = {}
        for location, entry in read_lines(path, _LINE, ("images", "sentences")):
            images = entry["images"]
            if not isinstance(images, list) or len(images) != 2:
                raise DataError(f"{location}: images must be two paths, left and right; correct that line.")
            images = [relative_path(image, location) for image in images]
            pair = "|".join(images)
            pairs[pair] = images
            texts.add_image(pair)
            for sentence in objects(entry, "sentences", "sentence", location):
                group = sentence.get("group", sentence["sentence"])
                if not isinstance(group, (str, int)):
                    raise DataError(
                        f"{location}: group {short_repr(group)} is neither a text nor a number; correct that line."
                    )
                label = {
                    "identifier": sentence.get("identifier"),
                    "label": truth(sentence.get("label"), location),
                    "group": group,
                }
                texts.add(pair, sentence["sentence"], label)
        items = []
        for pair, its_texts, labels in texts:
            left, right = (source_below(path.parent, image) for image in pairs[pair])
            items.append(Candidate.of(f"{self.name}/{pair}", its_texts, left, labels, right))
        return items
