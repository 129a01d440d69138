"""A user's own pairs of images with true or false sentences: JSON lines beside image files, or Parquet files."""

from pathlib import Path

import tensorflow_datasets as tfds

from data_pipelines.datasets.candidates import Candidate, Candidates, NoText
from data_pipelines.datasets.formats.json_lines import objects, read_lines, relative_path, require_lists
from data_pipelines.datasets.formats.parquet_columns import IDENTIFIERS, IMAGE_KINDS, Role
from data_pipelines.datasets.labels import Labeller, TextsByImage, truth
from data_pipelines.datasets.layout import source_below
from data_pipelines.datasets.own_data import OwnDataBuilder
from data_pipelines.datasets.parquet_rows import RowFormat, Text, Values, identifier, only
from data_pipelines.errors import DataError, short_repr

_LINE = '{"images": [left, right], "sentences": [{"sentence": "...", "label": true}]}'

_ROLES = (
    Role(
        "image",
        (("left_image", "right_image"), "images"),
        IMAGE_KINDS | {f"list of {kind}" for kind in IMAGE_KINDS},
        required=True,
    ),
    Role("sentence", ("sentence",), frozenset({"text"}), required=True),
    Role("label", ("label",), frozenset({"bool", "text", "number"})),
    Role("identifier", ("identifier",), IDENTIFIERS),
    Role("group", ("group",), frozenset({"text", "number"})),
)


def _row_texts(values: Values) -> list[Text]:
    """The sentence of a row; a label is true or false, a word, or 1 or 0."""
    sentence, label, number = only(values, "sentence"), only(values, "label"), identifier(values, "identifier")
    text = number if isinstance(number, NoText) else sentence
    try:
        label = truth(bool(label) if label in (0, 1) else label, "")
    except DataError:
        text, label = NoText("label is neither true nor false"), None
    group = only(values, "group")
    return [(text, {"identifier": number, "label": label, "group": sentence if group is None else group})]


class ImagePairs(OwnDataBuilder):
    """A user's own pairs of images with sentences."""

    name = "image_pairs"
    VERSION = tfds.core.Version("1.1.0")
    ROWS = RowFormat("image_pairs", _ROLES, _row_texts, num_images=2, id_key="identifier", target="label")
    LABELLED = True
    PAIRED = True

    def candidates(self) -> dict[str, Candidates]:
        """A split for each .jsonl file, or for each name of Parquet files."""
        if (found := self.from_parquet()) is not None:
            return found
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
                text = sentence["sentence"]
                group = sentence.get("group", text if isinstance(text, str) else "")  # no text: it is skipped
                if not isinstance(group, (str, int)):
                    raise DataError(
                        f"{location}: group {short_repr(group)} is neither a text nor a number; correct that line."
                    )
                label = {
                    "identifier": sentence.get("identifier"),
                    "label": truth(sentence.get("label"), location),
                    "group": group,
                }
                texts.add(pair, text, label)
        items = []
        for pair, its_texts, labels in texts:
            left, right = (source_below(path.parent, image) for image in pairs[pair])
            items.append(Candidate.of(f"{self.name}/{pair}", its_texts, left, labels, right))
        return items
