"""JSON lines: files of publishers, and lists by users, one file per split."""

import json
import os.path
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError, short_repr
from data_pipelines.storage.bucket_errors import reason


def read_lines(path: Path, example: str, keys: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Location (file and line, for messages) and JSON object of each line that is not blank.

    Args:
      path: path of the file.
      example: example of a line, for messages.
      keys: keys that each object must have; other keys are ignored.

    Raises:
      DataError: a line is not such an object, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    location = f"{path}, line {number}"
                    yield location, _parse(line, location, example, keys)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason(error)}); check --source_dir.") from error


def _parse(line: bytes, location: str, example: str, keys: tuple[str, ...]) -> Mapping[str, Any]:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{location}: not UTF-8 ({error.reason}); save the file as UTF-8.") from error
    try:
        entry = json.loads(text)
        if not isinstance(entry, dict) or not all(key in entry for key in keys):
            raise ValueError
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{location}: not a JSON object {example}; correct that line or download the file again."
        ) from error
    return entry


def relative_path(image: object, location: str) -> str:
    """Normalise a user's path of an image; raises DataError unless it stays in the folder of the list."""
    if not isinstance(image, str) or not image or "\0" in image:
        raise DataError(f"{location}: image must be a path; correct that line.")
    relative = os.path.normpath(image)
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise DataError(
            f"{location}: image {short_repr(image)} is outside of the folder of the .jsonl file; "
            "give a path relative to it."
        )
    return relative


def objects(entry: Mapping[str, Any], key: str, text_key: str, location: str) -> list[Mapping[str, Any]]:
    """The list `key` of an entry; raises DataError unless it has only objects with the key `text_key`."""
    found = entry[key]
    if not isinstance(found, list) or not all(isinstance(item, dict) and text_key in item for item in found):
        raise DataError(f'{location}: {key} must be a list of objects with "{text_key}"; correct that line.')
    return found


def find_lists(source_dir: Path) -> dict[str, Path]:
    """Split -> SPLIT.jsonl; raises DataError if a file name is not a valid name of a split."""
    lists = {path.stem: path for path in sorted(source_dir.glob("*.jsonl"))}
    for split in lists:
        check_split(split, source_dir)
    return lists


def require_lists(source_dir: Path, example: str) -> dict[str, Path]:
    """As `find_lists`, but raises DataError if there is no file; `example` is an example of a line."""
    lists = find_lists(source_dir)
    if not lists:
        raise DataError(f"No .jsonl file in {source_dir}; it should hold SPLIT.jsonl with lines {example}.")
    return lists


def check_split(split: str, folder: Path) -> None:
    """Raise DataError unless `split`, from the name of a file in `folder`, is a valid name of a split."""
    if not re.fullmatch(r"[A-Za-z]\w*", split) or split.lower() == "all":
        raise DataError(f"{split!r} in {folder} cannot be the name of a split; rename it to a word such as train.")
