"""Conversion tables: from the flat names of other libraries' tensors to the names and layouts of this model."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from flax import nnx

from pixelbert_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Arrays for a model, by dotted name.

    Attributes:
      arrays: whole tensors, or some rows of a table.
      partial: name -> indices of the model's rows that its array has, where it does not have all.
      unused: the source's tensors of layers or stages that the model does not have.
      cut: name -> number of the source's rows that the model does not have.
    """

    arrays: dict[str, np.ndarray]
    partial: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()
    cut: dict[str, int] = dataclasses.field(default_factory=dict)


def joined(*arrays: np.ndarray) -> np.ndarray:
    """The arrays concatenated along the last axis."""
    return np.concatenate(arrays, axis=-1)


def linear(*weights_OxI: np.ndarray) -> np.ndarray:
    """torch's linear weights, OxI each, as one kernel IxO."""
    return joined(*(weight.T for weight in weights_OxI))


def convolution(weight_OxIxhxw: np.ndarray) -> np.ndarray:
    """torch's convolution weight, grouped or not, as hxwxIxO."""
    return weight_OxIxhxw.transpose(2, 3, 1, 0)


def plus_first_row(table_PxD: np.ndarray, other_NxD: np.ndarray) -> np.ndarray:
    """The first row of one table added to every row of another."""
    return table_PxD + other_NxD[:1]


def first_row(table_NxD: np.ndarray) -> np.ndarray:
    """The first row of a table."""
    return table_NxD[0]


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a conversion table.

    `{name}` in the target stands for a number, and in the sources for the same one; `{name+1}` there for the next one.
    `{layer}`, in the sources alone, counts along the target's leading axis.
    """

    target: str
    sources: tuple[str, ...]
    transform: Callable[..., np.ndarray] = joined


def shapes(make: Callable[[nnx.Rngs], nnx.Module], prefix: str) -> dict[str, tuple[int, ...]]:
    """Names, below a prefix, and shapes of all arrays of a module, without computing them."""
    state = nnx.state(nnx.eval_shape(lambda: make(nnx.Rngs(params=0))))
    return {".".join((prefix, *map(str, path))): leaf.shape for path, leaf in nnx.to_flat_state(state)}


def renamed(tensors: dict[str, np.ndarray], rename: Callable[[str], str], source: str) -> dict[str, np.ndarray]:
    """The same tensors under other names.

    Raises:
      ConfigError: two would have the same name.
    """
    result = {rename(name): array for name, array in tensors.items()}
    if len(result) != len(tensors):
        raise ConfigError(f"{source}: it has the same tensors twice, with and without a prefix; remove one of them.")
    return result


def split_off(tensors: dict[str, np.ndarray], pattern: str, kept: Mapping[int, int]) -> tuple[str, ...]:
    """Keep some of a source's numbered layers or stages, under new numbers; remove the others.

    Args:
      tensors: by the source's names; changed in place.
      pattern: a regular expression of the start of a name, in which the group `number` is the number.
      kept: number in the source -> number in the model.

    Returns:
      Names of what was removed.
    """
    removed, renumbered = [], {}
    for name in list(tensors):
        if not (match := re.match(pattern, name)):
            continue
        array, number = tensors.pop(name), int(match["number"])
        if number in kept:
            renumbered[f"{name[: match.start('number')]}{kept[number]}{name[match.end('number') :]}"] = array
        else:
            removed.append(name)
    tensors |= renumbered
    return tuple(sorted(removed))


def convert(
    tensors: dict[str, np.ndarray],
    table: Iterable[Row],
    targets: dict[str, tuple[int, ...]],
    *,
    source: str,
    allowed: Iterable[str] = (),
) -> dict[str, np.ndarray]:
    """Fill all targets by a table.

    Args:
      tensors: what the source has, by its own names.
      table: at most one row fits a target.
      targets: names and shapes of what must be filled.
      source: names the file in the error.
      allowed: patterns (regular expressions) of names that may be left unused.

    Returns:
      A float32 array for every target.

    Raises:
      ConfigError: targets without source, tensors that nothing uses, or other shapes: all of them in one message.
    """
    rows = [(re.compile(_pattern(row.target)), row) for row in table]
    arrays, used, missing, misfits = {}, set(), [], []
    for target, shape in targets.items():
        row, match = next(((row, m) for pattern, row in rows if (m := pattern.fullmatch(target))), (None, None))
        if row is None:
            missing.append(target)
            continue
        numbers = {name: int(number) for name, number in match.groupdict().items()}
        stacked = any("{layer" in name for name in row.sources)
        layers = [numbers | {"layer": i} for i in range(shape[0])] if stacked else [numbers]
        names_LxS = [[_filled(name, numbers) for name in row.sources] for numbers in layers]
        names = [name for layer in names_LxS for name in layer]
        used.update(names)
        if absent := [name for name in names if name not in tensors]:
            missing += absent
            continue
        try:
            parts = [row.transform(*(tensors[name] for name in layer)) for layer in names_LxS]
            array = np.stack(parts) if stacked else parts[0]
        except ValueError:  # axes that the transform does not expect
            array = np.zeros(0)
        if array.shape == shape:
            arrays[target] = np.ascontiguousarray(array, np.float32)
        else:
            found = " and ".join(dict.fromkeys(_shape(tensors[name].shape) for name in names))
            misfits.append(f"{names[0]}{', ...' if names[1:] else ''}: {found}, {target}: {_shape(shape)}")
    unused = sorted(name for name in tensors.keys() - used if not any(re.fullmatch(p, name) for p in allowed))
    problems = {
        "tensors that the model needs are not there": missing,
        "tensors that are there are not known": unused,
        "tensors have another shape": misfits,
    }
    if missing or unused or misfits:
        found = ", ".join(f"{len(names)} {what}{_some(names)}" for what, names in problems.items() if names)
        raise ConfigError(
            f"{source} does not fit the model: {found}; take weights of this architecture, or set the model's sizes to "
            "theirs."
        )
    return arrays


def _pattern(target: str) -> str:
    return re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(target))


def _filled(template: str, numbers: dict[str, int]) -> str:
    return re.sub(r"\{(\w+)(\+1)?\}", lambda match: str(numbers[match[1]] + bool(match[2])), template)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"


def _some(names: list[str], count: int = 4) -> str:
    """A few names in brackets."""
    more = f", and {len(names) - count} more" if len(names) > count else ""
    return f" ({', '.join(names[:count])}{more})"
