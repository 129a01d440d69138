"""Parquet files: one row per image, with its bytes or with the path of a file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.datasets.formats.json_lines import relative_path
from data_pipelines.datasets.formats.parquet_files import content_of, damage_of, open_file
from data_pipelines.datasets.formats.parquet_files import row_groups as groups_of
from data_pipelines.errors import DataError
from data_pipelines.web_collection.page_fields import LANGUAGES, PAGES, TEXTS, language_of, page_of, texts_of
from data_pipelines.web_collection.samples import Found, Location

_IMAGES = ("image", "jpg", "jpeg", "png", "webp")  # except for the first, the names of img2dataset
_PATH = "image_path"
_MISSING = "."  # a path that is never an image file


def is_parquet(file: str) -> bool:
    """Whether the file name is that of a Parquet file."""
    return file.lower().endswith(".parquet")


def row_groups(path: Path) -> list[int]:
    """Number of rows of each row group.

    Raises:
      DataError: the file is not a Parquet file, or has no column of images or of texts, or pyarrow is not installed.
    """
    file = open_file(path)
    _column_of_images(path, file)
    names = file.schema_arrow.names
    if not set(TEXTS) & set(names):
        raise DataError(f"{path} has no column of texts among {', '.join(names)}; name it {' or '.join(TEXTS)}.")
    return [group.rows for group in groups_of(path)]


def read_rows(path: Path, file: str, row_group: int, first: int) -> Iterator[Found]:
    """All images of a row group in order, without their bytes.

    Args:
      path: path of the file.
      file: path of the file relative to the source folder.
      row_group: number of the row group.
      first: number of its first row in the file.

    Raises:
      DataError: the file is damaged.
    """
    table = open_file(path)
    by_path = _column_of_images(path, table) == _PATH
    names = [name for name in (*TEXTS, *LANGUAGES, *PAGES) if name in table.schema_arrow.names]
    rows = _read(path, table, row_group, [_PATH, *names] if by_path else names)
    for i, fields in enumerate(rows):
        image = _relative(fields.get(_PATH)) if by_path else ""
        yield Found(
            Location(file, first + i, row_group, i, image), texts_of(fields), language_of(fields), page_of(fields)
        )


def read_images(path: Path, row_group: int) -> Sequence[bytes | None]:
    """Read the encoded images of a row group; raises DataError if the file is damaged."""
    file = open_file(path)
    column = _column_of_images(path, file)
    return [content_of(row[column]) for row in _read(path, file, row_group, [column])]


def _column_of_images(path: Path, file: Any) -> str:
    """The first of `image`, `jpg`, ... that has bytes, or a structure with bytes; otherwise `image_path`."""
    import pyarrow.types as types

    schema = file.schema_arrow
    for name in (name for name in _IMAGES if name in schema.names):
        kind = schema.field(name).type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if types.is_binary(kind) or types.is_large_binary(kind):
            return name
    if _PATH in schema.names:
        kind = schema.field(_PATH).type
        if types.is_string(kind) or types.is_large_string(kind):
            return _PATH
    raise DataError(
        f"{path} has no column of images among {', '.join(schema.names)}; name it {_IMAGES[0]} (encoded "
        f"bytes; or {', '.join(_IMAGES[1:])}) or {_PATH} (a path relative to --image_folder)."
    )


def _read(path: Path, file: Any, row_group: int, columns: Sequence[str]) -> list[dict[str, Any]]:
    with damage_of(path):
        return file.read_row_group(row_group, columns=list(columns)).to_pylist()


def _relative(image: object) -> str:
    """The path if it stays in the image folder; otherwise a path that does not exist."""
    try:
        return relative_path(image, "")
    except DataError:
        return _MISSING
