"""WebDataset tar files as crawlers write them: `000012.jpg` with `000012.json` or `000012.txt`, never unpacked."""

import collections
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.datasets.candidates import NoText, decode_text, fault_of
from data_pipelines.datasets.formats.tar_images import open_tar
from data_pipelines.datasets.formats.webdataset import divide, runs
from data_pipelines.datasets.layout import IMAGE_SUFFIXES
from data_pipelines.web_collection.page_fields import language_of, page_of, texts_of
from data_pipelines.web_collection.samples import Found, Place

_MAX_ABOUT_BYTES = 1 << 20  # of a .json or .txt; larger ones are as if they were not there


def check_tar(path: Path) -> None:
    """Look at the first bytes; raises DataError if that is no tar file."""
    with open_tar(path):
        pass


def read_tar(path: Path, file: str) -> Iterator[Found]:
    """All images of a tar file, in its order; their bytes stay where they are.

    Members that are not plain files, or have unsafe names (absolute, or with ..), are ignored, and so are texts without
    an image.

    Args:
      path: of the file.
      file: the same, relative to the source folder.

    Raises:
      DataError: not a tar file, or it ends too early.
    """
    with open_tar(path) as tar:
        number = 0
        for image, about in _samples(tar):
            if image is not None:
                place = Place(file, number, image.offset_data, image.size)
                yield Found(place, texts_of(about), language_of(about), page_of(about))
                number += 1


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo | None, Mapping[str, Any]]]:
    """Image and fields of each sample; which members are one `webdataset.divide` says."""
    unused: collections.Counter[str] = collections.Counter()
    for key, run in runs(tar, unused):
        for members in divide(key, run, unused).values():
            image = next((member for suffix, member in members.items() if suffix in IMAGE_SUFFIXES), None)
            about, text = _content(tar, members.get(".json")), _content(tar, members.get(".txt"))
            yield (
                image,
                _with_text({} if about is None else _fields(about), None if text is None else decode_text(text)),
            )


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> bytes | None:
    """None if there is no such member or it is too large."""
    if member is None or member.size > _MAX_ABOUT_BYTES:
        return None
    with tar.extractfile(member) as file:  # in memory: nothing is written to disk
        content = file.read()
    if len(content) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _fields(content: bytes) -> Mapping[str, Any]:
    """Of a .json; none if it is damaged."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _with_text(about: Mapping[str, Any], text: str | NoText | None) -> Mapping[str, Any]:
    """The fields of the .json, and the .txt as a text; img2dataset writes one caption into both, NaN as "nan"."""
    told = texts_of(about)
    is_nan = isinstance(text, str) and text.strip().lower() == "nan" and any(map(fault_of, told))
    if text is None or is_nan or text in told:
        return about
    listed = about.get("texts")
    return {**about, "texts": [*(listed if isinstance(listed, list) else [] if listed is None else [listed]), text]}
