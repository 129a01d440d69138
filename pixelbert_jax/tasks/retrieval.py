"""Image-text retrieval: each image's true text against texts of other images (paper section 4.2.3)."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from pixelbert_jax.config import ModelConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.initializers import transformer_normal
from pixelbert_jax.models import make_model
from pixelbert_jax.tasks.heads import ItmHead, pair_fields
from pixelbert_jax.tasks.task import Batch, Field, Sums

_NEVER = -1e30  # logit of a candidate that does not count


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """The candidates of each image, and the weights of the losses over them."""

    negatives: int = 20  # random texts of other images
    hardest_negatives: int = 5  # how many of them get a gradient: those with the highest scores
    image_negatives: bool = False  # also each text against random other images of the batch, in the same numbers
    multiclass_weight: float = 1.0  # Pixel-BERT's loss: which of the candidates is true
    binary_weight: float = 0.0  # ImageBERT's best: whether each candidate is true, averaged over the candidates
    triplet_weight: float = 0.0  # the true pair's probability above the hardest other's, by the margin
    margin: float = 0.2  # UNITER's; ImageBERT does not state its own

    def __post_init__(self) -> None:
        weights = (self.multiclass_weight, self.binary_weight, self.triplet_weight)
        if min(weights) < 0 or not any(weights):
            raise ConfigError(
                "task.multiclass_weight, binary_weight and triplet_weight must not be negative, and one positive."
            )
        if not 0 < self.hardest_negatives <= self.negatives:
            raise ConfigError(
                f"task.hardest_negatives={self.hardest_negatives} must be at least 1 and at most task.negatives="
                f"{self.negatives}."
            )


class ModelForRetrieval(ItmHead, nnx.Module):
    """Pixel-BERT or ImageBERT with the image-text matching (ITM) head, which starts from pre-training's."""

    def __init__(self, config: ModelConfig, *, platform: str | None = None, rngs: nnx.Rngs) -> None:
        self.model = make_model(config, platform=platform, rngs=rngs)
        self.itm_head = nnx.Linear(config.encoder.width, 1, kernel_init=transformer_normal(config), rngs=rngs)


@dataclasses.dataclass(frozen=True)
class RetrievalTask:
    """A batch is B images with 1 + negatives texts each, the true one first."""

    model: ModelConfig
    config: RetrievalConfig

    def fields(self) -> dict[str, Field]:
        return {
            **pair_fields(self.model),
            "image_group": Field(("B",), "int32", 0, None, "the same number for rows with the same image"),
        }

    def init(self, *, platform: str | None = None, rngs: nnx.Rngs) -> ModelForRetrieval:
        return ModelForRetrieval(self.model, platform=platform, rngs=rngs)

    def totals(self, batch: Batch) -> dict[str, jax.Array]:
        return {"rows": batch["pair_mask"][:, 0].sum()}

    def loss(
        self, module: ModelForRetrieval, batch: Batch, totals: dict[str, jax.Array], key: jax.Array | None
    ) -> tuple[jax.Array, Sums]:
        """`candidate_losses` of the true pair and the hardest mismatched ones, averaged over the rows.

        All candidates are scored first, without dropout or gradient. The hardest ones are then run again with both.
        This is cheaper than keeping what the gradient of all candidates would need.
        """
        visual = module.model.encode_visual(batch)
        text, text_mask, used = batch["text"], batch["text_mask"], batch["pair_mask"]
        rows = jnp.arange(len(text))
        own = jnp.broadcast_to(rows[:, None], used.shape)
        sides = [(own, text, text_mask, used)]
        if self.config.image_negatives and key is not None and len(text) > 1:
            image_key = jax.random.fold_in(jax.random.fold_in(key, 1), batch["row"][0])
            sides.append(self._other_images(batch, image_key))
        loss = right = 0.0
        for side, (image_BxK, text_BxKxT, mask_BxKxT, used_BxK) in enumerate(sides):
            logit_BxK = self._score(module, visual, image_BxK, text_BxKxT, mask_BxKxT, None)
            logit_BxK = jax.lax.stop_gradient(jnp.where(used_BxK, logit_BxK, _NEVER))
            right += ((logit_BxK[:, 0] > logit_BxK[:, 1:].max(-1)) & used_BxK[:, 0]).sum()
            # A small batch may have fewer other images than hardest_negatives.
            _, hard_BxH = jax.lax.top_k(logit_BxK[:, 1:], min(self.config.hardest_negatives, used_BxK.shape[1] - 1))
            chosen_BxC = jnp.concatenate([jnp.zeros_like(hard_BxH[:, :1]), hard_BxH + 1], axis=1)
            dropout_key = None
            if key is not None:
                dropout_key = jax.random.fold_in(jax.random.fold_in(key, 2 + side), batch["row"][0])
            take = jax.vmap(lambda x, i: x[i])
            hard = (take(x, chosen_BxC) for x in (image_BxK, text_BxKxT, mask_BxKxT))
            logit_BxC = self._score(module, visual, *hard, dropout_key)
            loss_B = candidate_losses(logit_BxC, take(used_BxK, chosen_BxC), self.config)
            loss += jnp.where(used_BxK[:, 0], loss_B, 0).sum()
        count = used[:, 0].sum()
        sums = {
            "retrieval_loss": (loss, count * len(sides)),
            "retrieval_accuracy": (right, count * len(sides)),
        }
        return loss / jnp.maximum(totals["rows"], 1), sums

    def _score(
        self,
        module: ModelForRetrieval,
        visual: tuple[jax.Array, jax.Array],
        image_BxK: jax.Array,
        text_BxKxT: jax.Array,
        mask_BxKxT: jax.Array,
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        """Logits BxK of texts with the images of the rows `image_BxK`; `visual` is the result of encode_visual."""
        image_N, length = image_BxK.reshape(-1), text_BxKxT.shape[-1]
        hidden = module.model.fuse_at(
            text_BxKxT.reshape(-1, length),
            mask_BxKxT.reshape(-1, length),
            visual[0][image_N],
            visual[1][image_N],
            dropout_key,
        )
        return module.itm_logit(hidden).reshape(image_BxK.shape)

    def _other_images(self, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Each row's true text with its own image first, then random other images of the (micro-)batch."""
        count = len(batch["text"])
        order_BxB = jax.random.uniform(key, (count, count))
        same_BxB = batch["image_group"][:, None] == batch["image_group"][None]
        allowed_BxB = ~same_BxB & batch["pair_mask"][None, :, 0]
        number = min(self.config.negatives, count - 1)
        _, other_BxN = jax.lax.top_k(jnp.where(allowed_BxB, order_BxB, -1.0), number)
        image_BxK = jnp.concatenate([jnp.arange(count)[:, None], other_BxN], axis=1)
        valid_BxN = jnp.take_along_axis(allowed_BxB, other_BxN, axis=1) & batch["pair_mask"][:, :1]
        used_BxK = jnp.concatenate([batch["pair_mask"][:, :1], valid_BxN], axis=1)
        spread = (count, number + 1, batch["text"].shape[-1])
        text_BxKxT = jnp.broadcast_to(batch["text"][:, :1], spread)
        return image_BxK, text_BxKxT, jnp.broadcast_to(batch["text_mask"][:, :1], spread), used_BxK


def candidate_losses(logit_BxC: jax.Array, used_BxC: jax.Array, config: RetrievalConfig) -> jax.Array:
    """Weighted sum of the losses of each row's candidates, B; the first one is true.

    Multi-class: Pixel-BERT, section 4.2.3; all three: ImageBERT, section 4.2.
    """
    loss_B = jnp.zeros(len(logit_BxC))
    if config.multiclass_weight:
        logits = jnp.where(used_BxC, logit_BxC, _NEVER)
        first_B = jnp.zeros(len(logit_BxC), jnp.int32)
        loss_B += config.multiclass_weight * optax.softmax_cross_entropy_with_integer_labels(logits, first_B)
    if config.binary_weight:
        is_true_BxC = jnp.broadcast_to(jnp.arange(logit_BxC.shape[1]) == 0, logit_BxC.shape).astype(jnp.float32)
        each_BxC = jnp.where(used_BxC, optax.sigmoid_binary_cross_entropy(logit_BxC, is_true_BxC), 0)
        loss_B += config.binary_weight * each_BxC.sum(1) / jnp.maximum(used_BxC.sum(1), 1)
    if config.triplet_weight:
        probability_BxC = jnp.where(used_BxC, jax.nn.sigmoid(logit_BxC), -jnp.inf)
        hardest_B = probability_BxC[:, 1:].max(1)
        loss_B += config.triplet_weight * jax.nn.relu(config.margin + hardest_B - probability_BxC[:, 0])
    return loss_B
