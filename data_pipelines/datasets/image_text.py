"""Your own images with texts: JSON lines beside image files, or WebDataset tar files."""

import json
import os.path
import re
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_pipelines.datasets.base import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.layout import reader
from data_pipelines.datasets.webdataset import read_shards
from data_pipelines.errors import DataError

_LAYOUTS = (
    'SPLIT.jsonl with lines {"image": path, "texts": [...]}, or WebDataset files SPLIT/*.tar, or '
    "*.tar for a single split train"
)


class ImageText(ImageTextBuilder):
    """Images with texts that a user brings."""

    name = "image_text"
    VERSION = tfds.core.Version("1.0.0")

    def candidates(self) -> dict[str, Candidates]:
        """A split for each .jsonl file, or for each folder of tar files."""
        lists = {path.stem: path for path in sorted(self.source_dir.glob("*.jsonl"))}
        shards = {"train": sorted(self.source_dir.glob("*.tar"))}
        for path in sorted(self.source_dir.glob("*/*.tar")):
            shards.setdefault(path.parent.name, []).append(path)
        shards = {split: paths for split, paths in shards.items() if paths}
        if bool(lists) == bool(shards):
            problem = "both .jsonl and .tar files" if lists else "neither .jsonl nor .tar files"
            raise DataError(f"{self.source_dir} has {problem}; it should hold {_LAYOUTS}.")
        if {path.parent for path in shards.get("train", [])} > {self.source_dir}:
            raise DataError(f"{self.source_dir} has tar files both directly and in train/; move them to train/.")
        for split in (*lists, *shards):
            if not re.fullmatch(r"[A-Za-z]\w*", split) or split.lower() == "all":
                raise DataError(
                    f"{split!r} in {self.source_dir} cannot be the name of a split; rename it to a word such as train."
                )
        if lists:
            return {split: _read_lines(path) for split, path in lists.items()}
        return {split: Candidates(read_shards(split, paths)) for split, paths in shards.items()}


def _read_lines(path: Path) -> Candidates:
    """Images of a .jsonl file, in the order of their first lines; lines of one image are joined."""
    texts: dict[str, list[Any]] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                image, more = _parse_line(line, f"{path}, line {number}")
                texts.setdefault(image, []).extend(more)
    items = []
    for image, its_texts in texts.items():
        found = path.parent / image
        read = reader(found if found.is_file() else None)
        items.append(Candidate(f"image_text/{image}", its_texts, read, str(found)))
    return Candidates.of(items)


def _parse_line(line: bytes, place: str) -> tuple[str, list[Any]]:
    """Relative path of the image and texts; raises DataError."""
    try:
        entry = json.loads(line.decode("utf-8-sig"))
        image, texts = entry["image"], entry["texts"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f'{place}: not a JSON object {{"image": path, "texts": [...]}}; correct that line.') from error
    if not isinstance(image, str) or not isinstance(texts, list) or not image or "\0" in image:
        raise DataError(f"{place}: image must be a path and texts a list; correct that line.")
    relative = os.path.normpath(image)
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise DataError(
            f"{place}: image {image!r} is outside of the folder of the .jsonl file; give a path relative to it."
        )
    return relative, texts
