"""Normalisation of feature maps over the valid region of each image only.

Statistics are float32. Padding does not count in them, so an image is normalised in the same way alone and on a larger
canvas.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from pixelbert_jax.config import ResNetConfig


class BatchNorm(nnx.Module):
    """BatchNorm with stored statistics (`frozen`), or with those of the valid cells of the whole batch (`train`).

    Under `jax.jit` with a sharded batch the statistics are those of the global batch, on every device.
    """

    def __init__(self, channels: int, config: ResNetConfig) -> None:
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.variance = nnx.BatchStat(jnp.ones(channels))
        self.epsilon, self.momentum = config.norm_epsilon, config.batch_momentum
        self.trains_statistics = config.batch_statistics == "train"

    def __call__(self, x_BxHxWxC: jax.Array, mask_BxHxWx1: jax.Array, train: bool) -> jax.Array:
        if train and self.trains_statistics:
            x, weight = x_BxHxWxC.astype(jnp.float32), mask_BxHxWx1.astype(jnp.float32)
            count = weight.sum()
            mean = (x * weight).sum((0, 1, 2)) / count
            variance = (jnp.square(x - _channels(mean)) * weight).sum((0, 1, 2)) / count
            unbiased = variance * count / jnp.maximum(count - 1, 1)  # what torch stores
            for stored, new in ((self.mean, mean), (self.variance, unbiased)):
                stored[...] = self.momentum * stored[...] + (1 - self.momentum) * jax.lax.stop_gradient(new)
        else:
            mean, variance = self.mean[...], self.variance[...]
        scale = self.scale[...] * jax.lax.rsqrt(variance + self.epsilon)
        shift = self.bias[...] - mean * scale
        # In float32: a bfloat16 product and sum lose channels whose mean is far from zero.
        return (x_BxHxWxC.astype(jnp.float32) * _channels(scale) + _channels(shift)).astype(x_BxHxWxC.dtype)


class GroupNorm(nnx.Module):
    """GroupNorm (Wu and He 2018) over the valid cells of each image: the choice for backbones trained from scratch."""

    def __init__(self, channels: int, config: ResNetConfig) -> None:
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.groups, self.epsilon = config.norm_groups, config.norm_epsilon

    def __call__(self, x_BxHxWxC: jax.Array, mask_BxHxWx1: jax.Array, train: bool) -> jax.Array:
        del train
        batch, channels = x_BxHxWxC.shape[0], x_BxHxWxC.shape[-1]
        x = x_BxHxWxC.astype(jnp.float32)
        weight = mask_BxHxWx1.astype(jnp.float32)
        count = weight.sum((1, 2)) * (channels // self.groups)  # Bx1

        def group_mean(values_BxHxWxC: jax.Array) -> jax.Array:
            sums_BxC = (values_BxHxWxC * weight).sum((1, 2))
            mean_BxG = sums_BxC.reshape(batch, self.groups, -1).sum(-1) / count
            return jnp.repeat(mean_BxG, channels // self.groups, axis=-1)[:, None, None]

        mean = group_mean(x)
        variance = group_mean(jnp.square(x - mean))
        normalized = (x - mean) * jax.lax.rsqrt(variance + self.epsilon)
        return (normalized * _channels(self.scale[...]) + _channels(self.bias[...])).astype(x_BxHxWxC.dtype)


def make_norm(channels: int, config: ResNetConfig) -> BatchNorm | GroupNorm:
    """The normalisation that `config.norm` names."""
    return BatchNorm(channels, config) if config.norm == "batch" else GroupNorm(channels, config)


def _channels(vector_C: jax.Array) -> jax.Array:
    return vector_C[None, None, None, :]
