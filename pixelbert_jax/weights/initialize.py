"""What a training run starts from: weights from elsewhere, put into its fresh state."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from pixelbert_jax.config import ModelConfig, PixelBertConfig, check_choices
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.training.step import TrainState
from pixelbert_jax.weights.bert import bert_parameters
from pixelbert_jax.weights.conversion import Loaded
from pixelbert_jax.weights.resnet import resnet_parameters


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Where initial values come from. Names are files, folders or Hugging Face names; empty: random initialisation."""

    text: str = ""  # BERT
    text_layers: tuple[int, ...] = ()  # of BERT's layers, counted from 0, those to take; empty: the leading ones
    # Position 0's embedding: in some models, as all-MiniLM-L6-v2, its own makes [CLS] a sink of attention that is the
    # same for every text, so that image-text matching learns late or never.
    text_first_position: Literal["own", "mean"] = "own"  # mean: of the other positions
    backbone: str = ""  # ResNet or ResNeXt
    checkpoint: str = ""  # another run's folder
    checkpoint_choice: Literal["best", "last"] = "best"  # of that run; the last where it kept no best one
    checkpoint_parts: Literal["all", "backbone", "transformer"] = "all"  # of that run, those to take
    # Other vocabularies and position tables: tokens keep their vectors by their string, positions by their index.
    resize: bool = False

    def __post_init__(self) -> None:
        check_choices(self, "init")


def load_initial(
    config: InitConfig, model: ModelConfig, vocabularies: tuple[Sequence[str], Sequence[str]] | None = None
) -> dict[str, Loaded]:
    """The weights that `init.text` and `init.backbone` name, by a label of the source.

    Args:
      config: names them.
      model: that takes the weights.
      vocabularies: tokens of init.text and tokens of the run, by id, if init.resize has to match them.

    Raises:
      ConfigError: weights that are not there, are broken, or do not fit the model.
    """
    loaded = {}
    if config.backbone and isinstance(model, PixelBertConfig):
        loaded[f"init.backbone={config.backbone}"] = resnet_parameters(config.backbone, model.backbone)
    if config.text:
        loaded[f"init.text={config.text}"] = bert_parameters(
            config.text,
            model,
            layers=config.text_layers,
            first_position=config.text_first_position,
            resize=config.resize,
            vocabularies=vocabularies,
        )
    return loaded


def apply(state: TrainState, loaded: dict[str, Loaded]) -> tuple[TrainState, dict[str, Any]]:
    """Put arrays into parameters and statistics, on the shardings that these have; a moving average starts from them.

    Args:
      state: a fresh one; its optimizer's moments are kept.
      loaded: arrays by source. If two sources have a name, the later one counts. Parts of a head that the state does
        not have are skipped.

    Returns:
      The new state, and a report that JSON can hold: "loaded" (name -> source), "partial" (name -> how many rows,
      where the source had only some), "fresh" (names that keep their initial values), "left_out" (names that this
      state does not have), "unused" (source -> its tensors of layers or stages that the model does not have), "cut"
      (name -> how many rows of the source the model does not have), "parameters" (source or "fresh" -> count).

    Raises:
      ConfigError: names or shapes that do not fit, all of them in one message.
    """
    trees = (state.params, state.rest)
    leaves_with_paths, structure = jax.tree_util.tree_flatten_with_path(trees)
    # The first entry of a path tells parameters from statistics; names are unique without it.
    leaves = {jax.tree_util.keystr(path[1:], simple=True, separator="."): leaf for path, leaf in leaves_with_paths}
    parts = {name.split(".")[0] for name in leaves}
    new, sources, partial, skipped, misfits = dict(leaves), {}, {}, [], []
    cut: dict[str, int] = {}
    for source, content in loaded.items():
        for name, array in content.arrays.items():
            if name.split(".")[0] not in parts:
                skipped.append(name)
                continue
            rows = content.partial.get(name)
            if (leaf := leaves.get(name)) is None:
                misfits.append(f"{name} of {source} is not in the model")
            elif array.shape != (leaf.shape if rows is None else (len(rows), *leaf.shape[1:])):
                misfits.append(f"{name} of {source} has the shape {array.shape}, the model {leaf.shape}")
            else:
                new[name], sources[name] = _as_leaf(array, leaf, rows), source
                partial.pop(name, None)
                partial |= {} if rows is None else {name: len(rows)}
                cut.pop(name, None)
                cut |= {name: content.cut[name]} if name in content.cut else {}
    if misfits:
        raise ConfigError(
            f"{len(misfits)} loaded arrays do not fit the model: {'; '.join(misfits[:4])}"
            f"{' and others' if len(misfits) > 4 else ''}; take weights of this architecture, change the config's, or, "
            "where only the vocabulary or the numbers of positions differ, set init.resize=true."
        )
    params, rest = jax.tree.unflatten(structure, new.values())
    ema = jax.tree.map(jnp.copy, params) if state.ema else state.ema
    counts: dict[str, int] = collections.Counter()
    for name, leaf in leaves.items():
        counts[sources.get(name, "fresh")] += leaf.size
    report = {
        "loaded": sources,
        "partial": partial,
        "fresh": [name for name in leaves if name not in sources],
        "left_out": skipped,
        "unused": {source: list(content.unused) for source, content in loaded.items() if content.unused},
        "cut": cut,
        "parameters": dict(counts),
    }
    return state._replace(params=params, rest=rest, ema=ema), report


def summary_lines(report: dict[str, Any]) -> list[str]:
    """A few lines for people: what came from where, and what is fresh."""
    tensors = collections.Counter(report["loaded"].values())
    lines = [
        f"{source}: {count} tensors, {report['parameters'][source]:,} numbers" for source, count in tensors.items()
    ]
    lines += [f"{name}: only {rows:,} of its rows; the others are fresh" for name, rows in report["partial"].items()]
    lines += [f"{name}: {rows:,} rows of the source are not in the model" for name, rows in report["cut"].items()]
    lines += [
        f"{source}: {len(names)} tensors of layers that the model does not have stay unused ({names[0]} and others)"
        for source, names in report["unused"].items()
    ]
    if report["fresh"]:
        count = report["parameters"]["fresh"]
        lines.append(f"fresh: {len(report['fresh'])} tensors, {count:,} numbers{_by_part(report['fresh'])}")
    if report["left_out"]:
        lines.append(f"not used by this task: {len(report['left_out'])} tensors{_by_part(report['left_out'])}")
    return lines


def _by_part(names: list[str]) -> str:
    """How many names lie in each head, and in each part of `model`."""
    parts = [".".join(name.split(".")[: 2 if name.startswith("model.") else 1]) for name in names]
    return f" ({', '.join(f'{part} {count}' for part, count in collections.Counter(parts).items())})"


def _as_leaf(array: np.ndarray, leaf: jax.Array, rows: np.ndarray | None) -> jax.Array:
    """The array with the leaf's sharding, or the leaf with some of its rows replaced."""
    array = array.astype(leaf.dtype)
    if rows is None:
        # Each device gets a copy: a donated buffer must not be shared.
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: np.array(array[index]))
    return jax.jit(lambda leaf, array: leaf.at[rows].set(array), out_shardings=leaf.sharding)(leaf, array)
