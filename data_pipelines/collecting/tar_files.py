"""WebDataset tar files as crawlers write them: `000012.jpg` with `000012.json` or `000012.txt`, never unpacked."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.collecting.page_fields import language_of, page_of, texts_of
from data_pipelines.collecting.samples import Found, Place
from data_pipelines.datasets.layout import IMAGE_SUFFIXES
from data_pipelines.datasets.tar_images import open_tar, plain_members

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
    """Image and fields of each run of members with one key, the part of the name before its first dot."""
    current, image, about, text = "", None, {}, None
    for name, member in plain_members(tar):
        stem, dot, suffix = name.name.partition(".")
        if not stem or not dot:
            continue
        key = str(name.parent / stem)
        if key != current:
            yield image, _with_text(about, text)
            current, image, about, text = key, None, {}, None
        suffix = f".{suffix.lower()}"
        if suffix in IMAGE_SUFFIXES:
            image = image or member
        elif suffix in (".json", ".txt") and member.size <= _MAX_ABOUT_BYTES:
            content = _content(tar, member)
            if suffix == ".json":
                about = _fields(content)
            else:
                text = content.decode("utf-8", "replace")
    yield image, _with_text(about, text)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
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


def _with_text(about: Mapping[str, Any], text: str | None) -> Mapping[str, Any]:
    """The fields of the .json, and the .txt as a text; img2dataset writes one caption into both."""
    if text is None or text in texts_of(about):
        return about
    listed = about.get("texts")
    return {**about, "texts": [*(listed if isinstance(listed, list) else [] if listed is None else [listed]), text]}
