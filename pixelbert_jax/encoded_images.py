"""Images after the backbone."""

import dataclasses

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """Images after the backbone, for any number of predictions; made by `Predictor.encode`.

    Attributes:
      chunks: (indices of the images in the list, pixels_BxPxD, mask_BxP) of each batch.
      originals: the images, uint8 HxWx3; empty where they were not kept.
    """

    chunks: tuple[tuple[tuple[int, ...], jax.Array, jax.Array], ...]
    originals: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return sum(len(indices) for indices, _, _ in self.chunks)
