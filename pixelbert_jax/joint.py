"""What Pixel-BERT and ImageBERT share: one encoder reads text tokens and visual tokens together."""

import jax
import jax.numpy as jnp
from flax import nnx

from pixelbert_jax.config import ModelConfig
from pixelbert_jax.dropout import dropout
from pixelbert_jax.embeddings import TextEmbedding
from pixelbert_jax.encoder import Encoder
from pixelbert_jax.errors import ConfigError

Batch = dict[str, jax.Array]


def check_vocabulary(config: ModelConfig) -> None:
    """Refuse a model without a vocabulary.

    Raises:
      ConfigError: the size of the vocabulary is not set.
    """
    if config.text.vocabulary_size < 1:
        raise ConfigError("model.text.vocabulary_size is 0; set it to the number of lines of the vocabulary.")


class JointModel(nnx.Module):
    """The half of a model that reads text tokens and P visual tokens together.

    A subclass makes the visual tokens from pixels or regions.

    Attributes:
      text_embedding, encoder: set by the subclass.
      visual_dropout: dropout rate of the visual tokens in training.
    """

    text_embedding: TextEmbedding
    encoder: Encoder
    visual_dropout: float = 0.0

    def encode_visual(self, batch: Batch, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Visual tokens of each row's image, BxPxD, and a mask BxP, from a batch's visual fields."""
        raise NotImplementedError

    def fuse(
        self,
        text_NxT: jax.Array,
        text_mask_NxT: jax.Array,
        visual_NxPxD: jax.Array,
        visual_mask_NxP: jax.Array,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states Nx(T+P)xD of the sequence [CLS] tokens [SEP] pixels (or regions).

        Without a `dropout_key` there is no dropout.
        """
        keys = (None, None) if dropout_key is None else tuple(jax.random.split(dropout_key))
        sequence_NxSxD, mask_NxS = self._join(text_NxT, text_mask_NxT, visual_NxPxD, visual_mask_NxP, keys[0])
        return self.encoder(sequence_NxSxD, mask_NxS, keys[1])

    def fuse_at(
        self,
        text_NxT: jax.Array,
        text_mask_NxT: jax.Array,
        visual_NxPxD: jax.Array,
        visual_mask_NxP: jax.Array,
        dropout_key: jax.Array | None = None,
        *,
        index_NxQ: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states NxQxD of `fuse` at the positions `index_NxQ`, by default [CLS] alone (Nx1xD).

        For the other positions the last layer computes only keys and values.
        """
        keys = (None, None) if dropout_key is None else tuple(jax.random.split(dropout_key))
        sequence_NxSxD, mask_NxS = self._join(text_NxT, text_mask_NxT, visual_NxPxD, visual_mask_NxP, keys[0])
        return self.encoder.at(sequence_NxSxD, mask_NxS, index_NxQ, keys[1])

    def attention(
        self,
        text_NxT: jax.Array,
        text_mask_NxT: jax.Array,
        visual_NxPxD: jax.Array,
        visual_mask_NxP: jax.Array,
        layer: int,
    ) -> jax.Array:
        """Attention probabilities NxHx(T+P)x(T+P) of one layer (Pixel-BERT's figure 3 shows the first, 0)."""
        sequence_NxSxD, mask_NxS = self._join(text_NxT, text_mask_NxT, visual_NxPxD, visual_mask_NxP, None)
        return self.encoder.attention(sequence_NxSxD, mask_NxS, layer)

    def _join(
        self,
        text_NxT: jax.Array,
        text_mask_NxT: jax.Array,
        visual_NxPxD: jax.Array,
        visual_mask_NxP: jax.Array,
        dropout_key: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array]:
        """The encoder's input Nx(T+P)xD and its mask Nx(T+P)."""
        text_NxTxD = self.text_embedding(text_NxT, dropout_key)
        if dropout_key is not None:
            visual_NxPxD = dropout(visual_NxPxD, self.visual_dropout, jax.random.fold_in(dropout_key, 1))
        sequence_NxSxD = jnp.concatenate([text_NxTxD, visual_NxPxD.astype(text_NxTxD.dtype)], axis=1)
        return sequence_NxSxD, jnp.concatenate([text_mask_NxT, visual_mask_NxP], axis=1)
