"""The model that belongs to a configuration."""

from flax import nnx

from pixelbert_jax.config import ModelConfig, PixelBertConfig
from pixelbert_jax.imagebert import ImageBert
from pixelbert_jax.pixelbert import PixelBert


def make_model(config: ModelConfig, *, platform: str | None = None, rngs: nnx.Rngs) -> PixelBert | ImageBert:
    """The model of a configuration, with random parameters; arguments as in PixelBert."""
    if isinstance(config, PixelBertConfig):
        return PixelBert(config, platform=platform, rngs=rngs)
    return ImageBert(config, platform=platform, rngs=rngs)
