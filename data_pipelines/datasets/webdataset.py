"""WebDataset tar files, as img2dataset writes them, read front to back without unpacking.

Members of one sample lie together and share the part of their name before its first dot (after the
last slash): `000012.jpg`, `000012.txt`, `000012.json`.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipelines.datasets.candidates import Candidate
from data_pipelines.datasets.layout import IMAGE_SUFFIXES
from data_pipelines.errors import DataError
from data_pipelines.image_files import MAX_BYTES, BadImageError

_MAX_TEXT_BYTES = 1 << 20
_HASHES = ("sha256", "sha512", "md5")


def read_shards(split: str, paths: Sequence[Path]) -> Iterator[Candidate]:
    """Candidates of the tar files of a split, one after the other.

    Members that are not plain files, have unsafe names (absolute, or with ..), or belong to no
    image are ignored. The identity is the hash in a sample's .json, or else split, shard and key.

    Raises:
      DataError: a file is not a tar file or ends too early.
    """
    for path in paths:
        try:
            with tarfile.open(path, "r:") as tar:
                for key, members in _samples(tar):
                    candidate = _candidate(split, path, key, members)
                    if candidate is not None:
                        yield candidate
        except (tarfile.TarError, EOFError) as error:
            raise DataError(f"{path} is not a whole tar file ({error}); download it again or remove it.") from error


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes | None]]]:
    """Key and members (suffix -> content, None if too large) of each run with one key."""
    current, members = "", {}
    for member in tar:
        tar.members = []  # tarfile would remember all of them
        name = PurePosixPath(member.name)
        if not member.isreg() or name.is_absolute() or ".." in name.parts:
            continue
        stem, dot, suffix = name.name.partition(".")
        if not stem or not dot:
            continue
        key = str(name.parent / stem)
        if key != current:
            if members:
                yield current, members
            current, members = key, {}
        members[f".{suffix.lower()}"] = _read(tar, member)
    if members:
        yield current, members


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    if member.size > MAX_BYTES:
        return None
    with tar.extractfile(member) as file:  # in memory: nothing is written to disk
        content = file.read()
    if len(content) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _candidate(split: str, path: Path, key: str, members: Mapping[str, bytes | None]) -> Candidate | None:
    suffix = next((suffix for suffix in members if suffix in IMAGE_SUFFIXES), None)
    if suffix is None:
        return None
    about = _about(members.get(".json"))
    digest = next((about[name] for name in _HASHES if isinstance(about.get(name), str)), None)
    image_id = f"image_text/{digest or f'{split}/{path.stem}/{key}'}"
    texts = _texts(members.get(".txt"), about)
    return Candidate(image_id, texts, _Bytes(members[suffix]), f"{path}:{key}{suffix}")


def _about(content: bytes | None) -> Mapping[str, Any]:
    """The sample's .json; empty if there is none or it is damaged, since it is not essential."""
    try:
        about = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return about if isinstance(about, Mapping) else {}


def _texts(text: bytes | None, about: Mapping[str, Any]) -> Sequence[object]:
    """From the .txt if there is one, else "texts", "captions" or "caption" of the .json."""
    if text is not None and len(text) <= _MAX_TEXT_BYTES:
        return [text.decode("utf-8", "replace")]
    for name in ("texts", "captions", "caption"):
        value = about.get(name)
        if isinstance(value, (str, list)):
            return value if isinstance(value, list) else [value]
    return []


class _Bytes:
    """`Candidate.read` for what is in memory already."""

    def __init__(self, content: bytes | None) -> None:
        self._content = content

    def __call__(self) -> bytes:
        if self._content is None:
            raise BadImageError(f"file over {MAX_BYTES >> 20} MiB")
        return self._content
