"""Image-text matching (ITM) logits of images with a list of texts.

They are of all pairs, of chosen pairs, or of all pairs from a few pixels of each image. The backbone runs once per
image and the pixels stay on the devices. Texts are grouped by length, and each group is split over the devices. The
last layer computes [CLS] only.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixelbert_jax.loading import LoadedModel
from pixelbert_jax.training.sharding import batch_sharding, replicated

_ROW_STEP, _COLUMN_STEP = 0.7548776662, 0.5698402910  # powers of 1 / the plastic number, for `spread_pixels`


class PairScorer:
    """ITM logits of images with a fixed list of texts."""

    length_step = 8  # texts are padded to a multiple of this

    def __init__(self, loaded: LoadedModel, texts: list[str], block_texts: int) -> None:
        """Tokenise the texts, sort them by length, and put them on the devices.

        Args:
          loaded: a model with an ITM head, on its devices.
          texts: the texts that every image is scored with.
          block_texts: texts that are scored at once.
        """
        self._graphdef, self._state = loaded.split()
        self._mesh = jax.tree.leaves(self._state)[0].sharding.mesh
        self._pad, self.longest = loaded.tokenizer.pad, loaded.data.max_text_length
        self._ids = [loaded.tokenizer.encode(text, self.longest) for text in texts]
        self.cut = sum(len(loaded.tokenizer.pieces(text)) > self.longest - 2 for text in texts)
        self._rows = -(-block_texts // self._mesh.size) * self._mesh.size
        self._slots_T = padded_lengths(np.array([len(ids) for ids in self._ids]), self.longest, self.length_step)
        self._blocks = [(indices, *self._block(indices)) for indices in length_groups(self._slots_T, self._rows)]
        same, rows = replicated(self._mesh), batch_sharding(self._mesh)
        compiled = functools.partial(jax.jit, out_shardings=same)
        self._encode = compiled(self._encode_images, static_argnums=2)
        self._match = compiled(self._match_block, in_shardings=(None, same, same, rows, rows))
        self._match_chosen = compiled(self._match_pairs, in_shardings=(None, same, same, rows, rows, rows))

    def score(self, batch: dict[str, np.ndarray], pixels: int = 0) -> np.ndarray:
        """Logits BxT of a batch's images with all texts; arguments as in `encode`."""
        return self.match(*self.encode(batch, pixels))

    def encode(self, batch: dict[str, np.ndarray], pixels: int = 0) -> tuple[jax.Array, jax.Array]:
        """Visual tokens of each image, BxPxD, and a mask BxP, on the devices.

        Args:
          batch: visual fields of the task.
          pixels: > 0: only this many, spread evenly over the image; for a model of regions, the highest-scoring ones.
        """
        return self._encode(self._state, batch, pixels)

    def match(self, pixels_BxPxD: jax.Array, mask_BxP: jax.Array) -> np.ndarray:
        """Logits BxT of encoded images with all texts."""
        found = [self._match(self._state, pixels_BxPxD, mask_BxP, text, mask) for _, text, mask in self._blocks]
        scores_BxT = np.zeros((len(pixels_BxPxD), len(self._ids)), np.float32)
        for (indices, _, _), logits in zip(self._blocks, found, strict=True):
            scores_BxT[:, indices] = np.asarray(logits)[:, : len(indices)]
        return scores_BxT

    def match_chosen(self, pixels_BxPxD: jax.Array, mask_BxP: jax.Array, chosen_CxT: np.ndarray) -> np.ndarray:
        """Logits CxT of the first C <= B images with the texts that are True in `chosen_CxT`; -inf for the others."""
        found = []
        for slots in np.unique(self._slots_T):
            image_M, text_M = np.nonzero(chosen_CxT & (self._slots_T == slots)[None])
            for start in range(0, len(image_M), self._rows):
                pairs = image_M[start : start + self._rows], text_M[start : start + self._rows]
                image_N = np.zeros(self._rows, np.int32)
                image_N[: len(pairs[0])] = pairs[0]
                logits_N = self._match_chosen(self._state, pixels_BxPxD, mask_BxP, image_N, *self._block(pairs[1]))
                found.append((pairs, logits_N))
        scores_CxT = np.full(chosen_CxT.shape, -np.inf, np.float32)
        for pairs, logits_N in found:
            scores_CxT[pairs] = np.asarray(logits_N)[: len(pairs[0])]
        return scores_CxT

    def _block(self, indices: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Ids and mask of some texts, on the devices; padding rows complete the block."""
        slots = self._slots_T[indices].max()
        text_NxT = np.full((self._rows, slots), self._pad, np.int32)
        mask_NxT = np.zeros((self._rows, slots), bool)
        mask_NxT[:, 0] = True  # for padding rows
        for row, index in enumerate(indices):
            ids = self._ids[index]
            text_NxT[row, : len(ids)] = ids
            mask_NxT[row, : len(ids)] = True
        return jax.device_put((text_NxT, mask_NxT), batch_sharding(self._mesh))

    def _encode_images(self, state: Any, batch: dict[str, jax.Array], count: int) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(self._graphdef, state).model
        visual_BxPxD, mask_BxP = model.encode_visual(batch)
        if not count:
            return visual_BxPxD, mask_BxP
        if "images" not in batch:  # regions, the highest-scoring first
            return visual_BxPxD[:, :count], mask_BxP[:, :count]
        columns = model.config.grid(*batch["images"].shape[1:3])[1]
        index_BxN, mask_BxN = spread_pixels(mask_BxP, columns, count)
        return jnp.take_along_axis(visual_BxPxD, index_BxN[..., None], axis=1), mask_BxN

    def _match_block(
        self, state: Any, pixels_BxPxD: jax.Array, mask_BxP: jax.Array, text_NxT: jax.Array, text_mask_NxT: jax.Array
    ) -> jax.Array:
        """Logits BxN; one image at a time, so that memory holds N sequences."""
        module = nnx.merge(self._graphdef, state)
        texts = len(text_NxT)

        def one(_: None, image: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
            pixels_PxD, mask_P = image
            pixels_NxPxD = jnp.broadcast_to(pixels_PxD[None], (texts, *pixels_PxD.shape))
            mask_NxP = jnp.broadcast_to(mask_P[None], (texts, len(mask_P)))
            return None, self.logits(module, text_NxT, text_mask_NxT, pixels_NxPxD, mask_NxP)

        return jax.lax.scan(one, None, (pixels_BxPxD, mask_BxP))[1]

    def _match_pairs(
        self,
        state: Any,
        pixels_BxPxD: jax.Array,
        mask_BxP: jax.Array,
        image_N: jax.Array,
        text_NxT: jax.Array,
        text_mask_NxT: jax.Array,
    ) -> jax.Array:
        """Logits N of each text with the image in its row of `image_N`."""
        module = nnx.merge(self._graphdef, state)
        return self.logits(module, text_NxT, text_mask_NxT, pixels_BxPxD[image_N], mask_BxP[image_N])

    @staticmethod
    def logits(module: Any, *pairs: jax.Array) -> jax.Array:
        """Logits N of pairs; arguments as in PixelBert.fuse_at."""
        return module.itm_logit(module.model.fuse_at(*pairs))


def padded_lengths(length_T: np.ndarray, longest: int, step: int) -> np.ndarray:
    """Padded lengths of texts with `length_T` tokens: a multiple of `step`, at most `longest`."""
    return np.minimum(-(-length_T // step) * step, longest)


def length_groups(slots_T: np.ndarray, rows: int) -> list[np.ndarray]:
    """Indices of the texts of each group: `rows` texts of about one length, fewer in the last group."""
    by_length = np.argsort(slots_T, kind="stable")
    return [by_length[start : start + rows] for start in range(0, len(slots_T), rows)]


def spread_pixels(mask_BxP: jax.Array, columns: int, count: int) -> tuple[jax.Array, jax.Array]:
    """Choose `count` valid pixels of each image, evenly spaced over it.

    Args:
      mask_BxP: valid pixels of a grid, row by row.
      columns: columns of the grid.
      count: N; an image with fewer valid pixels gets all of them, and the rest is masked.

    Returns:
      index_BxN and mask_BxN, N = min(count, P).
    """
    row_P, column_P = jnp.divmod(jnp.arange(mask_BxP.shape[1]), columns)
    # The steps share no multiple, so the lowest values are spread evenly in both directions on a grid of any size.
    order_P = (_ROW_STEP * row_P + _COLUMN_STEP * column_P) % 1
    lowest_BxN, index_BxN = jax.lax.top_k(jnp.where(mask_BxP, -order_P[None], -2.0), min(count, mask_BxP.shape[1]))
    return index_BxN, lowest_BxN > -2
