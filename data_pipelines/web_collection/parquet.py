"""Parquet files: one row per image, with its bytes or with the path of a file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.datasets.formats.json_lines import relative_path
from data_pipelines.errors import DataError, in_short
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
    file = _open(path)
    _column_of_images(path, file)
    names = file.schema_arrow.names
    if not set(TEXTS) & set(names):
        raise DataError(f"{path} has no column of texts among {', '.join(names)}; name it {' or '.join(TEXTS)}.")
    numbers = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    if min(numbers, default=0) < 0 or sum(numbers) > path.stat().st_size:
        raise _damaged(path, ValueError("it promises more rows than it can hold"))
    return numbers


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
    table = _open(path)
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
    file = _open(path)
    column = _column_of_images(path, file)
    images = (row[column] for row in _read(path, file, row_group, [column]))
    return [image.get("bytes") if isinstance(image, dict) else image for image in images]


def _open(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: Parquet files need pyarrow; run `pip install 'pixelbert_jax[beam]'`.") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except _damage(pyarrow) as error:
        raise _damaged(path, error) from error


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
    import pyarrow

    try:
        return file.read_row_group(row_group, columns=list(columns)).to_pylist()
    except _damage(pyarrow) as error:
        raise _damaged(path, error) from error


def _damage(pyarrow: Any) -> tuple[type[Exception], ...]:
    """Exceptions of pyarrow for damaged files."""
    return pyarrow.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError, MemoryError


def _relative(image: object) -> str:
    """The path if it stays in the image folder; otherwise a path that does not exist."""
    try:
        return relative_path(image, "")
    except DataError:
        return _MISSING


def _damaged(path: Path, error: Exception) -> DataError:
    reason = in_short("".join(filter(str.isprintable, str(error).partition("\n")[0])))  # it may quote damaged bytes
    return DataError(f"{path} is not a whole Parquet file ({reason}); download it again or remove it.")
