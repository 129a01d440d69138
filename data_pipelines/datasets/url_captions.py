"""Common base of Conceptual Captions and SBU: they publish URLs with captions, and users download the images.

Many links are dead by now, so a missing image is not an error; missing images are counted and reported.
"""

import collections
import dataclasses
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data_pipelines.datasets import identical
from data_pipelines.datasets.builder import ImageTextBuilder
from data_pipelines.datasets.candidates import Source
from data_pipelines.datasets.formats import img2dataset
from data_pipelines.datasets.formats.url_images import (
    NAMINGS,
    ROW_NUMBERS,
    ImageFile,
    ImageFolder,
    Naming,
    ReadUrls,
    choose_naming,
    forget_ambiguous,
    url_digest,
)
from data_pipelines.datasets.formats.url_rows import Links, Row, Survey, key_of
from data_pipelines.errors import DataError

_LAYOUTS = (
    "img2dataset's tar files (00000.tar), img2dataset's folders (00000/000000012.jpg beside 000000012.json), or images "
    f"with the published list, named by {'; '.join(naming.what for naming in NAMINGS)}"
)


@dataclasses.dataclass(frozen=True)
class UrlList:
    """A published list of URLs with captions.

    Attributes:
      location: location of the file, for messages.
      read: returns its rows.
    """

    location: str
    read: ReadUrls


class UrlCaptions(ImageTextBuilder, skip_registration=True):
    """Captions of images that are identified by their URLs."""

    OPTIONS = {"first_row": "", identical.OPTION: identical.DEFAULT}
    PAGE: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.OPTIONS = {**UrlCaptions.OPTIONS, **cls.OPTIONS}
        super().__init_subclass__(**kwargs)

    def __init__(self, **arguments: Any) -> None:
        """Args: as for ImageTextBuilder."""
        self._links: dict[str, Links] = {}
        super().__init__(**arguments)

    def about(self) -> dict[str, Any]:
        """As ImageTextBuilder, with `links`: for each published split, the number of rows and of missing images."""
        return {**super().about(), "links": {split: links.to_json() for split, links in self._links.items()}}

    def survey(self, split: str, urls: UrlList | None, folder: Path, *, shared: bool = False) -> Survey:
        """Read the rows of a published split and find their images.

        Args:
          split: name of the split.
          urls: the published list; None if it does not exist.
          folder: folder of the images.
          shared: whether the folder also has the images of other splits; then row numbers do not identify an image.

        Raises:
          DataError: the folder has no known layout, or has no image of the list.
        """
        self.settings.start(f"links of {split}", None)
        shards = img2dataset.find_shards(folder)
        folders = [] if shards else img2dataset.find_folders(folder)
        if not shards and not folders:
            survey, details = self._survey_names(urls, folder, shared)
            links = survey.links
        elif shared:
            raise DataError(
                f"{folder} holds what img2dataset wrote, which does not tell the splits apart; move it to a folder of "
                "each split, such as train and validation."
            )
        else:
            unused: collections.Counter[str] = collections.Counter()
            read_rows = img2dataset.read_shards if shards else img2dataset.read_folders
            survey = Survey.of(partial(read_rows, split, unused, shards or folders), self.settings.progress, unused)
            if not len(survey.keys):
                raise self._no_image(folder)
            links, details = _count_links(survey, urls, img2dataset.num_listed(folder, shards or folders))
            details.append(f"images and captions of img2dataset's {'tar files' if shards else 'folders'}, in {folder}")
        self._links[split] = links
        self.notes += [f"{split}: {line}" for line in (*links.lines(), *details)]
        return survey

    def _survey_names(self, urls: UrlList | None, folder: Path, shared: bool) -> tuple[Survey, list[str]]:
        """Rows of the list with the images that are named after them, and lines for the summary."""
        images = ImageFolder(folder)
        if not len(images):
            raise self._no_image(folder)
        if urls is None:
            raise DataError(
                f"{folder} holds images of {self.name}, and no list tells their captions; put the published list into "
                f"{self.source_dir}, from {self.PAGE}."
            )
        namings = [naming for naming in NAMINGS if not (shared and naming in ROW_NUMBERS)]
        naming = choose_naming(images, urls.location, urls.read, namings, self.options["first_row"])
        details = [f"images found by {naming.what}, in {folder}"]
        if ambiguous := forget_ambiguous(images, urls.read, naming):
            details.append(f"{ambiguous:,} images skipped, because their names match several URLs")
        return Survey.of(partial(_named_rows, urls.read, images, naming), self.settings.progress), details

    def _no_image(self, folder: Path) -> DataError:
        return DataError(f"{folder} holds no image of {self.name}; it should hold {_LAYOUTS}.")


def _count_links(survey: Survey, urls: UrlList | None, listed: int | None) -> tuple[Links, list[str]]:
    """Count links by the published list, or by img2dataset's statistics (`listed`), or by img2dataset's rows."""
    if urls is None:
        links = survey.links
        if listed is None and not links.missing:
            return dataclasses.replace(links, rows=None), []
        return dataclasses.replace(links, rows=max(listed or 0, links.rows)), []
    keys = array("Q", (key_of(url_digest(url)) for url, _ in urls.read()))
    keys_N = np.array(keys, np.uint64)
    repeated = len(keys_N) - len(np.unique(keys_N))
    if not survey.has_urls:
        return Links(max(len(keys_N), survey.links.found), survey.links.found, repeated), []
    unlisted = int((~np.isin(survey.keys, keys_N)).sum())
    if unlisted == len(survey.keys):
        raise DataError(
            f"{urls.location} lists none of the URLs of the {unlisted:,} images that img2dataset wrote; give the list "
            "that they were downloaded from, or none."
        )
    links = Links(len(keys_N), int(np.isin(keys_N, survey.keys).sum()), repeated)
    return links, [f"{unlisted:,} images whose URLs the list does not have"] if unlisted else []


def _named_rows(read_urls: ReadUrls, images: ImageFolder, naming: Naming) -> Iterator[Row]:
    for row, (url, caption) in enumerate(read_urls()):
        path = images.find(naming.stem(row, url))
        yield Row(url, [caption], Source(None if path is None else ImageFile(path), path or url))
