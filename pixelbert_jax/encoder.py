"""BERT's encoder (Devlin et al. 2019): one post-LayerNorm block, scanned over the layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from pixelbert_jax.activations import gelu
from pixelbert_jax.config import ModelConfig
from pixelbert_jax.dropout import dropout
from pixelbert_jax.embeddings import make_layer_norm
from pixelbert_jax.initializers import transformer_normal
from pixelbert_jax.products import Linear, linear

_ACTIVATIONS = {"gelu": gelu, "relu": jax.nn.relu}
_REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def attention_probabilities(query_NxHxQxd: jax.Array, key_NxHxSxd: jax.Array, mask_NxS: jax.Array) -> jax.Array:
    """Attention probabilities NxHxQxS of each query over all positions; those where the mask is False get 0."""
    scores_NxHxQxS = jnp.einsum("nhqd,nhsd->nhqs", query_NxHxQxd, key_NxHxSxd, preferred_element_type=jnp.float32)
    scores_NxHxQxS = scores_NxHxQxS / jnp.sqrt(jnp.float32(query_NxHxQxd.shape[-1]))
    scores_NxHxQxS = jnp.where(mask_NxS[:, None, None], scores_NxHxQxS, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores_NxHxQxS, axis=-1).astype(query_NxHxQxd.dtype)


class EncoderLayer(nnx.Module):
    """Self-attention and MLP, each followed by a residual sum and LayerNorm."""

    def __init__(self, config: ModelConfig, *, platform: str, rngs: nnx.Rngs) -> None:
        def linear(inputs: int, outputs: int) -> Linear:
            return Linear(
                inputs,
                outputs,
                platform=platform,
                kernel_init=transformer_normal(config),
                dtype=config.dtype,
                rngs=rngs,
            )

        encoder = config.encoder
        self.config, self.platform = encoder, platform
        self.query_key_value = linear(encoder.width, 3 * encoder.width)
        self.attention_output = linear(encoder.width, encoder.width)
        self.attention_norm = make_layer_norm(config, rngs=rngs)
        self.mlp_inner = linear(encoder.width, encoder.mlp_width)
        self.mlp_output = linear(encoder.mlp_width, encoder.width)
        self.mlp_norm = make_layer_norm(config, rngs=rngs)

    def __call__(self, x_NxSxD: jax.Array, mask_NxS: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        # Matrix products over a flat list of tokens have gradients that the CPU backend does not transpose first.
        x_TxD = x_NxSxD.reshape(-1, x_NxSxD.shape[-1])
        query_key_value = self._query_key_value(x_TxD, len(x_NxSxD))
        return self._transform(x_TxD, query_key_value, mask_NxS, dropout_key).reshape(x_NxSxD.shape)

    def at(
        self, x_NxSxD: jax.Array, mask_NxS: jax.Array, index_NxQ: jax.Array | None, dropout_key: jax.Array | None
    ) -> jax.Array:
        """The layer's output at some positions only, NxQxD. What only the other positions need is not computed.

        Args:
          x_NxSxD: the layer's input.
          mask_NxS: True for positions that are attended to.
          index_NxQ: positions; None: the first one.
          dropout_key: None: no dropout.
        """
        rows, width = len(x_NxSxD), self.config.width
        kernel, bias = (p[...].astype(x_NxSxD.dtype) for p in (self.query_key_value.kernel, self.query_key_value.bias))
        if index_NxQ is None:
            chosen_NxQxD = x_NxSxD[:, :1]
        else:
            chosen_NxQxD = jnp.take_along_axis(x_NxSxD, index_NxQ[..., None], axis=1)
        chosen_TxD = chosen_NxQxD.reshape(-1, width)
        query = self._by_head(linear(chosen_TxD, kernel[:, :width], bias[:width], platform=self.platform), rows)
        flat = linear(x_NxSxD.reshape(-1, width), kernel[:, width:], bias[width:], platform=self.platform)
        key, value = (self._by_head(part, rows) for part in jnp.split(flat, 2, axis=-1))
        return self._transform(chosen_TxD, (query, key, value), mask_NxS, dropout_key).reshape(chosen_NxQxD.shape)

    def attention(self, x_NxSxD: jax.Array, mask_NxS: jax.Array) -> jax.Array:
        """Attention probabilities NxHxSxS of each query (row) over all positions (columns)."""
        query, key, _ = self._query_key_value(x_NxSxD.reshape(-1, x_NxSxD.shape[-1]), len(x_NxSxD))
        return attention_probabilities(query, key, mask_NxS)

    def _query_key_value(self, x_TxD: jax.Array, rows: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Query, key and value of all positions, each NxHxSxd."""
        return tuple(self._by_head(part, rows) for part in jnp.split(self.query_key_value(x_TxD), 3, axis=-1))

    def _by_head(self, x_TxD: jax.Array, rows: int) -> jax.Array:
        """A flat list of the tokens of N rows as NxHxSxd."""
        heads = self.config.heads
        return x_TxD.reshape(rows, -1, heads, self.config.width // heads).transpose(0, 2, 1, 3)

    def _transform(
        self,
        x_TxD: jax.Array,
        query_key_value: tuple[jax.Array, jax.Array, jax.Array],
        mask_NxS: jax.Array,
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        """The layer's output TxD at the query positions, whose input is `x_TxD` (T = N*Q)."""
        keys = (None,) * 3 if dropout_key is None else tuple(jax.random.split(dropout_key, 3))
        query_NxHxQxd, key_NxHxSxd, value_NxHxSxd = query_key_value
        probabilities_NxHxQxS = attention_probabilities(query_NxHxQxd, key_NxHxSxd, mask_NxS)
        probabilities_NxHxQxS = dropout(probabilities_NxHxQxS, self.config.attention_dropout, keys[0])
        attended_NxHxQxd = jnp.einsum("nhqs,nhsd->nhqd", probabilities_NxHxQxS, value_NxHxSxd)
        attended_TxD = self.attention_output(attended_NxHxQxd.transpose(0, 2, 1, 3).reshape(x_TxD.shape))
        x_TxD = self.attention_norm(x_TxD + dropout(attended_TxD, self.config.dropout, keys[1]))
        inner_TxM = _ACTIVATIONS[self.config.activation](self.mlp_inner(x_TxD))
        return self.mlp_norm(x_TxD + dropout(self.mlp_output(inner_TxM), self.config.dropout, keys[2]))


class Encoder(nnx.Module):
    """All layers, with their parameters stacked along a leading axis; compile time does not grow with the depth."""

    def __init__(self, config: ModelConfig, *, platform: str | None = None, rngs: nnx.Rngs) -> None:
        self.config, platform = config.encoder, platform or jax.default_backend()

        def layer(rngs: nnx.Rngs) -> EncoderLayer:
            return EncoderLayer(config, platform=platform, rngs=rngs)

        self.layers = nnx.vmap(layer)(rngs.split(config.encoder.layers))

    def __call__(self, x_NxSxD: jax.Array, mask_NxS: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """Hidden states NxSxD of a sequence; positions where `mask_NxS` is False are never attended to."""
        graphdef, state = nnx.split(self.layers)
        keys = None if dropout_key is None else jax.random.split(dropout_key, self.config.layers)
        return self._scan(graphdef, nnx.as_pure(state), x_NxSxD, mask_NxS, keys)

    def at(
        self,
        x_NxSxD: jax.Array,
        mask_NxS: jax.Array,
        index_NxQ: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states NxQxD at some positions, by default the first.

        For the other positions the last layer computes only keys and values. With dropout, the last layer's draws
        differ from those of `__call__`.
        """
        last = self.config.layers - 1
        if dropout_key is None:
            return self._layer(last).at(self._up_to(last, x_NxSxD, mask_NxS), mask_NxS, index_NxQ, None)
        graphdef, state = nnx.split(self.layers)
        stacked, keys = nnx.as_pure(state), jax.random.split(dropout_key, self.config.layers)
        before = jax.tree.map(lambda each: each[:last], stacked)
        hidden_NxSxD = self._scan(graphdef, before, x_NxSxD, mask_NxS, keys[:last])

        def layer(x: jax.Array, parameters: Any, key: jax.Array) -> jax.Array:
            return nnx.merge(graphdef, parameters).at(x, mask_NxS, index_NxQ, key)

        # Outside a scan, the compiler would merge what is recomputed with the forward pass.
        alone = self._remat(layer, prevent_cse=True)
        return alone(hidden_NxSxD, jax.tree.map(lambda each: each[last], stacked), keys[last])

    def _scan(
        self, graphdef: nnx.GraphDef, parameters: Any, x_NxSxD: jax.Array, mask_NxS: jax.Array, keys: jax.Array | None
    ) -> jax.Array:
        """The output of layers whose parameters are stacked."""

        def layer(x: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
            parameters, key = inputs
            return nnx.merge(graphdef, parameters)(x, mask_NxS, key), None

        return jax.lax.scan(self._remat(layer), x_NxSxD, (parameters, keys), unroll=self.config.scan_unroll)[0]

    def _remat(self, layer: Callable, *, prevent_cse: bool = False) -> Callable:
        """A layer whose backward pass recomputes what the config selects."""
        if self.config.remat == "none":
            return layer
        return jax.checkpoint(layer, policy=_REMAT_POLICIES[self.config.remat], prevent_cse=prevent_cse)

    def attention(self, x_NxSxD: jax.Array, mask_NxS: jax.Array, layer: int) -> jax.Array:
        """Attention probabilities NxHxSxS of one layer, counted from 0."""
        return self._layer(layer).attention(self._up_to(layer, x_NxSxD, mask_NxS), mask_NxS)

    def _layer(self, index: int) -> EncoderLayer:
        graphdef, state = nnx.split(self.layers)
        return nnx.merge(graphdef, jax.tree.map(lambda stacked: stacked[index], nnx.as_pure(state)))

    def _up_to(self, layers: int, x_NxSxD: jax.Array, mask_NxS: jax.Array) -> jax.Array:
        """The output of the first `layers` layers, without dropout."""
        graphdef, state = nnx.split(self.layers)
        stacked = nnx.as_pure(state)

        # By index: a scan over the parameters of the first layers would copy them all first.
        def layer(x: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
            parameters = jax.tree.map(lambda each: jax.lax.dynamic_index_in_dim(each, index, keepdims=False), stacked)
            return nnx.merge(graphdef, parameters)(x, mask_NxS, None), None

        return jax.lax.scan(layer, x_NxSxD, jnp.arange(layers), unroll=self.config.scan_unroll)[0]
