"""The rows of Parquet files: their values by the role of the columns, and their images."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipelines.datasets.candidates import NoText, Source, clean_text
from data_pipelines.datasets.formats.json_lines import relative_path
from data_pipelines.datasets.formats.parquet_columns import Role, check_column, find_columns, kind_of, parse_columns
from data_pipelines.datasets.formats.parquet_files import (
    ParquetImage,
    RowGroup,
    content_of,
    open_file,
    read_rows,
    row_groups,
)
from data_pipelines.datasets.layout import source_below
from data_pipelines.errors import DataError, short_repr
from data_pipelines.images.files import BadImageError

_SPLIT = "split"  # the role of --split_column
_SPLIT_ROLE = Role(_SPLIT, (), frozenset({"text"}))

Values = Mapping[str, Sequence[Any]]  # role -> the values of its columns; roles without a column are missing
Text = tuple[object, Mapping[str, Any]]  # a text, or a `NoText`, and its label, {} in a data set without labels


@dataclasses.dataclass(frozen=True)
class RowFormat:
    """What a data set reads from a row.

    Attributes:
      name: name of the data set.
      roles: roles of the columns; one of them is "image".
      texts: returns the texts of a row.
      num_images: images of a record; a pair is a list, or two columns.
      id_key, target: as in `labels.Labeller`; "" without labels.
    """

    name: str
    roles: Sequence[Role]
    texts: Callable[[Values], Sequence[Text]]
    num_images: int = 1
    id_key: str = ""
    target: str = ""


def only(values: Values, role: str) -> Any:
    """The value of the first column of a role; None if there is none."""
    return next(iter(values.get(role, ())), None)


def identifier(values: Values, role: str) -> int | str | NoText | None:
    """The id of a text; None if there is no such column, NoText if a row lacks its id."""
    value = only(values, role)
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    if role not in values or (isinstance(value, int | str) and value != ""):
        return value
    return NoText(f"no {role}")


@dataclasses.dataclass(frozen=True)
class _Outside:
    """`Candidate.read` for a path that leaves the folder."""

    def __call__(self) -> bytes:
        raise BadImageError("path outside of the folder")


@dataclasses.dataclass(frozen=True)
class RowImage:
    """An image of a row.

    Attributes:
      source: its source.
      path: its published path; may be empty.
      digest: digest of its content, or of its path if the content is in a file.
      is_file: whether the content is in a file.
    """

    source: Source
    path: str
    digest: bytes
    is_file: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
      group: its row group.
      number: its number in the row group.
      values: its values.
      columns: role -> columns of the values.
    """

    group: RowGroup
    number: int
    values: Values
    columns: Mapping[str, Sequence[str]]

    @property
    def location(self) -> str:
        """File and number of the row, for messages."""
        return f"{self.group.path}, row {self.group.first + self.number}"


class ParquetRows:
    """The rows of the Parquet files of a folder.

    Attributes:
      columns: role -> its columns.
      named: roles whose columns the user named.
      note: which columns are used, for the summary.
      groups: all row groups, in order.
    """

    def __init__(
        self,
        layout: RowFormat,
        source_dir: Path,
        files: Mapping[str, Sequence[Path]],
        columns: str,
        split_column: str,
    ) -> None:
        """Find the columns; no row is read.

        Args:
          layout: what the data set reads.
          source_dir: folder to which paths of images are relative.
          files: split -> files.
          columns: value of --columns.
          split_column: value of --split_column; "": the splits of `files`.

        Raises:
          DataError: a file is damaged, or lacks a column.
        """
        self._layout, self._source_dir = layout, source_dir
        self._split_of = {path: split for split, paths in files.items() for path in paths}
        given = parse_columns(columns, layout.roles)
        self.columns: dict[str, tuple[str, ...]] = {}
        self._columns_of: dict[Path, dict[str, tuple[str, ...]]] = {}
        self._classes: dict[Path, dict[str, list[str]]] = {}
        schemas: dict[Path, Any] = {}
        for path in self._split_of:
            with open_file(path) as file:
                schemas[path] = schema = file.schema_arrow
            found = find_columns(path, schema, layout.roles, given)
            if split_column:
                found[_SPLIT] = (split_column,)
                if split_column not in _class_names(schema):
                    check_column(path, schema, _SPLIT_ROLE, split_column, f"--split_column={split_column}")
            for role, its_names in found.items():
                if self.columns.setdefault(role, its_names) != its_names:
                    raise DataError(
                        f"{path} has {role} in {'+'.join(its_names)}, and other files of {source_dir} have it in "
                        f"{'+'.join(self.columns[role])}; name the column of all: --columns={role}=COLUMN."
                    )
            self._columns_of[path], self._classes[path] = found, _class_names(schema)
        for role in layout.roles:
            for path, name in itertools.product(schemas, self.columns.get(role.name, ())):
                schema, found = schemas[path], self._columns_of[path]
                kind = kind_of(schema.field(name).type) if name in schema.names else "null"
                if role.name not in found and kind != "null":  # a column of nulls has no type
                    check_column(path, schema, role, name, f"--columns={role.name}={name}")
        names = dict.fromkeys(name for schema in schemas.values() for name in schema.names)
        used = {name for its_names in self.columns.values() for name in its_names}
        unused = [name for name in names if name not in used]
        found = ", ".join(f"{role}={'+'.join(its_names)}" for role, its_names in self.columns.items())
        self.note = f"columns: {found}" + (f"; not used: {', '.join(unused)}" if unused else "")
        self.groups = [group for path in self._split_of for group in row_groups(path)]
        self.named = frozenset(given)

    def split_of(self, row: Row) -> str | None:
        """The split of a row; None if it names none."""
        if _SPLIT not in self.columns:
            return self._split_of[row.group.path]
        value = only(row.values, _SPLIT)
        return value if isinstance(value, str) and value else None

    def read(self, groups: Iterable[RowGroup], *, images: bool = True) -> Iterator[Row]:
        """The rows of some row groups, without the values of `image` unless `images`."""
        for group in groups:
            columns = self._columns_of[group.path]
            roles = {role: names for role, names in columns.items() if images or role != "image"}
            classes = self._classes[group.path]
            for number, values in enumerate(read_rows(group, sorted({n for names in roles.values() for n in names}))):
                for name, its_classes in classes.items():
                    values[name] = _class_of(values.get(name), its_classes)
                yield Row(group, number, {role: [values[n] for n in names] for role, names in roles.items()}, columns)

    def images(self, row: Row) -> list[RowImage] | None:
        """The images of a row; None if one of them is missing, or if their number is wrong."""
        values: list[tuple[str, int | None, Any]] = []
        for column, value in zip(row.columns["image"], row.values["image"], strict=True):
            if isinstance(value, list):
                values += [(column, item, image) for item, image in enumerate(value)]
            else:
                values.append((column, None, value))
        images = [image for entry in values if (image := self._image(row, *entry)) is not None]
        return images if len(images) == len(values) == self._layout.num_images else None

    def _image(self, row: Row, column: str, item: int | None, value: Any) -> RowImage | None:
        path = value.get("path") if isinstance(value, Mapping) else value
        path = path if isinstance(path, str) else ""
        content = content_of(value)
        if content is not None:
            read = ParquetImage(row.group, row.number, column, item, content)
            name = PurePosixPath(clean_text(only(row.values, "file_name")) or clean_text(path)).name
            location = f"{row.location}:{name}" if name.isprintable() and name else row.location
            return RowImage(Source(read, location, turn=True), path, digest_of(content))
        if not path:
            return None
        try:
            path = relative_path(path, row.location)
        except DataError:
            return RowImage(
                Source(_Outside(), f"{row.location}: {short_repr(path)}"), "", digest_of(path.encode()), True
            )
        return RowImage(source_below(self._source_dir, path), path, digest_of(path.encode()), True)


def digest_of(*parts: bytes) -> bytes:
    """A digest of one or several byte strings."""
    if len(parts) == 1:
        return hashlib.blake2b(parts[0], digest_size=16).digest()
    return digest_of(b"".join(digest_of(part) for part in parts))


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Column -> names of its classes, for columns of numbers for which the hub's library has noted names."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = {name: feature["names"] for name, feature in features.items() if feature.get("_type") == "ClassLabel"}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}
    return {name: names for name, names in found.items() if isinstance(names, list) and name in schema.names}


def _class_of(value: Any, names: Sequence[str]) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return names[value] if is_number and 0 <= value < len(names) else value
