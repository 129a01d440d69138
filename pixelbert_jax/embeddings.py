"""The encoder's input: tokens, pixels and regions as vectors of the same width."""

import jax
import jax.numpy as jnp
from flax import nnx

from pixelbert_jax.config import ImageBertConfig, ModelConfig, PixelBertConfig
from pixelbert_jax.conv import Conv
from pixelbert_jax.dropout import dropout
from pixelbert_jax.initializers import transformer_normal
from pixelbert_jax.pooling import max_pool
from pixelbert_jax.resnet import ceil_divide, valid_mask, zero_outside


def make_layer_norm(config: ModelConfig, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """BERT's LayerNorm: float32 statistics by the two-pass formula."""
    return nnx.LayerNorm(
        config.encoder.width,
        epsilon=config.encoder.layer_norm_epsilon,
        dtype=config.dtype,
        use_fast_variance=False,
        rngs=rngs,
    )


class TextEmbedding(nnx.Module):
    """LayerNorm(token + position [+ segment]), then dropout (Pixel-BERT, section 3.2; ImageBERT, section 3.2).

    Pixel-BERT has no segment vector.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width = config.encoder.width
        self.word = nnx.Param(transformer_normal(config)(rngs.params(), (config.text.vocabulary_size, width)))
        self.position = nnx.Param(transformer_normal(config)(rngs.params(), (config.text.max_positions, width)))
        self.segment = nnx.Param(transformer_normal(config)(rngs.params(), (width,))) if config.text.segment else None
        self.layer_norm = make_layer_norm(config, rngs=rngs)
        self.dropout, self.dtype = config.encoder.dropout, config.dtype

    def __call__(self, text_NxT: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """Token ids to NxTxD."""
        token_NxTxD = jnp.take(self.word[...], text_NxT, axis=0)
        embedded_NxTxD = token_NxTxD + self.position[...][None, : text_NxT.shape[1]]
        if self.segment is not None:
            embedded_NxTxD += self.segment[...][None, None]
        return dropout(self.layer_norm(embedded_NxTxD).astype(self.dtype), self.dropout, dropout_key)


class PixelEmbedding(nnx.Module):
    """The last feature map to pixel embeddings: 2x2 max pool, projection, + s_v (paper section 3.1)."""

    def __init__(self, config: PixelBertConfig, *, platform: str, rngs: nnx.Rngs) -> None:
        self.config, self.dtype, self.platform = config.pixels, config.dtype, platform
        channels, width = config.backbone.widths[-1], config.encoder.width
        if config.pixels.projection == "pool_then_linear":
            self.linear = nnx.Linear(
                channels,
                width,
                kernel_init=transformer_normal(config),
                dtype=config.dtype,
                rngs=rngs,
            )
        else:
            self.conv = Conv(channels, width, 3, platform=platform, rngs=rngs)
        self.segment = nnx.Param(transformer_normal(config)(rngs.params(), (width,)))  # s_v, one vector for all pixels
        if config.pixels.position == "rowcol":
            self.row = nnx.Param(transformer_normal(config)(rngs.params(), (config.pixels.max_grid, width)))
            self.column = nnx.Param(transformer_normal(config)(rngs.params(), (config.pixels.max_grid, width)))
        self.layer_norm = make_layer_norm(config, rngs=rngs) if config.pixels.layer_norm else None

    def __call__(self, features_BxHxWxC: jax.Array, size_Bx2: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Feature maps with their valid sizes in cells to BxPxD and a BxP mask of valid pixels."""
        x = zero_outside(features_BxHxWxC, valid_mask(size_Bx2, *features_BxHxWxC.shape[1:3]))
        if self.config.projection == "conv3x3_then_pool":
            x, size_Bx2 = self._pool(jax.nn.relu(self.conv(x)), size_Bx2)
        else:
            x, size_Bx2 = self._pool(x, size_Bx2)
            x = self.linear(x)
        x = x + self.segment[...].astype(self.dtype)[None, None, None]
        batch, rows, columns, width = x.shape
        if self.config.position == "rowcol":
            if max(rows, columns) > self.config.max_grid:
                raise ValueError(
                    f"The grid of {rows}x{columns} cells is larger than model.pixels.max_grid="
                    f"{self.config.max_grid}; raise max_grid or use a smaller canvas."
                )
            x = x + self.row[...][None, :rows, None].astype(self.dtype)
            x = x + self.column[...][None, None, :columns].astype(self.dtype)
        elif self.config.position == "sine2d":
            x = x + sine_positions(size_Bx2, rows, columns, width).astype(self.dtype)
        if self.layer_norm is not None:
            x = self.layer_norm(x).astype(self.dtype)
        mask_BxP = valid_mask(size_Bx2, rows, columns).reshape(batch, rows * columns)
        return x.reshape(batch, rows * columns, width), mask_BxP

    def _pool(self, x: jax.Array, size_Bx2: jax.Array) -> tuple[jax.Array, jax.Array]:
        """2x2 max pool of non-negative values, and the valid sizes after it."""
        if not self.config.pool:
            return x, size_Bx2
        x = zero_outside(x, valid_mask(size_Bx2, *x.shape[1:3]))
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        size_Bx2 = ceil_divide(size_Bx2, 2) if self.config.grid_rounding == "ceil" else jnp.maximum(1, size_Bx2 // 2)
        return max_pool(x, 2, 2, (0, 0), platform=self.platform), size_Bx2


class RegionEmbedding(nnx.Module):
    """LayerNorm(feature + segment + box + position) (ImageBERT, section 3.2). All regions have the same position."""

    def __init__(self, config: ImageBertConfig, *, rngs: nnx.Rngs) -> None:
        normal, width, self.dtype = transformer_normal(config), config.encoder.width, config.dtype

        def linear(inputs: int, dtype: str = config.dtype) -> nnx.Linear:
            return nnx.Linear(inputs, width, kernel_init=normal, dtype=dtype, rngs=rngs)

        self.feature = linear(config.regions.feature_size)
        self.box = linear(5, "float32")  # bfloat16 is off by pixels
        self.segment = nnx.Param(normal(rngs.params(), (width,)))
        self.position = nnx.Param(normal(rngs.params(), (width,)))
        self.layer_norm = make_layer_norm(config, rngs=rngs)
        self.whole = linear(config.regions.global_size) if config.regions.global_size else None

    def __call__(self, feature_NxRxF: jax.Array, box_NxRx4: jax.Array, whole_NxG: jax.Array | None = None) -> jax.Array:
        """Regions to NxRxD, or to Nx(1+R)xD where the model reads a feature of the whole image, which comes first.

        Args:
          feature_NxRxF: the detector's features.
          box_NxRx4: left, top, right, bottom, as shares of the image's width and height.
          whole_NxG: feature of the whole image; its box is the image's.
        """
        x_NxRxD = self._embed(self.feature(feature_NxRxF.astype(self.dtype)), box_NxRx4)
        if self.whole is None:
            return x_NxRxD
        image_Nx1x4 = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0, 1.0]), (len(box_NxRx4), 1, 4))
        whole_Nx1xD = self._embed(self.whole(whole_NxG.astype(self.dtype))[:, None], image_Nx1x4)
        return jnp.concatenate([whole_Nx1xD, x_NxRxD], axis=1)

    def _embed(self, feature_NxRxD: jax.Array, box_NxRx4: jax.Array) -> jax.Array:
        same_D = self.segment[...] + self.position[...]
        sum_NxRxD = feature_NxRxD + self.box(box_vectors(box_NxRx4)) + same_D[None, None]
        return self.layer_norm(sum_NxRxD).astype(self.dtype)


def box_vectors(box_NxRx4: jax.Array) -> jax.Array:
    """Left, top, right, bottom, as shares of the image, and the share of its area: NxRx5."""
    width, height = (box_NxRx4[..., i + 2] - box_NxRx4[..., i] for i in (0, 1))
    return jnp.concatenate([box_NxRx4, (width * height)[..., None]], axis=-1)


def sine_positions(size_Bx2: jax.Array, rows: int, columns: int, width: int) -> jax.Array:
    """Two-dimensional sine positions, normalised to each image's valid region (Carion et al. 2020): BxHxWxD.

    The first half of the width encodes the row, the second half the column.
    """
    frequencies = 10000.0 ** (-2 * (jnp.arange(width // 2) // 2) / (width // 2))

    def axis(index: int, length: int) -> jax.Array:
        position_BxL = (jnp.arange(length)[None] + 1) / size_Bx2[:, index, None] * 2 * jnp.pi
        angle = position_BxL[..., None] * frequencies[None, None]
        return jnp.where(jnp.arange(width // 2)[None, None] % 2 == 0, jnp.sin(angle), jnp.cos(angle))

    shape = (size_Bx2.shape[0], rows, columns, width // 2)
    row = jnp.broadcast_to(axis(0, rows)[:, :, None], shape)
    column = jnp.broadcast_to(axis(1, columns)[:, None], shape)
    return jnp.concatenate([row, column], axis=-1)
