"""WebDataset tar files of crawlers: `000012.jpg` with `000012.json` or `000012.txt`, read without unpacking."""

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
from data_pipelines.web_collection.samples import Found, Location

_MAX_ABOUT_BYTES = 1 << 20  # maximum size of a .json or .txt; larger ones are ignored


def check_tar(path: Path) -> None:
    """Check the first bytes; raises DataError if the file is not a tar file."""
    with open_tar(path):
        pass


def read_tar(path: Path, file: str) -> Iterator[Found]:
    """All images of a tar file in order, without their bytes.

    Members that are not regular files, or have unsafe names (absolute, or with ..), are ignored. Texts without an image
    are ignored, too.

    Args:
      path: path of the file.
      file: path of the file relative to the source folder.

    Raises:
      DataError: the file is not a tar file, or is truncated.
    """
    with open_tar(path) as tar:
        number = 0
        for image, about in _samples(tar):
            if image is not None:
                location = Location(file, number, image.offset_data, image.size)
                yield Found(location, texts_of(about), language_of(about), page_of(about))
                number += 1


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo | None, Mapping[str, Any]]]:
    """Image and fields of each sample; `webdataset.divide` defines the samples."""
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
    """Read a member; None if it does not exist or is too large."""
    if member is None or member.size > _MAX_ABOUT_BYTES:
        return None
    with tar.extractfile(member) as file:  # reads to memory; nothing is written to disk
        content = file.read()
    if len(content) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _fields(content: bytes) -> Mapping[str, Any]:
    """Parse the fields of a .json; empty if it is damaged."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _with_text(about: Mapping[str, Any], text: str | NoText | None) -> Mapping[str, Any]:
    """Add the text of the .txt to the fields of the .json, unless it is already there.

    img2dataset writes the same caption to both files. It writes NaN as "nan" to the .txt, which is not a text.
    """
    texts = texts_of(about)
    is_nan = isinstance(text, str) and text.strip().lower() == "nan" and any(map(fault_of, texts))
    if text is None or is_nan or text in texts:
        return about
    listed = about.get("texts")
    return {**about, "texts": [*(listed if isinstance(listed, list) else [] if listed is None else [listed]), text]}
