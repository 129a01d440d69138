"""COCO Captions, with Karpathy's splits if his file is found, otherwise with the official splits."""

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_pipelines.datasets.builder import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.formats import coco_files, karpathy
from data_pipelines.datasets.formats.coco_files import Photographs
from data_pipelines.datasets.layout import field, first_existing, load_json
from data_pipelines.errors import DataError, short_repr
from data_pipelines.storage.paths import as_path

YEARS = ("2014", "2017")
KARPATHY_FILES = ("annotations/dataset_coco.json", "dataset_coco.json")
_KARPATHY_SPLITS = ("train", "restval", "val", "test")
_OFFICIAL_SPLITS = {"train": "train", "val": "validation"}


class CocoCaptions(ImageTextBuilder):
    """COCO photographs with about five captions each."""

    name = "coco_captions"
    VERSION = tfds.core.Version("1.0.0")
    OPTIONS = {"year": "", "karpathy_json": "", "official_splits": False}
    PATH_OPTIONS = ("karpathy_json",)

    def candidates(self) -> dict[str, Candidates]:
        """Karpathy's splits train, restval, val and test, or the official splits train and validation."""
        years = (self.options["year"],) if self.options["year"] else YEARS
        folders = [f"{split}{year}" for year in years for split in ("train", "val")]
        photographs = coco_files.find_photographs(self.source_dir, folders)
        split_file = find_karpathy(self.source_dir, self.options["karpathy_json"])
        if split_file is not None and not self.options["official_splits"]:
            self.notes.append("Karpathy's splits")
            return self._karpathy(split_file, photographs)
        self.notes.append("official splits")
        return self._official(years, photographs)

    def _karpathy(self, path: Path, photographs: Photographs) -> dict[str, Candidates]:
        splits: dict[str, list[Candidate]] = {split: [] for split in _KARPATHY_SPLITS}
        entries = karpathy.read_entries(path)
        shared = coco_files.shared_names(f"{entry.folder}/{entry.file_name}" for entry in entries)
        other_ids: collections.Counter[str] = collections.Counter()
        for entry in entries:
            if entry.coco_id is None or entry.split not in splits:
                raise DataError(
                    f"{path} is not Karpathy's dataset_coco.json: image {short_repr(entry.file_name)} is in "
                    f"split {short_repr(entry.split)} with COCO id {entry.coco_id}; give the right file."
                )
            splits[entry.split].append(
                photographs.named(entry.file_name, entry.stated_id, entry.texts, entry.folder, shared)
            )
            other_ids[entry.split] += coco_files.disagrees(entry.file_name, entry.stated_id)
        self.notes += _id_notes(other_ids)
        return {split: Candidates.of(items) for split, items in splits.items() if items}

    def _official(self, years: tuple[str, ...], photographs: Photographs) -> dict[str, Candidates]:
        found = {
            (year, split): self.source_dir / "annotations" / f"captions_{split}{year}.json"
            for year in years
            for split in _OFFICIAL_SPLITS
        }
        looked_for = ", ".join(f"annotations/{path.name}" for path in found.values())
        found = {key: path for key, path in found.items() if path.exists()}
        if not found:
            raise DataError(
                f"No COCO captions in {self.source_dir}: looked for {looked_for} and "
                f"{', '.join(KARPATHY_FILES)}; unpack the annotations there, from {coco_files.PAGE}."
            )
        if len({year for year, _ in found}) > 1:
            raise DataError(
                f"{self.source_dir} has captions of 2014 and 2017, which are the same photographs "
                "in different splits; give --year=2017, --year=2014 or --karpathy_json."
            )
        splits = {}
        other_ids: collections.Counter[str] = collections.Counter()
        unlisted: collections.Counter[str] = collections.Counter()
        for (year, split), path in found.items():
            name = _OFFICIAL_SPLITS[split]
            items, other_ids[name], unlisted[name] = _read_official(path, f"{split}{year}", photographs)
            splits[name] = Candidates.of(items)
        self.notes += _id_notes(other_ids)
        what = "captions of images that the file does not list, which are not used"
        self.notes += [f"{split}: {count:,} {what}" for split, count in unlisted.items() if count]
        return splits


def find_karpathy(source_dir: Path, given: str) -> Path | None:
    """Path of Karpathy's COCO split file, as given or found; raises DataError if the given file does not exist."""
    if given:
        if not as_path(given).is_file():
            raise DataError(f"--karpathy_json={given} is not a file; give dataset_coco.json.")
        return as_path(given)
    return first_existing(source_dir, KARPATHY_FILES)


def _read_official(path: Path, folder: str, photographs: Photographs) -> tuple[list[Candidate], int, int]:
    """The images of an annotation file.

    Also returns the number of images whose file name and id have different numbers, and the number of captions of
    other images.

    Raises:
      DataError: the file is damaged, or two images have one id.
    """
    content = load_json(path)
    texts: dict[int, list[Any]] = {}
    for annotation in field(content, "annotations", list, path):
        image_id = field(annotation, "image_id", int, path)
        texts.setdefault(image_id, []).append(annotation.get("caption"))
    images = [
        (field(image, "id", int, path), field(image, "file_name", str, path))
        for image in field(content, "images", list, path)
    ]
    names: dict[int, str] = {}
    for number, name in images:
        if names.setdefault(number, name) != name:
            raise DataError(
                f"{path}: images {short_repr(names[number])} and {short_repr(name)} both have the id {number}, so it "
                "is not known whose the captions are; give each image its own id."
            )
    shared = coco_files.shared_names(names.values())
    items = [photographs.named(name, number, texts.get(number, ()), folder, shared) for number, name in images]
    unlisted = sum(len(captions) for number, captions in texts.items() if number not in names)
    return items, sum(coco_files.disagrees(name, number) for number, name in images), unlisted


def _id_notes(other_ids: Mapping[str, int]) -> list[str]:
    """Lines for the summary."""
    what = "images whose file name has another number than their id; the file name counts"
    return [f"{split}: {count:,} {what}" for split, count in other_ids.items() if count]
