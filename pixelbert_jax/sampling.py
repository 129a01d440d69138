"""Random pixel sampling (paper section 3.4.1): in pre-training the encoder reads 100 random pixels of each image."""

import jax
import jax.numpy as jnp


def sample_pixels(key_B: jax.Array, mask_BxP: jax.Array, samples: int, draws: int) -> tuple[jax.Array, jax.Array]:
    """Choose valid pixels uniformly, without replacement, afresh for each of the image's texts.

    Args:
      key_B: one key per image, so that an image's draws do not depend on the other images of the batch.
      mask_BxP: valid pixels.
      samples: pixels to choose; an image with fewer valid ones gets all of them and the rest masked.
      draws: K, independent choices per image.

    Returns:
      index_BxKxS: chosen pixels, S = min(samples, P).
      mask_BxKxS: True where the chosen pixel is valid.
    """
    pixels = mask_BxP.shape[1]
    score_BxKxP = jax.vmap(lambda key: jax.random.uniform(key, (draws, pixels)))(key_B)
    score_BxKxP = jnp.where(mask_BxP[:, None], score_BxKxP, -1.0)
    score_BxKxS, index_BxKxS = jax.lax.top_k(score_BxKxP, min(samples, pixels))
    return index_BxKxS, score_BxKxS >= 0


def gather_pixels(pixels_BxPxD: jax.Array, index_BxKxS: jax.Array) -> jax.Array:
    """The chosen pixels, BxKxSxD."""
    return jax.vmap(lambda pixels_PxD, index_KxS: pixels_PxD[index_KxS])(pixels_BxPxD, index_BxKxS)
