"""ImageBERT's pre-training (Qi et al. 2020, section 3.3).

Masked language modelling (MLM), masked object classification (MOC), masked region feature regression (MRFR) and
image-text matching (ITM).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from pixelbert_jax.config import ImageBertConfig, check_choices
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.initializers import transformer_normal
from pixelbert_jax.tasks.heads import mlm_fields, pair_fields
from pixelbert_jax.tasks.pretraining import ModelForPretraining, mlm_and_itm_losses
from pixelbert_jax.tasks.task import Batch, Field, Sums


@dataclasses.dataclass(frozen=True)
class RegionsPretrainingConfig:
    """The four losses; the paper's sum has no weights."""

    mlm_weight: float = 1.0  # masked tokens
    moc_weight: float = 1.0  # masked regions: the detector's class
    mrfr_weight: float = 1.0  # masked regions: the feature
    itm_weight: float = 1.0  # image-text matching
    conditional_mask: bool = True  # only matched pairs count in the first three losses
    feature_error: Literal["sum", "mean"] = "sum"  # of the squares of a feature's numbers

    def __post_init__(self) -> None:
        check_choices(self, "task")
        weights = (self.mlm_weight, self.moc_weight, self.mrfr_weight, self.itm_weight)
        if min(weights) < 0 or not any(weights):
            raise ConfigError(
                "task.mlm_weight, moc_weight, mrfr_weight and itm_weight must not be negative, and one positive."
            )


class ImageBertForPretraining(ModelForPretraining):
    """ImageBERT with the heads of its four tasks; those of the regions are single layers."""

    def __init__(self, config: ImageBertConfig, *, platform: str | None = None, rngs: nnx.Rngs) -> None:
        super().__init__(config, platform=platform, rngs=rngs)
        width, normal = config.encoder.width, transformer_normal(config)
        self.class_head = nnx.Linear(width, config.regions.classes, kernel_init=normal, rngs=rngs)
        self.feature_head = nnx.Linear(width, config.regions.feature_size, kernel_init=normal, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class RegionsPretrainingTask:
    """A batch is B images with K texts each; every pair masks its own regions."""

    model: ImageBertConfig
    config: RegionsPretrainingConfig
    reported_ids: tuple[int, ...] = ()  # evaluation reports the accuracy on these masked tokens separately

    def fields(self) -> dict[str, Field]:
        last_class = self.model.regions.classes - 1
        return {
            **pair_fields(self.model),
            **mlm_fields(self.model),
            "region_class": Field(("B", "R"), "int32", 0, last_class, "the detector's class, 0 where there is none"),
            "region_target": Field(("B", "K", "R"), "bool", 0, 1, "True for masked regions"),
            "region_zeroed": Field(("B", "K", "R"), "bool", 0, 1, "True for masked regions whose feature is zeroed"),
        }

    def init(self, *, platform: str | None = None, rngs: nnx.Rngs) -> ImageBertForPretraining:
        return ImageBertForPretraining(self.model, platform=platform, rngs=rngs)

    def totals(self, batch: Batch) -> dict[str, jax.Array]:
        return {
            "pairs": batch["pair_mask"].sum(),
            "tokens": self._counted(batch, "mlm_mask").sum(),
            "regions": self._counted(batch, "region_target").sum(),
        }

    def loss(
        self,
        module: ImageBertForPretraining,
        batch: Batch,
        totals: dict[str, jax.Array],
        key: jax.Array | None,
    ) -> tuple[jax.Array, Sums]:
        """Each loss is averaged over what it counts: tokens, regions, regions, pairs. Without weight it has no metrics.

        In evaluation, the metrics of regions count zeroed regions in matched pairs, whatever the loss counts.
        """
        hidden_NxMxD, itm_logit_N, hidden_NxRxD = self.forward(module, batch, key)
        mlm_sum, itm_sum, sums = mlm_and_itm_losses(
            module,
            hidden_NxMxD,
            itm_logit_N,
            batch,
            self._counted(batch, "mlm_mask"),
            self.reported_ids,
            evaluation=key is None,
        )
        pairs, texts = len(itm_logit_N), batch["text"].shape[1]
        counted_BxKxR = self._counted(batch, "region_target")
        if key is None:
            # In evaluation only matched pairs count, in every config, and no feature that the model could copy.
            matched_BxK = batch["pair_mask"] & (batch["itm_label"] == 1)
            counted_BxKxR = batch["region_zeroed"] & matched_BxK[..., None]
        counted_NxR = counted_BxKxR.reshape(pairs, -1)
        class_NxR = jnp.repeat(batch["region_class"], texts, axis=0)
        class_logits = module.class_head(hidden_NxRxD)
        class_loss_NxR = optax.softmax_cross_entropy_with_integer_labels(class_logits, class_NxR)
        moc_sum = jnp.where(counted_NxR, class_loss_NxR, 0).sum()
        feature_NxRxF = jnp.repeat(batch["regions"], texts, axis=0).astype(jnp.float32)
        square_NxR = jnp.square(module.feature_head(hidden_NxRxD) - feature_NxRxF).sum(-1)
        if self.config.feature_error == "mean":
            square_NxR /= self.model.regions.feature_size
        mrfr_sum = jnp.where(counted_NxR, square_NxR, 0).sum()
        right_NxR = (class_logits.argmax(-1) == class_NxR) & counted_NxR
        count = counted_NxR.sum()
        if self.config.moc_weight:
            sums |= {"moc_loss": (moc_sum, count), "moc_accuracy": (right_NxR.sum(), count)}
        if self.config.mrfr_weight:
            sums["mrfr_loss"] = (mrfr_sum, count)
        tokens, regions, all_pairs = (jnp.maximum(totals[name], 1) for name in ("tokens", "regions", "pairs"))
        loss = (
            self.config.mlm_weight * mlm_sum / tokens
            + self.config.moc_weight * moc_sum / regions
            + self.config.mrfr_weight * mrfr_sum / regions
            + self.config.itm_weight * itm_sum / all_pairs
        )
        return loss, sums

    def forward(
        self, module: ImageBertForPretraining, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Hidden states NxMxD at masked positions, ITM logits N, and hidden states NxRxD of the regions; N = B*K.

        With a key: training, with dropout.
        """
        rows, texts, length = batch["text"].shape
        pairs = rows * texts

        def repeated(name: str) -> jax.Array:
            return jnp.repeat(batch[name], texts, axis=0)

        zeroed_NxRx1 = batch["region_zeroed"].reshape(pairs, -1, 1)
        visual_NxPxD, visual_mask_NxP = module.model.encode_regions(
            jnp.where(zeroed_NxRx1, jnp.zeros((), batch["regions"].dtype), repeated("regions")),
            repeated("boxes"),
            repeated("region_mask"),
            repeated("whole") if "whole" in batch else None,
        )
        dropout_key = None if key is None else jax.random.fold_in(key, batch["row"][0])  # differs by micro-batch
        hidden_NxSxD = module.model.fuse(
            batch["text"].reshape(pairs, length),
            batch["text_mask"].reshape(pairs, length),
            visual_NxPxD,
            visual_mask_NxP,
            dropout_key,
        )
        position_NxM = batch["mlm_position"].reshape(pairs, -1)
        hidden_NxMxD = jnp.take_along_axis(hidden_NxSxD, position_NxM[..., None], axis=1)
        hidden_NxRxD = hidden_NxSxD[:, -batch["boxes"].shape[1] :].astype(jnp.float32)
        return hidden_NxMxD, module.itm_logit(hidden_NxSxD), hidden_NxRxD

    def _counted(self, batch: Batch, name: str) -> jax.Array:
        """Masked tokens or regions that count in the losses, BxKx."""
        counted = batch[name] & batch["pair_mask"][..., None]
        return counted & (batch["itm_label"] == 1)[..., None] if self.config.conditional_mask else counted
