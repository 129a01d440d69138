"""Conceptual Captions (CC3M): images from the web with one caption each, made from their alternative text."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import tensorflow_datasets as tfds

from data_pipelines.datasets.candidates import Candidates
from data_pipelines.datasets.formats import img2dataset
from data_pipelines.datasets.layout import decode_line, first_existing
from data_pipelines.datasets.url_captions import UrlCaptions, UrlList
from data_pipelines.errors import DataError

_LISTS = {
    "train": ("Train_GCC-training.tsv", "Train-GCC-training.tsv", "cc3m.tsv"),
    "validation": ("Validation_GCC-1.1.0-Validation.tsv", "Validation-GCC-1.1.0-Validation.tsv"),
}
_FOLDERS = {
    "train": ("train", "training", "images/train", "images/training", "cc3m"),
    "validation": ("validation", "val", "images/validation", "images/val"),
}
_COMMON_FOLDER = "images"
_HEADER = ("caption", "url")  # img2dataset needs a header; the published files have none


class ConceptualCaptions(UrlCaptions):
    """3.3 million images from the web with one caption each."""

    name = "conceptual_captions"
    VERSION = tfds.core.Version("1.0.0")
    PAGE = "https://ai.google.com/research/ConceptualCaptions/download"

    def candidates(self) -> dict[str, Candidates]:
        """The splits train and validation, if there are images for them."""
        lists = {split: first_existing(self.source_dir, names) for split, names in _LISTS.items()}
        folders, shared = self._folders(), False
        if not any(folders.values()) and (self.source_dir / _COMMON_FOLDER).is_dir():
            listed = [split for split, path in lists.items() if path is not None] or ["train"]
            folders, shared = dict.fromkeys(listed, self.source_dir / _COMMON_FOLDER), len(listed) > 1
        splits = {}
        for split, path in lists.items():
            folder = folders.get(split)
            if folder is not None:
                urls = None if path is None else UrlList(str(path), partial(read_tsv, path))
                splits[split] = self.survey(split, urls, folder, shared=shared).candidates(self.name)
            elif path is not None:
                looked_for = ", ".join(_FOLDERS[split])
                self.notes.append(f"{split}: skipped, because there is no folder of its images ({looked_for})")
        if not splits:
            folder_names = [name for names in _FOLDERS.values() for name in names]
            raise DataError(
                f"No images of {self.name} in {self.source_dir}: looked for tar files and the folders "
                f"{', '.join(folder_names)} and {_COMMON_FOLDER}; download them there, from the lists on {self.PAGE}."
            )
        return splits

    def _folders(self) -> dict[str, Path | None]:
        """The folder with the images of each split; output of img2dataset in source_dir itself belongs to train."""
        folders = {split: first_existing(self.source_dir, names) for split, names in _FOLDERS.items()}
        written_here = img2dataset.find_shards(self.source_dir) or img2dataset.find_folders(self.source_dir)
        if folders["train"] is None and written_here:
            folders["train"] = self.source_dir
        return folders


def read_tsv(path: Path) -> Iterator[tuple[str, str]]:
    """URL and caption of each line that is not blank.

    Raises:
      DataError: a line is not a caption, a tab and a URL, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                columns = decode_line(line, path, number).rstrip("\r\n").split("\t")
                if number == 1 and tuple(columns) == _HEADER:
                    continue
                caption, url = columns if len(columns) == 2 else ("", "")
                if "://" not in url:
                    raise DataError(
                        f"{path}, line {number}: not a caption, a tab and a URL; correct that line or download the "
                        f"file again, from {ConceptualCaptions.PAGE}."
                    )
                yield url.strip(), caption
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check --source_dir.") from error
