"""Write WebDataset tar files for the data set `image_text`; the same images give the same bytes."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.storage.atomic_files import open_atomically
from data_pipelines.web_collection.image_reader import ImageReader
from data_pipelines.web_collection.samples import WebImage

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}


def shard_name(split: str, shard: int, total: int) -> str:
    """The name of a tar file, such as train-00003-of-00012.tar."""
    return f"{split}-{shard:05d}-of-{total:05d}.tar"


def write_shard(path: Path, images: Iterable[tuple[int, WebImage]], reader: ImageReader) -> None:
    """Write a tar file atomically.

    Args:
      path: path of the file.
      images: pairs of an image's number in the whole split and the image with its only text.
      reader: reader of the images' bytes.

    Raises:
      DataError: an image has changed.
    """
    with open_atomically(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, image in images:
            encoded = reader.read(image.location)
            if hashlib.sha256(encoded).hexdigest() != image.sha256:
                raise DataError(
                    f"{image.location} changed while it was collected; leave the source alone and run again."
                )
            _add(tar, f"{number:09d}{_SUFFIXES[image.format]}", encoded)
            _add(tar, f"{number:09d}.json", about(image))


def about(image: WebImage) -> bytes:
    """Content of the .json of an image; `image_text` reads its texts and its hash."""
    fields = {
        "texts": list(image.texts),
        "sha256": image.sha256,
        "score": image.score,
        "height": image.height,
        "width": image.width,
        "language": image.language,
        "page": image.page,
        "found": str(image.location),
    }
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # without a time, and with owner 0
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
