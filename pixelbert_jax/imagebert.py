"""ImageBERT (Qi et al. 2020): a detector's regions and text tokens in one transformer."""

import jax
import jax.numpy as jnp
from flax import nnx

from pixelbert_jax.config import ImageBertConfig
from pixelbert_jax.embeddings import RegionEmbedding, TextEmbedding
from pixelbert_jax.encoder import Encoder
from pixelbert_jax.joint import Batch, JointModel, check_vocabulary


class ImageBert(JointModel):
    """Embeddings and encoder. Two steps are public, `encode_regions` and `fuse`, as in PixelBert."""

    def __init__(self, config: ImageBertConfig, *, platform: str | None = None, rngs: nnx.Rngs) -> None:
        """Build with random parameters.

        Args:
          config: the shape of the model; its vocabulary size must be set.
          platform: what the programs are compiled for, as in PixelBert.
          rngs: source of the `params` key.
        """
        check_vocabulary(config)
        self.config = config
        self.visual_dropout = config.encoder.dropout
        self.region_embedding = RegionEmbedding(config, rngs=rngs)
        self.text_embedding = TextEmbedding(config, rngs=rngs)
        self.encoder = Encoder(config, platform=platform, rngs=rngs)

    def encode_regions(
        self,
        feature_NxRxF: jax.Array,
        box_NxRx4: jax.Array,
        mask_NxR: jax.Array,
        whole_NxG: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Regions to the encoder's visual input.

        Args:
          feature_NxRxF: the detector's features.
          box_NxRx4: left, top, right, bottom, as shares of the image's width and height.
          mask_NxR: True for regions, False for padding.
          whole_NxG: feature of the whole image, for a model that reads one.

        Returns:
          regions_NxPxD and mask_NxP; P = R, or 1 + R with the whole image first.
        """
        x_NxPxD = self.region_embedding(feature_NxRxF, box_NxRx4, whole_NxG)
        whole_mask_Nx1 = jnp.ones((len(mask_NxR), x_NxPxD.shape[1] - mask_NxR.shape[1]), bool)
        return x_NxPxD, jnp.concatenate([whole_mask_Nx1, mask_NxR], axis=1)

    def encode_visual(self, batch: Batch, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """`encode_regions` of a batch's regions; training changes nothing, dropout comes in `fuse`."""
        del train
        return self.encode_regions(batch["regions"], batch["boxes"], batch["region_mask"], batch.get("whole"))
