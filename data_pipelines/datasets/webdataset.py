"""WebDataset tar files, as img2dataset writes them, read front to back without unpacking.

Members of one sample lie together and share the part of their name before its first dot (after the
last slash): `000012.jpg`, `000012.txt`, `000012.json`.
"""

import dataclasses
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.datasets.candidates import Candidate, clean_text
from data_pipelines.datasets.layout import IMAGE_SUFFIXES
from data_pipelines.datasets.tar_images import TarMember, open_tar, plain_members
from data_pipelines.image_files import MAX_BYTES

_MAX_TEXT_BYTES = 1 << 20
_HASHES = ("sha256", "sha512", "md5")


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image and what lies beside it.

    Attributes:
      path: of the tar file.
      key: part of the name that its members share.
      place: path and name of the image, for messages.
      image: reads it; None if there is none.
      about: its .json; empty if there is none or it is damaged, since it is not essential.
      texts: as published.
    """

    path: Path
    key: str
    place: str
    image: TarMember | None
    about: Mapping[str, Any]
    texts: Sequence[object]


def read_shards(split: str, paths: Sequence[Path]) -> Iterator[Candidate]:
    """Candidates of the tar files of a split, one after the other.

    Samples without an image are ignored. The identity is the hash in a sample's .json, or else split, shard and key.

    Raises:
      DataError: a file is not a tar file or ends too early.
    """
    for sample in read_samples(paths):
        if sample.image is not None:
            digests = (clean_text(sample.about.get(name)) for name in _HASHES)
            digest = next((digest for digest in digests if digest), None)
            image_id = f"image_text/{digest or f'{split}/{sample.path.stem}/{sample.key}'}"
            yield Candidate(image_id, sample.texts, sample.image, sample.place)


def read_samples(paths: Sequence[Path]) -> Iterator[Sample]:
    """Samples of tar files, one after the other; their images are not read.

    Members that are not plain files, or have unsafe names (absolute, or with ..), are ignored.

    Raises:
      DataError: a file is not a tar file or ends too early.
    """
    for path in paths:
        with open_tar(path) as tar:
            for key, members in _samples(tar):
                yield _sample(tar, path, key, members)


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Key and members (suffix -> member) of each run with one key."""
    current, members = "", {}
    for name, member in plain_members(tar):
        stem, dot, suffix = name.name.partition(".")
        if not stem or not dot:
            continue
        key = str(name.parent / stem)
        if key != current:
            if members:
                yield current, members
            current, members = key, {}
        members[f".{suffix.lower()}"] = member
    if members:
        yield current, members


def _sample(tar: tarfile.TarFile, path: Path, key: str, members: Mapping[str, tarfile.TarInfo]) -> Sample:
    suffix = next((suffix for suffix in members if suffix in IMAGE_SUFFIXES), None)
    image = None if suffix is None else TarMember(path, members[suffix].offset_data, members[suffix].size)
    text = _read(tar, members.get(".txt"), _MAX_TEXT_BYTES)
    about = parse_about(_read(tar, members.get(".json"), MAX_BYTES))
    return Sample(path, key, f"{path}:{key}{suffix or ''}", image, about, texts_of(text, about))


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo | None, max_bytes: int) -> bytes | None:
    """None if there is no such member or it is too large."""
    if member is None or member.size > max_bytes:
        return None
    with tar.extractfile(member) as file:  # in memory: nothing is written to disk
        content = file.read()
    if len(content) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def parse_about(content: bytes | None) -> Mapping[str, Any]:
    """A sample's .json; empty if there is none or it is damaged."""
    try:
        about = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return about if isinstance(about, Mapping) else {}


def texts_of(text: bytes | None, about: Mapping[str, Any]) -> Sequence[object]:
    """From the .txt if there is one, else "texts", "captions" or "caption" of the .json."""
    if text is not None:
        return [text.decode("utf-8", "replace")]
    for name in ("texts", "captions", "caption"):
        value = about.get(name)
        if isinstance(value, (str, list)):
            return value if isinstance(value, list) else [value]
    return []
