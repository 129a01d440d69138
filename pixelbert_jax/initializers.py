"""First values of parameters."""

import jax

from pixelbert_jax.config import ModelConfig

he_normal_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015


def transformer_normal(config: ModelConfig) -> jax.nn.initializers.Initializer:
    """BERT's truncated normal, for the embeddings, the encoder and the heads."""
    return jax.nn.initializers.truncated_normal(config.encoder.initializer_std)
