"""Images as visual tokens."""

import dataclasses
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """Images after the backbone, or after the embedding of regions, for any number of predictions.

    `Predictor.encode` makes them.

    Attributes:
      chunks: (indices of the images in the list, visual_BxPxD, mask_BxP) of each batch.
      items: the images as `Predictor.read` returns them; empty where they were not kept.
    """

    chunks: tuple[tuple[tuple[int, ...], jax.Array, jax.Array], ...]
    items: tuple[Any, ...]

    def __len__(self) -> int:
        return sum(len(indices) for indices, _, _ in self.chunks)
