"""A user's own images with texts: JSON lines beside image files, WebDataset tar files, or Parquet files."""

import collections
import itertools
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.datasets import identical
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.formats.json_lines import check_split, find_lists, read_lines, relative_path
from data_pipelines.datasets.formats.parquet_columns import IMAGE, NAMES, Role
from data_pipelines.datasets.formats.webdataset import read_shards
from data_pipelines.datasets.layout import source_below
from data_pipelines.datasets.own_data import OwnDataBuilder
from data_pipelines.datasets.parquet_rows import RowFormat, Text, Values
from data_pipelines.errors import DataError
from data_pipelines.storage.paths import is_file

_LINE = '{"image": path, "texts": [...]}'
_LAYOUTS = (
    f"SPLIT.jsonl with lines {_LINE}, or WebDataset files SPLIT/*.tar, or *.tar for a single split train, or Parquet "
    "files SPLIT-*.parquet"
)


def _row_texts(values: Values) -> list[Text]:
    return [(text, {}) for value in values["texts"] for text in (value if isinstance(value, list) else [value])]


_TEXTS = Role(
    "texts",
    ("texts", "captions", "caption", "text", "sentences", "sentence"),
    frozenset({"text", "list of text"}),
    numbered=r"(?:caption|text|sentence)s?_?(\d+)",
    required=True,
)


class ImageText(OwnDataBuilder):
    """A user's own images with texts."""

    name = "image_text"
    VERSION = tfds.core.Version("1.1.0")
    ROWS = RowFormat("image_text", (IMAGE, _TEXTS, *NAMES), _row_texts)
    OPTIONS = {identical.OPTION: identical.DEFAULT}

    def candidates(self) -> dict[str, Candidates]:
        """A split for each .jsonl file, for each folder of tar files, or for each name of Parquet files."""
        if (found := self.from_parquet(("*.jsonl", "*.tar", "*/*.tar"))) is not None:
            return found
        lists = find_lists(self.source_dir)
        shards = {"train": sorted(self.source_dir.glob("*.tar"))}
        for path in sorted(self.source_dir.glob("*/*.tar")):
            shards.setdefault(path.parent.name, []).append(path)
        shards = {split: paths for split, paths in shards.items() if paths}
        if bool(lists) == bool(shards):
            problem = "both .jsonl and .tar files" if lists else "neither .jsonl nor .tar files"
            raise DataError(f"{self.source_dir} has {problem}; it should hold {_LAYOUTS}.")
        if {path.parent for path in shards.get("train", [])} > {self.source_dir}:
            raise DataError(f"{self.source_dir} has tar files both directly and in train/; move them to train/.")
        for split in shards:
            check_split(split, self.source_dir)
        if lists:
            return {split: _read_lines(path) for split, path in lists.items()}
        return {split: _read_shards(split, paths) for split, paths in shards.items()}


def _read_shards(split: str, paths: list[Path]) -> Candidates:
    """Candidates from the tar files of a split."""
    unused: collections.Counter[str] = collections.Counter()
    return Candidates(read_shards(split, paths, unused), unused=unused)


def _read_lines(path: Path) -> Candidates:
    """Candidates from a .jsonl file in the order of their first lines; the lines of an image are joined.

    The file is read several times, so that it may be larger than the memory. Only 8 bytes are kept per image, and the
    texts of images whose lines are not next to each other.
    """
    keys, missing = array("q"), {}
    for image, _ in _images(path):
        keys.append(hash(image))
        if not is_file(path.parent / image):
            missing[image] = str(path.parent / image)
    distinct, counts = np.unique(np.array(keys, np.int64), return_counts=True)
    scattered = frozenset(distinct[counts > 1].tolist())
    joined: dict[str, list[Any]] = {}
    for image, texts in _images(path) if scattered else ():
        if hash(image) in scattered:
            joined.setdefault(image, []).extend(texts)
    total = int((counts == 1).sum()) + len(joined)
    return Candidates(_candidates(path, scattered, joined), total, list(missing.values()))


def _candidates(path: Path, scattered: frozenset[int], joined: dict[str, list[Any]]) -> Iterator[Candidate]:
    """A candidate for each image; the texts of `scattered` images are taken from `joined`."""
    for image, texts in _images(path):
        if hash(image) in scattered:
            texts = joined.pop(image, None)
        if texts is not None:
            yield Candidate.of(f"image_text/{image}", texts, source_below(path.parent, image))


def _images(path: Path) -> Iterator[tuple[str, list[Any]]]:
    """Path and texts of the images in a .jsonl file; neighbouring lines of one image are joined."""
    for image, lines in itertools.groupby(_checked_lines(path), key=lambda line: line[0]):
        yield image, [text for _, texts in lines for text in texts]


def _checked_lines(path: Path) -> Iterator[tuple[str, list[Any]]]:
    for location, entry in read_lines(path, _LINE, ("image", "texts")):
        image = relative_path(entry["image"], location)
        if not isinstance(entry["texts"], list):
            raise DataError(f"{location}: texts must be a list; correct that line.")
        yield image, entry["texts"]
