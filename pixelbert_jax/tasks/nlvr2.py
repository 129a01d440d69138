"""NLVR2: is a sentence true of two photographs? (paper section 4.2.2). NLVR, with one drawing, is the same task."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.pixelbert import PixelBert
from pixelbert_jax.tasks.heads import Classifier, pair_fields, read_pairs
from pixelbert_jax.tasks.task import Batch, Field, Sums


@dataclasses.dataclass(frozen=True)
class Nlvr2Config:
    """Images that a sentence is about."""

    images: int = 2  # NLVR2: a left and a right one; NLVR: 1

    def __post_init__(self) -> None:
        if self.images not in (1, 2):
            raise ConfigError(f"task.images={self.images} must be 1 (NLVR) or 2 (NLVR2).")


class PixelBertForNlvr2(nnx.Module):
    """Pixel-BERT, run once for each image with the sentence, and a classifier on the joined [CLS]."""

    def __init__(self, config: PixelBertConfig, images: int, *, platform: str | None = None, rngs: nnx.Rngs) -> None:
        self.model = PixelBert(config, platform=platform, rngs=rngs)
        self.truth_head = Classifier(config, images * config.encoder.width, 2, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class Nlvr2Task:
    """A batch is B rows of one or two images with K sentences each."""

    model: PixelBertConfig
    config: Nlvr2Config

    def fields(self) -> dict[str, Field]:
        return {
            **pair_fields(self.model, (self.config.images,)),
            "label": Field(("B", "K"), "int32", 0, 1, "1 where the sentence is true"),
        }

    def init(self, *, platform: str | None = None, rngs: nnx.Rngs) -> PixelBertForNlvr2:
        return PixelBertForNlvr2(self.model, self.config.images, platform=platform, rngs=rngs)

    def totals(self, batch: Batch) -> dict[str, jax.Array]:
        return {"sentences": batch["pair_mask"].sum()}

    def loss(
        self, module: PixelBertForNlvr2, batch: Batch, totals: dict[str, jax.Array], key: jax.Array | None
    ) -> tuple[jax.Array, Sums]:
        """Cross-entropy, averaged over the sentences."""
        logits_Nx2 = self.forward(module, batch, key)
        mask_N, label_N = batch["pair_mask"].reshape(-1), batch["label"].reshape(-1)
        loss_N = optax.softmax_cross_entropy_with_integer_labels(logits_Nx2, label_N)
        loss = jnp.where(mask_N, loss_N, 0).sum()
        right = ((logits_Nx2.argmax(-1) == label_N) & mask_N).sum()
        sums = {"nlvr2_loss": (loss, mask_N.sum()), "nlvr2_accuracy": (right, mask_N.sum())}
        return loss / jnp.maximum(totals["sentences"], 1), sums

    def forward(self, module: PixelBertForNlvr2, batch: Batch, key: jax.Array | None) -> jax.Array:
        """Logits Nx2, N = B*K."""
        cls_NxIxD = read_pairs(module.model, batch, key)
        return module.truth_head(cls_NxIxD.reshape(cls_NxIxD.shape[0], -1))

    def predict(self, module: PixelBertForNlvr2, batch: Batch) -> jax.Array:
        """1 where a sentence is predicted to be true, BxK."""
        return self.forward(module, batch, None).argmax(-1).reshape(batch["pair_mask"].shape)
