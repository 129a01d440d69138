"""The number of tokens of an image's caption, guessed from the image alone."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.pixelbert import PixelBert
from pixelbert_jax.tasks.heads import Classifier, pair_fields, read_pairs
from pixelbert_jax.tasks.task import Batch, Field, Sums


@dataclasses.dataclass(frozen=True)
class CaptionLengthConfig:
    """How the error is measured."""

    scale: float = 10.0  # tokens; the unit of the loss


class PixelBertForCaptionLength(nnx.Module):
    """Pixel-BERT with one number on [CLS]."""

    def __init__(self, config: PixelBertConfig, *, platform: str | None = None, rngs: nnx.Rngs) -> None:
        self.model = PixelBert(config, platform=platform, rngs=rngs)
        self.length_head = Classifier(config, config.encoder.width, 1, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class CaptionLengthTask:
    """A batch is B images with K empty texts each, and the length of each caption."""

    model: PixelBertConfig
    config: CaptionLengthConfig

    def fields(self) -> dict[str, Field]:
        return {**pair_fields(self.model), "length": Field(("B", "K"), "float32", 0, None, "tokens of the caption")}

    def init(self, *, platform: str | None = None, rngs: nnx.Rngs) -> PixelBertForCaptionLength:
        return PixelBertForCaptionLength(self.model, platform=platform, rngs=rngs)

    def totals(self, batch: Batch) -> dict[str, jax.Array]:
        return {"captions": batch["pair_mask"].sum()}

    def loss(
        self, module: PixelBertForCaptionLength, batch: Batch, totals: dict[str, jax.Array], key: jax.Array | None
    ) -> tuple[jax.Array, Sums]:
        """Squared error in units of `scale`, averaged over the captions."""
        error_BxK = (self.forward(module, batch, key) - batch["length"]) / self.config.scale
        squares = jnp.where(batch["pair_mask"], error_BxK**2, 0).sum()
        sums = {"length_loss": (squares, batch["pair_mask"].sum())}
        return squares / jnp.maximum(totals["captions"], 1), sums

    def forward(self, module: PixelBertForCaptionLength, batch: Batch, key: jax.Array | None) -> jax.Array:
        """Tokens of each caption, BxK."""
        cls_NxD = read_pairs(module.model, batch, key)[:, 0]
        return self.config.scale * module.length_head(cls_NxD)[:, 0].reshape(batch["pair_mask"].shape)

    def predict(self, module: PixelBertForCaptionLength, batch: Batch) -> jax.Array:
        """The same, for evaluation."""
        return self.forward(module, batch, None)
