"""Two-dimensional convolution, NHWC x HWIO, with the lowering that is fastest on the platform it is compiled for.

All forms compute the same sums. On the CPU, XLA lowers a 1x1 convolution and, above all, the gradient of a grouped
one badly (docs/architecture.md has the measurements), so there a 1x1 convolution is a matrix product and neighbouring
groups are merged into block-diagonal dense kernels. So are they on the TPU, whose matrix units take 128 channels at
once. Elsewhere the compiler's own convolution is used.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from pixelbert_jax.initializers import he_normal_fan_out

_MERGED_CHANNELS = {"cpu": 64, "tpu": 128}  # input channels that a merged dense kernel should have


def convolve(
    x_BxHxWxC: jax.Array,
    kernel_hxwxIxO: jax.Array,
    *,
    stride: int = 1,
    groups: int = 1,
    platform: str,
) -> jax.Array:
    """Convolve with torch's symmetric padding of (size - 1) // 2, in the dtype of `x`.

    Args:
      x_BxHxWxC: activations.
      kernel_hxwxIxO: kernel with I = C / groups; odd sizes.
      stride: of both axes.
      groups: number of channel groups; divides C and O.
      platform: what the program is compiled for: "cpu", "gpu", "tpu".
    """
    kernel_hxwxIxO = kernel_hxwxIxO.astype(x_BxHxWxC.dtype)
    size = kernel_hxwxIxO.shape[0]
    if platform == "cpu" and size == 1 and groups == 1:
        return jnp.dot(x_BxHxWxC[:, ::stride, ::stride], kernel_hxwxIxO[0, 0])
    if groups > 1 and platform in _MERGED_CHANNELS:
        return _merged_groups(x_BxHxWxC, kernel_hxwxIxO, stride, groups, _MERGED_CHANNELS[platform])
    return _native(x_BxHxWxC, kernel_hxwxIxO, stride, groups)


def _native(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> jax.Array:
    padding = (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _merged_groups(x: jax.Array, kernel: jax.Array, stride: int, groups: int, channels: int) -> jax.Array:
    """Dense convolutions over channel slices, each of several neighbouring groups with a block-diagonal kernel."""
    height, width, inputs, outputs = kernel.shape
    merge = 1
    while merge * inputs < channels and groups % (merge * 2) == 0:
        merge *= 2
    slices = groups // merge
    blocks_hxwxIxSxMxo = kernel.reshape(height, width, inputs, slices, merge, outputs // groups)
    dense = jnp.einsum("hwismo,mn->hwsnimo", blocks_hxwxIxSxMxo, jnp.eye(merge, dtype=kernel.dtype))
    dense_hxwxSxIxO = dense.reshape(height, width, slices, merge * inputs, outputs // slices)
    return jnp.concatenate(
        [_native(part, dense_hxwxSxIxO[:, :, i], stride, 1) for i, part in enumerate(jnp.split(x, slices, axis=-1))],
        axis=-1,
    )


class Conv(nnx.Module):
    """A convolution without bias; its kernel starts as He normal over the outputs, as torchvision's ResNets do."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        platform: str,
        rngs: nnx.Rngs,
    ) -> None:
        self.stride, self.groups, self.platform = stride, groups, platform
        shape = (size, size, inputs // groups, outputs)
        self.kernel = nnx.Param(he_normal_fan_out(rngs.params(), shape))

    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        return convolve(
            x_BxHxWxC,
            self.kernel[...],
            stride=self.stride,
            groups=self.groups,
            platform=self.platform,
        )
