"""Flickr30k and Flickr8k, with Karpathy's splits."""

from pathlib import Path

import tensorflow_datasets as tfds

from data_pipelines.datasets.builder import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.formats import karpathy
from data_pipelines.datasets.layout import list_images, reader, require
from data_pipelines.errors import DataError, short_repr

_SPLITS = ("train", "val", "test")
_SPLIT_FILES_PAGE = "https://cs.stanford.edu/people/karpathy/deepimagesent/"


class _Flickr(ImageTextBuilder, skip_registration=True):
    """Photographs with five captions each: Karpathy's JSON and a folder of images."""

    IMAGE_FOLDERS: tuple[str, ...] = ()

    def candidates(self) -> dict[str, Candidates]:
        """The splits train, val and test."""
        json_name = f"dataset_{self.name}.json"
        path = require(
            self.source_dir,
            (json_name, f"annotations/{json_name}"),
            "split file of Karpathy",
            f"put {json_name} there, from {_SPLIT_FILES_PAGE}",
        )
        folder = require(self.source_dir, self.IMAGE_FOLDERS, f"images of {self.name}", "unpack them there")
        paths = list_images([folder])
        splits: dict[str, list[Candidate]] = {split: [] for split in _SPLITS}
        for entry in karpathy.read_entries(path):
            if entry.split not in splits:
                raise DataError(
                    f"{path} has an unknown split {short_repr(entry.split)}; it should be {json_name} from "
                    f"{_SPLIT_FILES_PAGE}."
                )
            image_id = f"{self.name}/{Path(entry.file_name).stem}"
            location = str(folder / entry.file_name)
            read = reader(paths.get(entry.file_name))
            splits[entry.split].append(Candidate(image_id, entry.texts, read, location))
        return {split: Candidates.of(items) for split, items in splits.items() if items}


class Flickr30k(_Flickr):
    """31,014 Flickr photographs with five captions each."""

    name = "flickr30k"
    VERSION = tfds.core.Version("1.0.0")
    IMAGE_FOLDERS = ("images", "flickr30k-images", "flickr30k_images")


class Flickr8k(_Flickr):
    """8,000 Flickr photographs with five captions each."""

    name = "flickr8k"
    VERSION = tfds.core.Version("1.0.0")
    IMAGE_FOLDERS = ("images", "Flickr8k_Dataset", "Flicker8k_Dataset")
