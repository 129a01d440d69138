"""Two-dimensional convolution, NHWC x HWIO, with the lowering that is fastest on the platform it is compiled for.

All forms compute the same sums. On the CPU, XLA lowers a 1x1 convolution and, above all, the gradient of a grouped
one badly (docs/architecture.md has the measurements), so there a 1x1 convolution is a matrix product and neighbouring
groups are merged into block-diagonal dense kernels. So are they on the TPU, whose matrix units take 128 channels at
once. In bfloat16 on a CPU with AMX, which the compiler uses for plain products alone, wide convolutions are products.
Elsewhere the compiler's own convolution is used.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from pixelbert_jax.initializers import he_normal_fan_out
from pixelbert_jax.products import product, transposed, uses_amx

_MERGED_CHANNELS = {"cpu": 32, "tpu": 128}  # input channels that a merged dense kernel should have
_AMX_CHANNELS = 128  # inputs of each tap from which a convolution is made of products in bfloat16 with AMX
_PRODUCT_CHANNELS = 16  # input channels from which the kernel's gradient is made of matrix products on the CPU


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
    if platform == "cpu" and groups == 1 and size == 1:
        return pointwise(x_BxHxWxC[:, ::stride, ::stride], kernel_hxwxIxO[0, 0])
    if platform == "cpu" and groups == 1 and stride <= size and x_BxHxWxC.shape[-1] >= _PRODUCT_CHANNELS:
        return _gradient_by_products(x_BxHxWxC, kernel_hxwxIxO, stride, uses_amx(platform, x_BxHxWxC.dtype))
    if groups > 1 and platform in _MERGED_CHANNELS:
        return merged_groups(x_BxHxWxC, kernel_hxwxIxO, stride, groups, _MERGED_CHANNELS[platform])
    return native(x_BxHxWxC, kernel_hxwxIxO, stride, groups)


def native(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> jax.Array:
    """The compiler's own convolution of x BxHxWxC with a kernel hxwxIxO, I = C / groups, padded as `convolve` does."""
    padding = (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def pointwise(x_BxHxWxC: jax.Array, kernel_IxO: jax.Array) -> jax.Array:
    """A 1x1 convolution over a flat list of cells, whose gradients the CPU backend does not transpose first."""
    flat = product(x_BxHxWxC.reshape(-1, x_BxHxWxC.shape[-1]), kernel_IxO, platform="cpu")
    return flat.reshape(*x_BxHxWxC.shape[:3], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _gradient_by_products(x: jax.Array, kernel: jax.Array, stride: int, amx: bool) -> jax.Array:
    """A convolution with the gradient of its kernel as a few large matrix products.

    Args:
      amx: matrix products are so much faster than the compiler's convolutions that they replace wide ones too.
    """
    if amx and stride * x.shape[-1] >= _AMX_CHANNELS:
        return by_products(x, kernel, stride)
    return native(x, kernel, stride, 1)


def _forward(x: jax.Array, kernel: jax.Array, stride: int, amx: bool) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _gradient_by_products(x, kernel, stride, amx), (x, kernel)


def _backward(stride: int, amx: bool, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    if stride > 1:
        dx = _input_gradient(dy, kernel, x.shape[1:3], stride)
    elif amx and dy.shape[-1] >= _AMX_CHANNELS:
        dx = by_products(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), 1)
    else:
        (dx,) = jax.linear_transpose(lambda x: native(x, kernel, 1, 1), x)(dy)
    return dx, _kernel_gradient(x, dy, kernel.shape[0], stride, amx)


_gradient_by_products.defvjp(_forward, _backward)


def _input_gradient(dy: jax.Array, kernel: jax.Array, canvas: tuple[int, int], stride: int) -> jax.Array:
    """Gradient BxHxWxI as `stride`² convolutions of dy, one for each remainder of a row and a column, interleaved."""
    padding = (kernel.shape[0] - 1) // 2
    lengths = [-(-(n + padding) // stride) for n in canvas]

    def phase(row: int, column: int) -> jax.Array:
        taps = jnp.flip(kernel[row::stride, column::stride], (0, 1))
        around = [
            (n - 1, length - cells) for n, length, cells in zip(taps.shape[:2], lengths, dy.shape[1:3], strict=True)
        ]
        return jax.lax.conv_general_dilated(dy, taps, (1, 1), around, dimension_numbers=("NHWC", "HWOI", "NHWC"))

    phases = range(stride)
    rows = [jnp.stack([phase(row, column) for column in phases], axis=3) for row in phases]
    dx = jnp.stack(rows, axis=2).reshape(len(dy), *(stride * n for n in lengths), -1)
    return dx[:, padding : padding + canvas[0], padding : padding + canvas[1]]


def by_products(x_BxHxWxI: jax.Array, kernel_nxnxIxO: jax.Array, stride: int) -> jax.Array:
    """The convolution BxhxwxO as a sum of matrix products over the windows' rows, one per column of the kernel."""
    size, inputs = len(kernel_nxnxIxO), x_BxHxWxI.shape[-1]
    padding = (size - 1) // 2
    height, width = (-(-n // stride) for n in x_BxHxWxI.shape[1:3])
    x = jnp.pad(x_BxHxWxI, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows_BxhxWxSxI = jnp.stack([x[:, i : i + stride * (height - 1) + 1 : stride] for i in range(size)], axis=3)
    total = jnp.zeros((), jnp.float32)
    for j in range(size):
        windows = rows_BxhxWxSxI[:, :, j : j + stride * (width - 1) + 1 : stride].reshape(-1, size * inputs)
        column = kernel_nxnxIxO[:, j].reshape(size * inputs, -1)
        total += jnp.dot(windows, column, preferred_element_type=jnp.float32)
    return total.astype(x.dtype).reshape(len(x), height, width, -1)


def _kernel_gradient(
    x_BxHxWxI: jax.Array, dy_BxhxwxO: jax.Array, size: int, stride: int, amx: bool = False
) -> jax.Array:
    """Gradient hxwxIxO: the windows' rows are stacked on the side of x, their columns on the side of dy.

    Column c of x belongs to tap j of output column q where c = stride * q + j. For all columns with the same remainder
    modulo the stride, one product of `size` shifted x with all shifted dy holds the gradient of every tap (i, j).
    """
    padding = (size - 1) // 2
    height, width, outputs = dy_BxhxwxO.shape[1:]
    inputs = x_BxHxWxI.shape[-1]
    after = [max(0, stride * n + size - x_BxHxWxI.shape[axis] - padding) for axis, n in ((1, height), (2, width))]
    x = jnp.pad(x_BxHxWxI, ((0, 0), *((padding, a) for a in after), (0, 0)))
    taps: list[jax.Array] = [jnp.zeros(())] * size
    for first in range(stride):
        columns = range(first, size, stride)
        shifts = len(columns)
        # Stacked along an axis of its own: the CPU backend copies along the channels an order of magnitude slower.
        rows_BxhxcxSxI = jnp.stack(
            [
                x[
                    :,
                    i : i + stride * (height - 1) + 1 : stride,
                    first : first + stride * (width + shifts - 2) + 1 : stride,
                ]
                for i in range(size)
            ],
            axis=-2,
        )
        shifted_BxhxcxSxO = jnp.stack(
            [jnp.pad(dy_BxhxwxO, ((0, 0), (0, 0), (m, shifts - 1 - m), (0, 0))) for m in range(shifts)], axis=-2
        )
        rows_NxI = rows_BxhxcxSxI.reshape(-1, size * inputs)
        gradient = jnp.dot(
            transposed(rows_NxI) if amx else rows_NxI.T,
            shifted_BxhxcxSxO.reshape(-1, shifts * outputs),
        )
        for m, column in enumerate(columns):
            taps[column] = gradient.reshape(size, inputs, shifts, outputs)[:, :, m]
    return jnp.stack(taps, axis=1)


def merged_groups(x: jax.Array, kernel: jax.Array, stride: int, groups: int, channels: int) -> jax.Array:
    """Dense convolutions over slices of x BxHxWxC, each of several neighbouring groups with a block-diagonal kernel.

    Groups of the kernel hxwxIxO, I = C / groups, are merged until a dense one has `channels` inputs.
    """
    height, width, inputs, outputs = kernel.shape
    merge = 1
    while merge * inputs < channels and groups % (merge * 2) == 0:
        merge *= 2
    slices = groups // merge
    blocks_hxwxIxSxMxo = kernel.reshape(height, width, inputs, slices, merge, outputs // groups)
    dense = jnp.einsum("hwismo,mn->hwsnimo", blocks_hxwxIxSxMxo, jnp.eye(merge, dtype=kernel.dtype))
    dense_hxwxSxIxO = dense.reshape(height, width, slices, merge * inputs, outputs // slices)
    return jnp.concatenate(
        [native(part, dense_hxwxSxIxO[:, :, i], stride, 1) for i, part in enumerate(jnp.split(x, slices, axis=-1))],
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
