"""Parquet files: their splits, their schemas, and their rows as a stream."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.datasets.candidates import NOT_UTF_8
from data_pipelines.datasets.formats.json_lines import check_split
from data_pipelines.errors import DataError, in_short
from data_pipelines.images.files import MAX_BYTES, BadImageError
from data_pipelines.storage.paths import files_below, is_local, size_of

_BATCH = 16  # rows in memory at a time; each may have an image
_KEPT_BATCHES = 8  # of a cursor: threads ask for rows that are a few batches apart
_SHARD = re.compile(r"-\d+-of-\d+(-[0-9a-f]+)?$")  # the end of a name on the hub: train-00000-of-00005


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """A part of a Parquet file that is read as a whole or as a stream.

    Attributes:
      path: path of the file.
      number: number of the row group in the file.
      first: number of its first row in the file.
      rows: number of its rows.
    """

    path: Path
    number: int
    first: int
    rows: int


def find_files(source_dir: Path) -> dict[str, list[Path]]:
    """Split -> Parquet files in a folder and below it, both sorted.

    The split is the name of the file without the number of the shard, or the name of the folder if the file has only a
    number; a file with only a number directly in `source_dir`, or in `data/`, belongs to train.

    Raises:
      DataError: a name is not a valid name of a split, or the files of a split are in several folders.
    """
    found: dict[str, list[Path]] = {}
    for path in files_below(source_dir, ".parquet"):
        relative = path.relative_to(source_dir)
        if not any(part.startswith(".") for part in relative.parts):
            found.setdefault(_split_of(relative), []).append(path)
    for split, paths in found.items():
        check_split(split, source_dir)
        folders = sorted({str(path.parent.relative_to(source_dir)) for path in paths})
        if len(folders) > 1:
            raise DataError(
                f"{source_dir} has Parquet files of split {split!r} in several folders ({', '.join(folders[:5])}), "
                "which may be different data sets; give one of these folders as --source_dir."
            )
    return dict(sorted(found.items()))


def _split_of(relative: Path) -> str:
    name = _SHARD.sub("", relative.stem)
    if not name.isdigit():
        return name
    folder = relative.parent.name
    return folder if folder not in ("", "data") else "train"


def open_file(path: Path) -> Any:
    """Open a Parquet file.

    Raises:
      DataError: pyarrow is not installed, or the file is not a Parquet file.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: Parquet files need pyarrow; run `pip install 'pixelbert_jax[parquet]'`.") from None
    with damage_of(path):
        # With its own settings, pyarrow reads a column of a row group as a whole.
        source = path if is_local(path) else path.open("rb")
        return pyarrow.parquet.ParquetFile(
            source, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
        )


@contextlib.contextmanager
def damage_of(path: Path) -> Iterator[None]:
    """Raise DataError for pyarrow's exceptions in the block: the file is damaged."""
    import pyarrow

    kinds = (pyarrow.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError, MemoryError)
    try:
        yield
    except kinds as error:
        # The message may quote damaged bytes.
        reason = in_short("".join(filter(str.isprintable, str(error).partition("\n")[0])))
        raise DataError(f"{path} is not a whole Parquet file ({reason}); download it again or remove it.") from error


def row_groups(path: Path) -> list[RowGroup]:
    """The row groups of a file; raises DataError if it is damaged."""
    file = open_file(path)
    with damage_of(path):
        rows = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        if min(rows, default=0) < 0 or sum(rows) > size_of(path):
            raise ValueError("it promises more rows than it can hold")
        starts = itertools.accumulate(rows, initial=0)
        return [RowGroup(path, number, *entry) for number, entry in enumerate(zip(starts, rows, strict=False))]


def read_rows(group: RowGroup, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a row group: column -> value; a value that is not UTF-8 is NOT_UTF_8. A few rows are in memory.

    Raises:
      DataError: the file is damaged.
    """
    count = 0
    for batch in _batches(group, columns):
        with damage_of(group.path):
            names = batch.schema.names
            values = [_values(batch.column(i)) for i in range(len(names))]
        count += batch.num_rows
        for row in zip(*values, strict=True):
            yield dict(zip(names, row, strict=True))
    if count != group.rows:
        raise DataError(f"{group.path} is not a whole Parquet file (rows are missing); download it again or remove it.")


def _batches(group: RowGroup, columns: Sequence[str]) -> Iterator[Any]:
    with open_file(group.path) as file:
        batches = file.iter_batches(_BATCH, [group.number], list(columns), use_threads=False)
        while True:
            with damage_of(group.path):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def _values(column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(value) for value in column]


def _value(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return NOT_UTF_8


def content_of(value: Any) -> bytes | None:
    """The encoded image in a value: the value itself, or the field `bytes` of a structure; None if there is none."""
    content = value.get("bytes") if isinstance(value, Mapping) else value
    return content if isinstance(content, bytes) else None


@dataclasses.dataclass(frozen=True)
class ParquetImage:
    """`Candidate.read` for an image in a Parquet file.

    Attributes:
      group: row group of the image.
      row: number of the row in the row group.
      column: column of the image.
      item: index in the list of a row; None if the column holds single images.
      content: the encoded image; it is not pickled, and workers on other machines read the file instead.
    """

    group: RowGroup
    row: int
    column: str
    item: int | None
    content: bytes | None = dataclasses.field(repr=False)

    def __call__(self) -> bytes:
        content = self.content
        if content is None:
            value = _cursor(self.group, self.column).read(self.row)
            content = content_of(value if self.item is None else value[self.item])
        if content is None:
            raise FileNotFoundError(self.group.path)
        if len(content) > MAX_BYTES:
            raise BadImageError(f"file over {MAX_BYTES >> 20} MiB")
        return content

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "content": None}


class _Cursor:
    """Reads the values of a column in an order that is almost ascending; other orders are slow."""

    def __init__(self, group: RowGroup, column: str) -> None:
        self._group, self._column = group, column
        self._lock = threading.Lock()
        self._restart()

    def _restart(self) -> None:
        self._rows = enumerate(read_rows(self._group, [self._column]))
        self._kept: collections.OrderedDict[int, Any] = collections.OrderedDict()

    def read(self, row: int) -> Any:
        """The value of a row; raises DataError if the file is damaged."""
        with self._lock:
            if self._kept and row < next(iter(self._kept)):
                self._restart()
            while row not in self._kept:
                number, values = next(self._rows)
                self._kept[number] = values[self._column]
                if len(self._kept) > _BATCH * _KEPT_BATCHES:
                    self._kept.popitem(last=False)
            return self._kept[row]


@functools.lru_cache(maxsize=2)
def _cursor(group: RowGroup, column: str) -> _Cursor:
    return _Cursor(group, column)
