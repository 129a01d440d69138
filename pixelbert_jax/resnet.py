"""ResNet and ResNeXt (He et al. 2016, Xie et al. 2017), NHWC, blind to padding.

An image lies in the top-left corner of its canvas. Activations outside its valid region are zeroed before every
operation that reads neighbouring cells, so its features do not depend on the canvas.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from pixelbert_jax.config import ResNetConfig
from pixelbert_jax.conv import Conv
from pixelbert_jax.normalization import make_norm
from pixelbert_jax.pooling import max_pool


def valid_mask(size_Bx2: jax.Array, height: int, width: int) -> jax.Array:
    """True inside each image: BxHxWx1 from sizes (height, width) in cells of an H x W map."""
    rows = jnp.arange(height)[None, :, None, None] < size_Bx2[:, 0, None, None, None]
    columns = jnp.arange(width)[None, None, :, None] < size_Bx2[:, 1, None, None, None]
    return rows & columns


def ceil_divide(size: jax.Array, divisor: int) -> jax.Array:
    """Whole cells that cover `size`."""
    return -(-size // divisor)


def zero_outside(x_BxHxWxC: jax.Array, mask_BxHxWx1: jax.Array) -> jax.Array:
    """Zero what lies outside the valid region."""
    return jnp.where(mask_BxHxWx1, x_BxHxWxC, jnp.zeros((), x_BxHxWxC.dtype))


class Stem(nnx.Module):
    """The first convolution, and ImageNet's 3x3 max pool where the config has it."""

    def __init__(self, config: ResNetConfig, *, platform: str, rngs: nnx.Rngs) -> None:
        self.pool = config.stem == "conv7x7_pool"
        self.stride, self.platform = config.stem_stride, platform
        size = 7 if self.pool else 3
        self.conv = Conv(3, config.stem_width, size, stride=self.stride, platform=platform, rngs=rngs)
        self.norm = make_norm(config.stem_width, config)

    def __call__(self, x: jax.Array, size_Bx2: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        x = zero_outside(x, valid_mask(size_Bx2, *x.shape[1:3]))
        x, size_Bx2 = self.conv(x), ceil_divide(size_Bx2, self.stride)
        mask = valid_mask(size_Bx2, *x.shape[1:3])
        x = jax.nn.relu(self.norm(x, mask, train))
        if self.pool:
            x = max_pool(zero_outside(x, mask), 3, 2, (1, 1), platform=self.platform)
            size_Bx2 = ceil_divide(size_Bx2, 2)
        return x, size_Bx2


class Block(nnx.Module):
    """A residual block: 1x1, 3x3, 1x1 (`bottleneck`) or 3x3, 3x3 (`basic`)."""

    def __init__(
        self,
        inputs: int,
        inner: int,
        outputs: int,
        stride: int,
        config: ResNetConfig,
        *,
        platform: str,
        rngs: nnx.Rngs,
    ) -> None:
        self.stride = stride

        def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> Conv:
            return Conv(inputs, outputs, size, stride=stride, groups=groups, platform=platform, rngs=rngs)

        if config.block == "bottleneck":
            first, second = (stride, 1) if config.stride_in == "conv1x1" else (1, stride)
            convs = [
                conv(inputs, inner, 1, first),
                conv(inner, inner, 3, second, config.groups),
                conv(inner, outputs, 1),
            ]
        else:
            convs = [conv(inputs, inner, 3, stride), conv(inner, outputs, 3)]
        self.convs = nnx.List(convs)
        self.norms = nnx.List([make_norm(c.kernel.shape[-1], config) for c in convs])
        projects = stride != 1 or inputs != outputs
        self.shortcut = conv(inputs, outputs, 1, stride) if projects else None
        self.shortcut_norm = make_norm(outputs, config) if projects else None

    def __call__(self, x: jax.Array, size_Bx2: jax.Array, train: bool) -> jax.Array:
        mask_in = valid_mask(size_Bx2, *x.shape[1:3])
        y, mask = x, mask_in
        last = len(self.convs) - 1
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = conv(zero_outside(y, mask) if conv.kernel.shape[0] > 1 else y)
            mask = valid_mask(ceil_divide(size_Bx2, self.stride), *y.shape[1:3]) if conv.stride > 1 else mask
            y = norm(y, mask, train)
            y = jax.nn.relu(y) if i < last else y
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x), mask, train)
        return jax.nn.relu(x + y)


class ResNet(nnx.Module):
    """Images to feature maps."""

    def __init__(self, config: ResNetConfig, *, platform: str, rngs: nnx.Rngs) -> None:
        self.config = config
        self.stem = Stem(config, platform=platform, rngs=rngs)
        stages, inputs = [], config.stem_width
        for depth, inner, outputs, stride in zip(
            config.depths, config.inner_widths, config.widths, config.strides, strict=True
        ):
            blocks = []
            for i in range(depth):
                blocks.append(
                    Block(
                        inputs,
                        inner,
                        outputs,
                        stride if i == 0 else 1,
                        config,
                        platform=platform,
                        rngs=rngs,
                    )
                )
                inputs = outputs
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)

    def all_stages(
        self, images_BxHxWx3: jax.Array, size_Bx2: jax.Array, *, train: bool = False
    ) -> list[tuple[jax.Array, jax.Array]]:
        """Feature map and its valid sizes, (BxhxwxC, Bx2), after each stage.

        Args:
          images_BxHxWx3: normalised pixels in the compute dtype.
          size_Bx2: valid (height, width) of each image in pixels.
          train: BatchNorm with batch_statistics="train" uses and updates the batch's statistics.
        """
        frozen = self.config.frozen_parts
        x, size_Bx2 = self.stem(images_BxHxWx3, size_Bx2, train and frozen < 1)
        if frozen >= 1:
            x = jax.lax.stop_gradient(x)
        run = nnx.remat(Block.__call__, static_argnums=(3,)) if self.config.remat else Block.__call__
        outputs = []
        for part, blocks in enumerate(self.stages, start=2):
            for block in blocks:
                x = run(block, x, size_Bx2, train and frozen < part)
                size_Bx2 = ceil_divide(size_Bx2, block.stride)
            if frozen >= part:
                x = jax.lax.stop_gradient(x)
            outputs.append((x, size_Bx2))
        return outputs

    def __call__(
        self, images_BxHxWx3: jax.Array, size_Bx2: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """The last stage's feature map and its valid sizes; arguments as in `all_stages`."""
        return self.all_stages(images_BxHxWx3, size_Bx2, train=train)[-1]
