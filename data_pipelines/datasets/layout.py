"""Find and read the files of a publisher; errors name the expected files and their location."""

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import ijson
import numpy as np

from data_pipelines.datasets.candidates import FileBytes, Source
from data_pipelines.errors import DataError, short_repr
from data_pipelines.storage.bucket_errors import reason
from data_pipelines.storage.paths import AnyPath, entries, files_below, is_file

_MAX_RISE, _MAX_DEPTH = 1000, 20_000  # maximum number of open brackets: within one block that is read, and in all
_BRACKETS = np.zeros(256, np.int8)
_BRACKETS[list(b"[{")], _BRACKETS[list(b"]}")] = 1, -1

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})


def first_existing(folder: Path, names: Sequence[str]) -> Path | None:
    """The first file or folder with one of the names that exists in `folder`; None if there is none."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def require(folder: Path, names: Sequence[str], what: str, remedy: str) -> Path:
    """As `first_existing`, but raises DataError if nothing exists; `what` and `remedy` are parts of the message."""
    found = first_existing(folder, names)
    if found is None:
        raise DataError(f"No {what} in {folder}: looked for {', '.join(names)}; {remedy}.")
    return found


def images_below(folder: AnyPath) -> list[AnyPath]:
    """Image files in a folder and below it, by their suffix, without hidden ones; sorted."""
    files = [path for path in files_below(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def list_images(folders: Sequence[Path]) -> dict[str, Path]:
    """File name -> path of all images in some folders, without subfolders; the first folder has priority."""
    found: dict[str, Path] = {}
    for folder in folders:
        for name, _ in entries(folder):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                found.setdefault(name, folder / name)
    return found


def reader(path: Path | None) -> FileBytes | None:
    """`Candidate.read` for a file, or None if the file was not found."""
    return None if path is None else FileBytes(path)


def find_image(paths: Mapping[str, Path], name: str, otherwise: str) -> Source:
    """The source of the image `name` in `paths`; `otherwise` is the location for messages if it is not there."""
    path = paths.get(name)
    return Source(reader(path), str(path or otherwise))


def source_below(folder: Path, relative: str) -> Source:
    """The source of a user's own image at a path relative to `folder`, turned upright; the file may be missing."""
    path = folder / relative
    return Source(reader(path if is_file(path) else None), str(path), turn=True)


def folders_below(folder: Path, names: Sequence[str]) -> list[Path]:
    """The existing folders with the given names in `folder`, each followed by its subfolders."""
    found = []
    for name in names:
        if (folder / name).is_dir():
            found += [folder / name, *sorted(path for path in (folder / name).iterdir() if path.is_dir())]
    return found


def load_json(path: Path) -> Any:
    """Read a JSON file; raises DataError if it is missing or damaged."""
    try:
        with path.open("rb") as file:
            return json.load(file)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start:,}); save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not whole JSON ({error}); download it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason(error)}); check --source_dir.") from error


def stream_json(path: Path, prefix: str) -> Iterator[Any]:
    """Read parts of a JSON file as a stream, such as prefix "questions.item"; raises DataError if it is damaged."""
    try:
        with path.open("rb") as file:
            yield from ijson.items(_Shallow(file), prefix, use_float=True)
    except (ijson.JSONError, ValueError) as error:
        why, _, near = str(error).removeprefix("b'").replace("\\n", "\n").partition("\n")
        near = near.partition("\n")[0].strip()
        if "NaN" in near:
            raise DataError(
                f"{path} has NaN, which is no JSON, near {short_repr(near)}; write null instead."
            ) from error
        if "UTF8" in why:
            where = f", near {short_repr(near)}" if near else ""
            raise DataError(f"{path} is not UTF-8{where}; save it as UTF-8.") from error
        raise DataError(f"{path} is not whole JSON ({why}); download it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason(error)}); check --source_dir.") from error


class _Shallow:
    """A JSON file that raises an error for deeply nested brackets, because the time of ijson is quadratic in the depth.

    Brackets in strings count too; the limits are large enough for them.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._depth, self._is_start = file, 0, True

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes, without a byte order mark; raises ValueError for UTF-16 and for too deep nesting."""
        content = self._file.read(size)
        if self._is_start and content:
            self._is_start = False
            if b"\0" in content[:2] or content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise ValueError("no UTF8")
            content = content.removeprefix(codecs.BOM_UTF8) or self._file.read(size)
        opened = content.count(b"[") + content.count(b"{")
        self._depth += opened - content.count(b"]") - content.count(b"}")
        if self._depth > _MAX_DEPTH or (opened > _MAX_RISE and _rise(content) > _MAX_RISE):
            raise ValueError("nested too deeply")
        return content


def _rise(content: bytes) -> int:
    """Maximum number of brackets of `content` that are open at the same time."""
    depths = np.cumsum(_BRACKETS[np.frombuffer(content, np.uint8)], dtype=np.int32)
    return int((depths - np.minimum.accumulate(depths)).max())


def decode_line(line: bytes, path: Path, number: int) -> str:
    """Decode line `number` (from 1) of a text file without a byte order mark; raises DataError if it is not UTF-8."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8.") from error


def field(entry: Any, key: str, kind: type, path: Path) -> Any:
    """`entry[key]`, after a check that it has type `kind`; raises DataError, which names the file and the entry."""
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(
            f"{path} is not in the expected format: an entry has no {key!r} of type "
            f"{kind.__name__}, {short_repr(entry)}; download it again from its publisher."
        )
    return value
