"""COCO Captions, with Karpathy's splits where his file is found, else with the official ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_pipelines.datasets import coco_files, karpathy
from data_pipelines.datasets.base import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.layout import field, first_existing, load_json
from data_pipelines.errors import DataError
from data_pipelines.showing import shown

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
        """Karpathy's train, restval, val, test, or the official train and validation."""
        years = (self.options["year"],) if self.options["year"] else YEARS
        folders = [f"{split}{year}" for year in years for split in ("train", "val")]
        paths = coco_files.find_photographs(self.source_dir, folders)
        split_file = find_karpathy(self.source_dir, self.options["karpathy_json"])
        if split_file is not None and not self.options["official_splits"]:
            self.notes.append("Karpathy's splits")
            return self._karpathy(split_file, paths)
        self.notes.append("official splits")
        return self._official(years, paths)

    def _karpathy(self, path: Path, paths: Mapping[int | None, Path]) -> dict[str, Candidates]:
        splits: dict[str, list[Candidate]] = {split: [] for split in _KARPATHY_SPLITS}
        for entry in karpathy.read_entries(path):
            if entry.coco_id is None or entry.split not in splits:
                raise DataError(
                    f"{path} is not Karpathy's dataset_coco.json: image {shown(entry.file_name)} is in "
                    f"split {shown(entry.split)} with COCO id {entry.coco_id}; give the right file."
                )
            where = f"{entry.folder}/{entry.file_name}"
            splits[entry.split].append(coco_files.candidate(entry.coco_id, entry.texts, paths, where))
        return {split: Candidates.of(items) for split, items in splits.items() if items}

    def _official(self, years: tuple[str, ...], paths: Mapping[int | None, Path]) -> dict[str, Candidates]:
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
        return {
            _OFFICIAL_SPLITS[split]: Candidates.of(_read_official(path, f"{split}{year}", paths))
            for (year, split), path in found.items()
        }


def find_karpathy(source_dir: Path, given: str) -> Path | None:
    """Karpathy's COCO split file: as given, or found; DataError if given and not there."""
    if given:
        if not Path(given).is_file():
            raise DataError(f"--karpathy_json={given} is not a file; give dataset_coco.json.")
        return Path(given)
    return first_existing(source_dir, KARPATHY_FILES)


def _read_official(path: Path, folder: str, paths: Mapping[int | None, Path]) -> list[Candidate]:
    content = load_json(path)
    texts: dict[int, list[Any]] = {}
    for annotation in field(content, "annotations", list, path):
        image_id = field(annotation, "image_id", int, path)
        texts.setdefault(image_id, []).append(annotation.get("caption"))
    return [
        coco_files.candidate(
            field(image, "id", int, path),
            texts.get(image["id"], ()),
            paths,
            f"{folder}/{field(image, 'file_name', str, path)}",
        )
        for image in field(content, "images", list, path)
    ]
