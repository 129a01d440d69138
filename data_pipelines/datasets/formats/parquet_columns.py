"""Which columns of a Parquet file a data set uses: found by name and type, or named by the user."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError, in_short, short_repr

IMAGE_KINDS = frozenset({"image", "bytes", "text"})  # a structure with bytes, encoded bytes, a path
IDENTIFIERS = frozenset({"text", "number", "float"})
_LISTED = 60  # columns in a message


@dataclasses.dataclass(frozen=True)
class Role:
    """What a data set may take from a row.

    Attributes:
      name: name in --columns.
      usual: names of the columns, the most usual first; a tuple is several columns together.
      kinds: accepted types, as from `kind_of`.
      numbered: pattern of numbered columns that are used together, with one group; "" if there are none.
      by_type: whether the only column with encoded images is used if no column has a usual name.
      otherwise: names of the columns that are used if there is none of these.
      required: whether preparation stops if there is no such column.
    """

    name: str
    usual: Sequence[str | tuple[str, ...]]
    kinds: frozenset[str]
    numbered: str = ""
    by_type: bool = False
    otherwise: Sequence[str] = ()
    required: bool = False


IMAGE = Role(
    "image",
    ("image", "jpg", "img", "image.bytes", "jpeg", "png", "webp"),
    IMAGE_KINDS,
    by_type=True,
    otherwise=("image_path", "file_name"),
    required=True,
)
# The names of an image, the most specific first.
NAMES = (
    Role("coco_id", ("coco_id", "cocoid"), frozenset({"number", "float"})),
    Role("file_name", ("file_name", "filename", "image_name"), frozenset({"text"})),
    Role("image_id", ("image_id", "img_id", "imgid", "key"), IDENTIFIERS),
)


def kind_of(kind: Any) -> str:
    """The kind of a pyarrow type: image (a structure with bytes), bytes, text, number, float, bool, null, structure,
    `list of` one of these, or other."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if types.is_struct(kind):
        held = kind.get_field_index("bytes")
        return "image" if held >= 0 and kind_of(kind.field(held).type) == "bytes" else "structure"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return f"list of {kind_of(kind.value_type)}"
    kinds = {
        "bytes": (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary),
        "text": (types.is_string, types.is_large_string, types.is_string_view),
        "number": (types.is_integer,),
        "float": (types.is_floating,),
        "bool": (types.is_boolean,),
        "null": (types.is_null,),
    }
    return next((name for name, tests in kinds.items() if any(test(kind) for test in tests)), "other")


def parse_columns(given: str, roles: Sequence[Role]) -> dict[str, str]:
    """Role -> value from `--columns=image=photo,texts=caption`; raises DataError for another form or role."""
    found: dict[str, str] = {}
    for part in filter(None, given.split(",")):
        role, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or role in found or role not in {role.name for role in roles}:
            names = ", ".join(role.name for role in roles)
            raise DataError(
                f"--columns={given}: {short_repr(part)} is not ROLE=COLUMN with one of the roles {names}, each once; "
                "correct it."
            )
        found[role] = column
    return found


def find_columns(
    path: Path, schema: Any, roles: Sequence[Role], given: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The columns of the roles that have any.

    Args:
      path: path of the file, for messages.
      schema: pyarrow schema of the file.
      roles: roles of the data set.
      given: role -> column, or several columns with + between them, or "" for none, as named by the user.

    Raises:
      DataError: a required column or a named column is missing, or has a wrong type.
    """
    if len(set(schema.names)) < len(schema.names):
        raise DataError(f"{path} has two columns of one name; rename one of them.")
    kinds = {name: kind_of(schema.field(name).type) for name in schema.names}
    found = {}
    for role in roles:
        if role.name in given:
            columns = _named(path, schema, kinds, role, given[role.name])
        else:
            columns = _usual(kinds, role)
        if columns:
            found[role.name] = columns
        elif role.required:
            usual = ", ".join("+".join(name) if isinstance(name, tuple) else name for name in role.usual)
            raise DataError(
                f"{path} has no column for {role.name} ({usual}) among {_all(schema)}; "
                f"name it: --columns={role.name}=COLUMN."
            )
    return found


def _usual(kinds: Mapping[str, str], role: Role) -> tuple[str, ...]:
    for names in role.usual:
        names = names if isinstance(names, tuple) else (names,)
        if all(kinds.get(name) in role.kinds for name in names):
            return names
    if role.numbered:
        numbers = {name: found for name in kinds if (found := re.fullmatch(role.numbered, name))}
        numbers = {name: int(found[1]) for name, found in numbers.items() if kinds[name] in role.kinds}
        if numbers:
            return tuple(sorted(numbers, key=numbers.get))
    encoded = [name for name, kind in kinds.items() if kind in ("image", "bytes")]
    if role.by_type and encoded:
        return tuple(encoded) if len(encoded) == 1 else ()
    return next(((name,) for name in role.otherwise if kinds.get(name) in role.kinds), ())


def _named(path: Path, schema: Any, kinds: Mapping[str, str], role: Role, value: str) -> tuple[str, ...]:
    if not value:
        return ()
    names = (value,) if value in kinds else tuple(value.split("+"))
    # `image.bytes` is the field of a structure, unless a column has this name.
    names = tuple(name if name in kinds else name.removesuffix(".bytes") for name in names)
    for name in names:
        check_column(path, schema, role, name, f"--columns={role.name}={value}")
    return names


def check_column(path: Path, schema: Any, role: Role, name: str, flag: str) -> None:
    """Raise DataError unless a file has a column that `flag` names, with a type that fits the role."""
    if name not in schema.names:
        raise DataError(f"{path} has no column {short_repr(name)} of {flag}; it has {_all(schema)}.")
    kind = schema.field(name).type
    if kind_of(kind) not in role.kinds:
        raise DataError(
            f"{path}: column {short_repr(name)} is {in_short(kind, 80)}, which cannot be {role.name} "
            f"({', '.join(sorted(role.kinds))}); name another column in {flag}."
        )


def _all(schema: Any) -> str:
    names = [f"{short_repr(field.name)[1:-1]} ({in_short(field.type, 60)})" for field in list(schema)[:_LISTED]]
    return in_short(", ".join(names), 800) or "no columns"
