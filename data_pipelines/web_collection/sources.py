"""The files of a source, divided into parts that are read independently."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.web_collection import parquet
from data_pipelines.web_collection.samples import Found
from data_pipelines.web_collection.tar_files import check_tar, read_tar

_KINDS = (".tar", ".parquet")


@dataclasses.dataclass(frozen=True, order=True)
class Part:
    """A tar file, or a row group of a Parquet file.

    Attributes:
      file: path relative to the source folder.
      row_group: number of the row group; 0 for a tar file.
      first: number of the first record in the file.
    """

    file: str
    row_group: int = 0
    first: int = 0


def find_parts(source: Path) -> tuple[Path, list[Part]]:
    """The source folder, and all parts in it and its subfolders in the order of their names; hidden files are ignored.

    `source` may also be a single file.

    Raises:
      DataError: there is no file, or a file does not have the format of its suffix.
    """
    if source.is_file() and source.suffix.lower() in _KINDS:
        folder, files = source.parent, [source]
    elif source.is_dir():
        folder = source
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in _KINDS and path.is_file())
        files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    else:
        raise DataError(f"--source={source} is neither a folder nor a .tar or .parquet file; give one of them.")
    parts: list[Part] = []
    for path in files:
        parts += _parts(path, path.relative_to(folder).as_posix())
    if not parts:
        raise DataError(f"No .tar or .parquet file with records in --source={source}; give the folder of the crawl.")
    return folder, parts


def read_part(folder: Path, part: Part) -> Iterator[Found]:
    """All images of a part in order; raises DataError if the file is damaged."""
    path = folder / part.file
    if parquet.is_parquet(part.file):
        return parquet.read_rows(path, part.file, part.row_group, part.first)
    return read_tar(path, part.file)


def _parts(path: Path, file: str) -> Iterator[Part]:
    """The parts of a file."""
    if not parquet.is_parquet(file):
        check_tar(path)
        yield Part(file)
        return
    first = 0
    for row_group, rows in enumerate(parquet.row_groups(path)):
        yield Part(file, row_group, first)
        first += rows
