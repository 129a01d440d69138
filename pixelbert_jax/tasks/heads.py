"""What the tasks share: the fields of a batch, and heads on [CLS]."""

import jax
import jax.numpy as jnp
from flax import nnx

from pixelbert_jax.activations import gelu
from pixelbert_jax.config import ModelConfig, PixelBertConfig
from pixelbert_jax.embeddings import make_layer_norm
from pixelbert_jax.initializers import transformer_normal
from pixelbert_jax.pixelbert import PixelBert
from pixelbert_jax.tasks.task import Batch, Field


class Classifier(nnx.Module):
    """Two-layer MLP: dense, GELU, LayerNorm, dense; float32 logits (its form is not stated in the paper)."""

    def __init__(
        self, config: ModelConfig, inputs: int, outputs: int, *, first_bias: float = 0.0, rngs: nnx.Rngs
    ) -> None:
        """Args: first_bias: initial bias of every output."""
        normal, width = transformer_normal(config), config.encoder.width
        self.inner = nnx.Linear(inputs, width, kernel_init=normal, dtype=config.dtype, rngs=rngs)
        self.layer_norm = make_layer_norm(config, rngs=rngs)
        constant = nnx.initializers.constant(first_bias)
        self.outer = nnx.Linear(width, outputs, kernel_init=normal, bias_init=constant, rngs=rngs)

    def __call__(self, x_NxI: jax.Array) -> jax.Array:
        """Logits NxO."""
        return self.outer(self.layer_norm(gelu(self.inner(x_NxI))).astype(jnp.float32))


class ItmHead:
    """For modules with an `itm_head`: image-text matching (ITM)."""

    def itm_logit(self, hidden_NxSxD: jax.Array) -> jax.Array:
        """Float32 logit N of image-text matching, from [CLS]."""
        return self.itm_head(hidden_NxSxD[:, 0].astype(jnp.float32))[:, 0]


def pair_fields(model: ModelConfig, images: tuple[int, ...] = ()) -> dict[str, Field]:
    """Fields of B rows with K texts each. `images` is the number of images per row; empty: one, without an axis."""
    last_token = model.text.vocabulary_size - 1
    return {
        **visual_fields(model, images),
        "text": Field(("B", "K", "T"), "int32", 0, last_token, "[CLS] tokens [SEP] padding, some masked"),
        "text_mask": Field(("B", "K", "T"), "bool", 0, 1, "True where text is not padding"),
        "pair_mask": Field(("B", "K"), "bool", 0, 1, "False for padding texts of a row or a batch"),
    }


def visual_fields(model: ModelConfig, images: tuple[int, ...] = ()) -> dict[str, Field]:
    """The visual input of each row: pixels on a canvas, or R regions."""
    rows = ("B", *images)
    if isinstance(model, PixelBertConfig):
        return {
            "images": Field((*rows, "H", "W", 3), "uint8", 0, 255, "RGB, each image in the top-left corner"),
            "image_size": Field((*rows, 2), "int32", 1, None, "valid (height, width) in pixels"),
        }
    size, whole = model.regions.feature_size, model.regions.global_size
    fields = {
        "regions": Field((*rows, "R", size), "float16", None, None, "features, the highest-scoring region first"),
        "boxes": Field((*rows, "R", 4), "float32", 0, 1, "left, top, right, bottom as shares of the image's sides"),
        "region_mask": Field((*rows, "R"), "bool", 0, 1, "True for regions, False for padding"),
    }
    if whole:
        fields["whole"] = Field((*rows, whole), "float16", None, None, "feature of the whole image")
    return fields


def mlm_fields(model: ModelConfig) -> dict[str, Field]:
    """Masked tokens of K texts per row, and whether each text belongs to the image."""
    last_token = model.text.vocabulary_size - 1
    return {
        "mlm_position": Field(("B", "K", "M"), "int32", 0, None, "positions in the text to predict, 0 if unused"),
        "mlm_target": Field(("B", "K", "M"), "int32", 0, last_token, "the original token there"),
        "mlm_mask": Field(("B", "K", "M"), "bool", 0, 1, "True where a position is used"),
        "itm_label": Field(("B", "K"), "int32", 0, 1, "1 where the text belongs to the image"),
    }


def read_pairs(model: PixelBert, batch: Batch, key: jax.Array | None) -> jax.Array:
    """[CLS] NxIxD of every text (N = B*K) with each of its row's I images; all pixels are read.

    `key` is None in evaluation; see Task.loss.
    """
    images, sizes = batch["images"], batch["image_size"]
    if images.ndim == 4:
        images, sizes = images[:, None], sizes[:, None]
    rows, images_per_row = images.shape[:2]
    texts, length = batch["text"].shape[1:]
    pixels, mask = model.encode_image(
        images.reshape(rows * images_per_row, *images.shape[2:]),
        sizes.reshape(rows * images_per_row, 2),
        train=key is not None,
    )
    dropout_key = None if key is None else jax.random.fold_in(key, batch["row"][0])  # differs by micro-batch

    def spread(x: jax.Array) -> jax.Array:
        """BIx... to BKIx..., each text with its row's images."""
        x = jnp.repeat(x.reshape(rows, 1, images_per_row, *x.shape[1:]), texts, axis=1)
        return x.reshape(rows * texts * images_per_row, *x.shape[3:])

    def repeated(x_BxKxT: jax.Array) -> jax.Array:
        return jnp.repeat(x_BxKxT.reshape(rows * texts, length), images_per_row, axis=0)

    hidden = model.fuse_at(
        repeated(batch["text"]), repeated(batch["text_mask"]), spread(pixels), spread(mask), dropout_key
    )
    return hidden[:, 0].reshape(rows * texts, images_per_row, -1)
