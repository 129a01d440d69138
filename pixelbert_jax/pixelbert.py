"""Pixel-BERT (Huang et al. 2020): image pixels and text tokens in one transformer, trained end to end."""

import jax
import jax.numpy as jnp
from flax import nnx

from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.embeddings import PixelEmbedding, TextEmbedding
from pixelbert_jax.encoder import Encoder
from pixelbert_jax.joint import Batch, JointModel, check_vocabulary
from pixelbert_jax.resnet import ResNet


class PixelBert(JointModel):
    """Backbone, embeddings and encoder.

    Two steps are public, `encode_image` and `fuse` (or `fuse_at`). Evaluation runs the first once per image.
    """

    def __init__(self, config: PixelBertConfig, *, platform: str | None = None, rngs: nnx.Rngs) -> None:
        """Build with random parameters.

        Args:
          config: the shape of the model; its vocabulary size must be set.
          platform: what the programs are compiled for ("cpu", "gpu", "tpu"); JAX's default backend if None.
          rngs: source of the `params` key.
        """
        check_vocabulary(config)
        platform = platform or jax.default_backend()
        self.config = config
        self.backbone = ResNet(config.backbone, platform=platform, rngs=rngs)
        self.pixel_embedding = PixelEmbedding(config, platform=platform, rngs=rngs)
        self.text_embedding = TextEmbedding(config, rngs=rngs)
        self.encoder = Encoder(config, platform=platform, rngs=rngs)

    def encode_image(
        self, images_BxHxWx3: jax.Array, image_size_Bx2: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Images on a canvas to pixel embeddings.

        Args:
          images_BxHxWx3: uint8 RGB, each image in the top-left corner.
          image_size_Bx2: valid (height, width) of each image, in pixels.
          train: see ResNet.

        Returns:
          pixels_BxPxD: all pixels of the grid, row by row.
          mask_BxP: True for pixels of the image.
        """
        scale = 255.0 * jnp.array(self.config.image_std, jnp.float32)
        shift = jnp.array(self.config.image_mean, jnp.float32) / jnp.array(self.config.image_std, jnp.float32)
        images = images_BxHxWx3.astype(jnp.float32) / scale[None, None, None] - shift[None, None, None]
        features, size_Bx2 = self.backbone(images.astype(self.config.dtype), image_size_Bx2, train=train)
        return self.pixel_embedding(features, size_Bx2)

    def encode_visual(self, batch: Batch, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """`encode_image` of a batch's images."""
        return self.encode_image(batch["images"], batch["image_size"], train=train)
