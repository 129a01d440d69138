"""BERT's weights from Hugging Face: BertModel, BertForMaskedLM and BertForPreTraining, old names and new."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from pixelbert_jax.config import ModelConfig
from pixelbert_jax.embeddings import TextEmbedding
from pixelbert_jax.encoder import Encoder
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.pretraining import MaskedLanguageHead
from pixelbert_jax.weights.conversion import (
    Loaded,
    Row,
    convert,
    first_row,
    linear,
    plus_first_row,
    renamed,
    shapes,
    split_off,
)
from pixelbert_jax.weights.files import check_config, find, read_config, read_published
from pixelbert_jax.weights.resizing import TOKEN_TABLES, resized


def _linear(target: str, *sources: str) -> tuple[Row, ...]:
    kernel = Row(f"{target}.kernel", tuple(f"{source}.weight" for source in sources), linear)
    return kernel, Row(f"{target}.bias", tuple(f"{source}.bias" for source in sources))


def _norm(target: str, source: str) -> tuple[Row, ...]:
    return Row(f"{target}.scale", (f"{source}.weight",)), Row(f"{target}.bias", (f"{source}.bias",))


_WORD, _POSITION = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
_SELF = "encoder.layer.{layer}.attention.self"
_LAYER = r"encoder\.layer\.(?P<number>\d+)\."

_TYPES = "embeddings.token_type_embeddings.weight"
# Text is the first of BERT's two types; its vector is added at every position.
_FOLDED_TYPE = (Row("model.text_embedding.position", (_POSITION, _TYPES), plus_first_row),)
_OWN_TYPE = (
    Row("model.text_embedding.position", (_POSITION,)),
    Row("model.text_embedding.segment", (_TYPES,), first_row),
)
TABLE = (
    Row("model.text_embedding.word", (_WORD,)),
    *_norm("model.text_embedding.layer_norm", "embeddings.LayerNorm"),
    *_linear("model.encoder.layers.query_key_value", f"{_SELF}.query", f"{_SELF}.key", f"{_SELF}.value"),
    *_linear("model.encoder.layers.attention_output", "encoder.layer.{layer}.attention.output.dense"),
    *_norm("model.encoder.layers.attention_norm", "encoder.layer.{layer}.attention.output.LayerNorm"),
    *_linear("model.encoder.layers.mlp_inner", "encoder.layer.{layer}.intermediate.dense"),
    *_linear("model.encoder.layers.mlp_output", "encoder.layer.{layer}.output.dense"),
    *_norm("model.encoder.layers.mlp_norm", "encoder.layer.{layer}.output.LayerNorm"),
    *_linear("mlm_head.transform", "cls.predictions.transform.dense"),
    *_norm("mlm_head.layer_norm", "cls.predictions.transform.LayerNorm"),
    Row("mlm_head.bias", ("cls.predictions.bias",)),
)
_ALLOWED = (r"pooler\..*", r"cls\.seq_relationship\..*", r"embeddings\.position_ids")
# Values of fields that an old config.json does not have.
_DEFAULTS = {"hidden_act": "gelu", "layer_norm_eps": 1e-12}


def bert_parameters(
    name_or_path: str,
    config: ModelConfig,
    *,
    layers: tuple[int, ...] = (),
    first_position: Literal["own", "mean"] = "own",
    resize: bool = False,
    vocabularies: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Loaded:
    """Text embedding, encoder and, where the source has it, the head for masked tokens.

    A source with more layers than the model gives its leading ones, or those that `layers` names.

    The vector of token type 0 is folded into the positions of a model whose text has no segment, so that text alone
    gives BERT's result. A ReLU model's head is skipped, because ours has GELU. Without config.json (a single file)
    only shapes are checked, not the number of heads.

    Args:
      name_or_path: a file, a folder, or a Hugging Face name.
      config: the model that takes the weights.
      layers: numbers of the source's layers, counted from 0 as in its names, one for each layer of the model, in
        ascending order; empty: the leading ones.
      first_position: the embedding of position 0, which [CLS] has: the file's own, or the mean of the other positions.
      resize: where the vocabulary or the positions have another size, copy the rows that fit.
      vocabularies: tokens of the file and of the model, by id: each token keeps its vector. None: one vocabulary begins
        with the other.

    Returns:
      Arrays by their names in ModelForPretraining: `model.text_embedding.word` (VxD), ...; and the names of the tensors
      of other layers, which stay unused.

    Raises:
      ConfigError: no such weights, broken ones, or ones that do not fit the config.
    """
    path = find(name_or_path)
    found = read_config(path)
    _check_config(found, config, name_or_path)
    tensors = renamed(read_published(path, (_WORD, f"bert.{_WORD}")), _modern, name_or_path)
    chosen = _chosen_layers(tensors, layers, config.encoder.layers, name_or_path)
    unused = split_off(tensors, _LAYER, {number: i for i, number in enumerate(chosen)})
    _untie(tensors, "cls.predictions.decoder.weight", _WORD, name_or_path)
    _untie(tensors, "cls.predictions.decoder.bias", "cls.predictions.bias", name_or_path)
    rows = {"vocabulary_size": _WORD, "max_positions": _POSITION}
    sizes = {field: len(tensors[name]) for field, name in rows.items() if name in tensors and tensors[name].ndim}
    changed = [field for field, size in sizes.items() if size != getattr(config.text, field)]
    if changed and not resize:
        found = " and ".join(f"{sizes[field]} rows in {rows[field]}" for field in changed)
        ours = " and ".join(f"model.text.{field}={getattr(config.text, field)}" for field in changed)
        raise ConfigError(
            f"{name_or_path} has {found}, the config {ours}; set the config to the file's, or init.resize=true to copy "
            "the rows that fit."
        )
    theirs = dataclasses.replace(config, text=dataclasses.replace(config.text, **sizes))
    targets = shapes(lambda rngs: TextEmbedding(theirs, rngs=rngs), "model.text_embedding")
    targets |= shapes(lambda rngs: Encoder(theirs, rngs=rngs), "model.encoder")
    allowed = _ALLOWED
    if config.encoder.activation != "gelu":
        allowed += (r"cls\.predictions\..*",)
    elif any(name.startswith("cls.predictions.") for name in tensors):
        targets |= shapes(lambda rngs: MaskedLanguageHead(theirs, rngs=rngs), "mlm_head")
    table = (*TABLE, *(_OWN_TYPE if config.text.segment else _FOLDED_TYPE))
    arrays = convert(tensors, table, targets, source=name_or_path, allowed=allowed)
    if first_position == "mean":
        position_PxD = arrays["model.text_embedding.position"]
        position_PxD[0] = position_PxD[1:].mean(0)
    sizes = dict.fromkeys(TOKEN_TABLES, config.text.vocabulary_size) | {
        "model.text_embedding.position": config.text.max_positions
    }
    return dataclasses.replace(resized(arrays, sizes, vocabularies), unused=unused)


def _chosen_layers(
    tensors: dict[str, np.ndarray], layers: tuple[int, ...], wanted: int, source: str
) -> tuple[int, ...]:
    """Numbers of the source's layers that the model takes.

    Raises:
      ConfigError: the choice does not fit the model or the source.
    """
    there = {int(match["number"]) for name in tensors if (match := re.match(_LAYER, name))}
    if not layers:
        return tuple(range(wanted))
    if len(layers) != wanted or list(layers) != sorted(set(layers)):
        raise ConfigError(
            f"init.text_layers={layers} must name {wanted} different layers in ascending order, one for each of "
            "model.encoder.layers; change one of the two."
        )
    if missing := sorted(set(layers) - there):
        raise ConfigError(
            f"init.text_layers={layers}: {source} has no layer {missing[0]} (it has {len(there)}, counted from 0); "
            "choose among its own."
        )
    return layers


def _modern(name: str) -> str:
    """Without the prefix of a model with heads, and with today's names of LayerNorm's parameters."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name.removeprefix("bert."))
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _untie(tensors: dict[str, np.ndarray], copy: str, original: str, source: str) -> None:
    """Drop a tensor that repeats another one; a file may have either or both."""
    if copy in tensors:
        array = tensors.pop(copy)
        if not np.array_equal(tensors.setdefault(original, array), array):
            raise ConfigError(
                f"{source}: {copy} differs from {original}, but this model has one for both; tie them first."
            )


def _check_config(found: dict[str, Any], config: ModelConfig, source: str) -> None:
    encoder, theirs = config.encoder, found.get("num_hidden_layers")
    deeper = isinstance(theirs, int) and theirs > encoder.layers  # the others stay unused
    expected = {
        "hidden_act": (encoder.activation, "model.encoder.activation"),
        "layer_norm_eps": (encoder.layer_norm_epsilon, "model.encoder.layer_norm_epsilon"),
        "num_attention_heads": (encoder.heads, "model.encoder.heads"),
        "num_hidden_layers": (theirs if deeper else encoder.layers, "model.encoder.layers"),
        "hidden_size": (encoder.width, "model.encoder.width"),
        "intermediate_size": (encoder.mlp_width, "model.encoder.mlp_width"),
        "model_type": ("bert", ""),
        "position_embedding_type": ("absolute", ""),
        "is_decoder": (False, ""),
    }
    check_config(_DEFAULTS | found if found else {}, expected, source)
