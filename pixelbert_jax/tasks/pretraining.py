"""Pixel-BERT's pre-training (Huang et al. 2020, section 3.4).

Masked language modelling (MLM) and image-text matching (ITM). ImageBERT's pre-training shares the heads and losses.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from pixelbert_jax.activations import gelu
from pixelbert_jax.config import ModelConfig, PixelBertConfig
from pixelbert_jax.embeddings import make_layer_norm
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.initializers import transformer_normal
from pixelbert_jax.models import make_model
from pixelbert_jax.sampling import gather_pixels, sample_pixels
from pixelbert_jax.tasks.heads import ItmHead, mlm_fields, pair_fields
from pixelbert_jax.tasks.masked_tokens import token_losses
from pixelbert_jax.tasks.task import Batch, Field, Sums


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
    """The losses of pre-training."""

    sampled_pixels: int = 100  # pixels that a pair reads in training; 0: all of them. Evaluation reads all
    mlm_weight: float = 1.0
    itm_weight: float = 1.0
    mlm_on_negatives: bool = True  # masked tokens of mismatched pairs count too (docs/fidelity.md)

    def __post_init__(self) -> None:
        if self.sampled_pixels < 0:
            raise ConfigError(f"task.sampled_pixels={self.sampled_pixels} must be 0 (all pixels) or positive.")
        if min(self.mlm_weight, self.itm_weight) < 0 or self.mlm_weight + self.itm_weight == 0:
            raise ConfigError("task.mlm_weight and task.itm_weight must not be negative, and one must be positive.")


class MaskedLanguageHead(nnx.Module):
    """BERT's MLM head: dense, GELU, LayerNorm, then the tied token embeddings, plus a bias."""

    def __init__(self, config: ModelConfig, *, platform: str | None = None, rngs: nnx.Rngs) -> None:
        self.platform = platform or jax.default_backend()
        self.gathers = self.platform == "cpu" and jax.device_count() == 1
        width = config.encoder.width
        self.transform = nnx.Linear(width, width, kernel_init=transformer_normal(config), dtype=config.dtype, rngs=rngs)
        self.layer_norm = make_layer_norm(config, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(config.text.vocabulary_size))

    def __call__(self, hidden_NxMxD: jax.Array, token_VxD: jax.Array) -> jax.Array:
        """Float32 logits NxMxV."""
        x = self.layer_norm(gelu(self.transform(hidden_NxMxD)))
        # On the CPU in float32, whatever the model's dtype: bfloat16 has no fast path for so wide a transposed operand.
        dtype = jnp.float32 if self.platform == "cpu" else x.dtype
        logits = jnp.einsum("nmd,vd->nmv", x.astype(dtype), token_VxD.astype(dtype), preferred_element_type=jnp.float32)
        return logits + self.bias[...][None, None]


class ModelForPretraining(ItmHead, nnx.Module):
    """Pixel-BERT or ImageBERT with the heads of MLM and ITM."""

    def __init__(self, config: ModelConfig, *, platform: str | None = None, rngs: nnx.Rngs) -> None:
        self.model = make_model(config, platform=platform, rngs=rngs)
        self.mlm_head = MaskedLanguageHead(config, platform=platform, rngs=rngs)
        self.itm_head = nnx.Linear(config.encoder.width, 1, kernel_init=transformer_normal(config), rngs=rngs)

    def token_logits(self, hidden_NxSxD: jax.Array, position_NxM: jax.Array) -> jax.Array:
        """Float32 logits NxMxV of the tokens at M positions of each text."""
        return self.logits_of_tokens(jnp.take_along_axis(hidden_NxSxD, position_NxM[..., None], axis=1))

    def logits_of_tokens(self, hidden_NxMxD: jax.Array) -> jax.Array:
        """Float32 logits NxMxV of the tokens whose hidden states are given."""
        return self.mlm_head(hidden_NxMxD, self.model.text_embedding.word[...])


@dataclasses.dataclass(frozen=True)
class PretrainingTask:
    """A batch is B images with K texts each; every pair samples its own random pixels."""

    model: PixelBertConfig
    config: PretrainingConfig
    reported_ids: tuple[int, ...] = ()  # evaluation reports the accuracy on these masked tokens separately

    def fields(self) -> dict[str, Field]:
        return {**pair_fields(self.model), **mlm_fields(self.model)}

    def init(self, *, platform: str | None = None, rngs: nnx.Rngs) -> ModelForPretraining:
        return ModelForPretraining(self.model, platform=platform, rngs=rngs)

    def totals(self, batch: Batch) -> dict[str, jax.Array]:
        return {"pairs": batch["pair_mask"].sum(), "tokens": self._counted_tokens(batch).sum()}

    def loss(
        self,
        module: ModelForPretraining,
        batch: Batch,
        totals: dict[str, jax.Array],
        key: jax.Array | None,
    ) -> tuple[jax.Array, Sums]:
        mlm_sum, itm_sum, sums = mlm_and_itm_losses(
            module,
            *self.forward(module, batch, key),
            batch,
            self._counted_tokens(batch),
            self.reported_ids,
            evaluation=key is None,
        )
        token_count, pair_count = jnp.maximum(totals["tokens"], 1), jnp.maximum(totals["pairs"], 1)
        return self.config.mlm_weight * mlm_sum / token_count + self.config.itm_weight * itm_sum / pair_count, sums

    def forward(self, module: ModelForPretraining, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Hidden states NxMxD at the masked positions and ITM logits N, N = B*K.

        With a key: training, dropout and sampled pixels. Without: evaluation, all pixels.
        """
        text_BxKxT = batch["text"]
        rows, texts, length = text_BxKxT.shape
        pixels_BxPxD, mask_BxP = module.model.encode_visual(batch, train=key is not None)
        sample_key = dropout_key = None
        if key is not None:
            sample_key, dropout_key = jax.random.split(key)
            dropout_key = jax.random.fold_in(dropout_key, batch["row"][0])  # differs by micro-batch
        if sample_key is not None and self.config.sampled_pixels:
            row_keys = jax.vmap(jax.random.fold_in, (None, 0))(sample_key, batch["row"])
            index_BxKxS, mask_BxKxS = sample_pixels(row_keys, mask_BxP, self.config.sampled_pixels, texts)
            pixels_BxKxSxD = gather_pixels(pixels_BxPxD, index_BxKxS)
        else:
            pixels_BxKxSxD = jnp.repeat(pixels_BxPxD[:, None], texts, axis=1)
            mask_BxKxS = jnp.repeat(mask_BxP[:, None], texts, axis=1)
        position_NxM = batch["mlm_position"].reshape(rows * texts, -1)
        hidden_NxQxD = module.model.fuse_at(
            text_BxKxT.reshape(rows * texts, length),
            batch["text_mask"].reshape(rows * texts, length),
            pixels_BxKxSxD.reshape(rows * texts, *pixels_BxKxSxD.shape[2:]),
            mask_BxKxS.reshape(rows * texts, -1),
            dropout_key,
            index_NxQ=jnp.concatenate([jnp.zeros_like(position_NxM[:, :1]), position_NxM], axis=1),
        )
        return hidden_NxQxD[:, 1:], module.itm_logit(hidden_NxQxD)

    def _counted_tokens(self, batch: Batch) -> jax.Array:
        """Masked tokens that count in the loss, BxKxM."""
        counted = batch["mlm_mask"] & batch["pair_mask"][..., None]
        return counted if self.config.mlm_on_negatives else counted & (batch["itm_label"] == 1)[..., None]


def mlm_and_itm_losses(
    module: ModelForPretraining,
    hidden_NxMxD: jax.Array,
    itm_logit_N: jax.Array,
    batch: Batch,
    counted_BxKxM: jax.Array,
    reported_ids: tuple[int, ...],
    *,
    evaluation: bool,
) -> tuple[jax.Array, jax.Array, Sums]:
    """The losses of MLM and ITM, each summed, and their metrics.

    Args:
      module: has the heads.
      hidden_NxMxD: hidden states at the masked positions of N = B*K texts.
      itm_logit_N: logits of ITM.
      batch: with `mlm_fields`.
      counted_BxKxM: masked tokens that count.
      reported_ids: in evaluation, also report the accuracy on these tokens.
      evaluation: also report the accuracy in matched pairs.
    """
    pairs = itm_logit_N.shape[0]
    target_NxM = batch["mlm_target"].reshape(pairs, -1)
    counted_NxM = counted_BxKxM.reshape(pairs, -1)
    token_loss_NxM, right_NxM = token_losses(
        module.logits_of_tokens, hidden_NxMxD, target_NxM, counted_NxM, gather=module.mlm_head.gathers
    )
    mlm_sum = token_loss_NxM.sum()
    label_N, pair_mask_N = batch["itm_label"].reshape(pairs), batch["pair_mask"].reshape(pairs)
    pair_loss_N = optax.sigmoid_binary_cross_entropy(itm_logit_N, label_N.astype(jnp.float32))
    itm_sum = jnp.where(pair_mask_N, pair_loss_N, 0).sum()
    sums = {
        "mlm_loss": (mlm_sum, counted_NxM.sum()),
        "itm_loss": (itm_sum, pair_mask_N.sum()),
        "mlm_accuracy": (right_NxM.sum(), counted_NxM.sum()),
        "itm_accuracy": ((((itm_logit_N > 0) == label_N) & pair_mask_N).sum(), pair_mask_N.sum()),
    }
    if evaluation:
        matched_NxM = counted_NxM & (label_N == 1)[:, None]
        sums["mlm_accuracy_matched"] = ((right_NxM & matched_NxM).sum(), matched_NxM.sum())
        if reported_ids:
            chosen_NxM = matched_NxM & jnp.isin(target_NxM, jnp.array(reported_ids))
            sums["mlm_accuracy_words"] = ((right_NxM & chosen_NxM).sum(), chosen_NxM.sum())
    return mlm_sum, itm_sum, sums
