"""SBU captioned photographs: images from Flickr with the captions of their owners."""

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import tensorflow_datasets as tfds

from data_pipelines.datasets.candidates import Candidates
from data_pipelines.datasets.formats import img2dataset
from data_pipelines.datasets.formats.url_rows import KEY_LIMIT, Survey
from data_pipelines.datasets.layout import decode_line, first_existing, stream_json
from data_pipelines.datasets.url_captions import UrlCaptions, UrlList
from data_pipelines.errors import DataError

_JSON = "sbu-captions-all.json"
_URLS = "SBU_captioned_photo_dataset_urls.txt"
_CAPTIONS = "SBU_captioned_photo_dataset_captions.txt"
_END = object()
_LIST_FOLDERS = ("", "dataset/")
_IMAGE_FOLDERS = ("images", "sbu_images", "sbucaptions", "train", "dataset")


class Sbu(UrlCaptions):
    """A million photographs from Flickr with one caption each."""

    name = "sbu"
    VERSION = tfds.core.Version("1.0.0")
    OPTIONS = {"sbu_validation": 1000}
    PAGE = "https://www.cs.rice.edu/~vo9/sbucaptions/"

    def candidates(self) -> dict[str, Candidates]:
        """The splits train and validation; the publisher has only one split."""
        folder = first_existing(self.source_dir, _IMAGE_FOLDERS)
        if img2dataset.find_shards(self.source_dir) or img2dataset.find_folders(self.source_dir):
            folder = self.source_dir
        if folder is None:
            raise DataError(
                f"No images of {self.name} in {self.source_dir}: looked for tar files and the folders "
                f"{', '.join(_IMAGE_FOLDERS)}; download them there, from the list on {self.PAGE}."
            )
        if self.options["sbu_validation"] < 0:
            raise DataError(f"--sbu_validation={self.options['sbu_validation']} is negative; give 0 for no such split.")
        return self._divide(self.survey("train", self._list(), folder))

    def _divide(self, survey: Survey) -> dict[str, Candidates]:
        """Take the images whose URLs have the smallest hashes as validation; the choice is independent of the order."""
        wanted = self.options["sbu_validation"]
        if wanted == 0:
            return {"train": survey.candidates(self.name)}
        if wanted >= len(survey.keys):
            raise DataError(
                f"--sbu_validation={wanted} leaves nothing to train on: there are only {len(survey.keys):,} images; "
                "give a smaller number, 0 for no such split."
            )
        self.notes.append(f"validation: {wanted:,} of the images found, taken from train by the hashes of their URLs")
        limit = int(survey.keys[wanted])
        return {
            "train": survey.candidates(self.name, limit, KEY_LIMIT),
            "validation": survey.candidates(self.name, 0, limit),
        }

    def _list(self) -> UrlList | None:
        path = first_existing(self.source_dir, [f"{folder}{_JSON}" for folder in _LIST_FOLDERS])
        if path is not None:
            return UrlList(str(path), partial(read_json, path))
        urls = first_existing(self.source_dir, [f"{folder}{_URLS}" for folder in _LIST_FOLDERS])
        if urls is None:
            return None
        if not (urls.parent / _CAPTIONS).exists():
            raise DataError(f"{urls} has no captions beside it; put {_CAPTIONS} there, from {self.PAGE}.")
        return UrlList(str(urls), partial(read_pair, urls, urls.parent / _CAPTIONS))


def read_json(path: Path) -> Iterator[tuple[str, str]]:
    """URL and caption of each row of the published JSON, read as a stream; raises DataError if it is damaged."""
    urls, captions = (stream_json(path, f"{key}.item") for key in ("image_urls", "captions"))
    return _rows(urls, captions, str(path), "image_urls and captions")


def read_pair(urls: Path, captions: Path) -> Iterator[tuple[str, str]]:
    """URL and caption from the lines of two files; raises DataError if the files do not match."""
    return _rows(_lines(urls), _lines(captions), str(urls), f"it and {captions.name}")


def _rows(urls: Iterator[object], captions: Iterator[object], location: str, both: str) -> Iterator[tuple[str, str]]:
    for number, (url, caption) in enumerate(itertools.zip_longest(urls, captions, fillvalue=_END), 1):
        if url is _END or caption is _END:
            raise DataError(
                f"{location}: {both} are not equally long, from row {number}; download again, from {Sbu.PAGE}."
            )
        if not isinstance(url, str) or "://" not in url:
            raise DataError(f"{location}: row {number} is not a URL; download it again, from {Sbu.PAGE}.")
        yield url.strip(), caption


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield decode_line(line, path, number).rstrip("\r\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check --source_dir.") from error
