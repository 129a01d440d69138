"""Configurations (trees of dataclasses) to JSON's plain values and back, with types checked."""

import dataclasses
import json
import reprlib
import sys
import types
import typing
from collections.abc import Collection
from typing import Any

from pixelbert_jax.errors import ConfigError

# Field names of earlier releases, which their configurations and checkpoints still hold -> present names.
OLD_NAMES = {
    "hardest": "hardest_negatives",
    "pictures": "images",
    "replaced_pictures": "replaced_images",
    "whole_picture": "whole_image",
}


def current_name(name: str, fields: Collection[str]) -> str:
    """The field of a class that `name` means: `name` itself, or the present name of a field of an earlier release."""
    renamed = OLD_NAMES.get(name, name)
    return renamed if name not in fields and renamed in fields else name


def build(value: Any, hint: Any, name: str = "config") -> Any:
    """A plain value (from JSON or a literal) as the annotated type, dataclasses included.

    Raises:
      ConfigError: it does not fit the type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{name}={reprlib.repr(value)} must be one of {', '.join(map(repr, arguments))}.")
        return value
    if origin in (typing.Union, types.UnionType):
        errors = {}
        for option in arguments:
            try:
                return build(value, option, name)
            except ConfigError as error:
                errors[option] = error
        near = [option for option in arguments if dataclasses.is_dataclass(option)]
        if near and isinstance(value, dict):
            # The error is that of the class that shares the most fields with the value.
            raise errors[max(near, key=lambda option: len(typing.get_type_hints(option).keys() & value.keys()))]
    elif origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is Ellipsis:
            return tuple(build(item, arguments[0], f"{name}.{i}") for i, item in enumerate(value))
        if len(value) == len(arguments):
            return tuple(build(item, arguments[i], f"{name}.{i}") for i, item in enumerate(value))
    elif dataclasses.is_dataclass(hint) and isinstance(value, dict):
        hints = typing.get_type_hints(hint)
        if len(named := {current_name(key, hints): item for key, item in value.items()}) == len(value):
            value = named
        unknown = set(value) - set(hints)
        if unknown:
            fields = reprlib.repr(sorted(unknown, key=str))
            raise ConfigError(f"{name}: unknown fields {fields}; {hint.__name__} has {sorted(hints)}.")
        fields = {key: build(item, hints[key], f"{name}.{key}") for key, item in value.items()}
        try:
            return hint(**fields)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name}: {str(error).removesuffix('.')}.") from None
    elif hint is float and type(value) is int and abs(value) > sys.float_info.max:
        raise ConfigError(f"{name}={reprlib.repr(value)} is too large for a number with a point.")
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif (hint in (int, str, type(None)) and type(value) is hint) or (hint is bool and isinstance(value, bool)):
        return value
    readable = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise ConfigError(f"{name}={reprlib.repr(value)} is not a value of type {readable}.")


def to_dict(config: Any) -> dict[str, Any]:
    """A tree of dataclasses as JSON's plain values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))
