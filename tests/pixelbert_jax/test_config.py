"""Presets have the sizes that the papers and others report; bad values are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from pixelbert_jax import config as configs
from pixelbert_jax.config import (
    EncoderConfig,
    PixelBertConfig,
    PixelsConfig,
    ResNetConfig,
    TextConfig,
)
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.pixelbert import PixelBert
from pixelbert_jax.tasks.pretraining import ModelForPretraining, PretrainingConfig
from pixelbert_jax.training.optimizer import parameter_count
from tests.pixelbert_jax.helpers import small_model

CLASSIFIER = 2048 * 1000 + 1000  # ImageNet's last layer, which published counts include
ENCODER = 12 * (
    4 * (768 * 768 + 768)  # query, key, value, output
    + (768 * 3072 + 3072)
    + (3072 * 768 + 768)
    + 2 * 2 * 768  # two LayerNorms
)


def count(build):
    """Parameters of a module that is never made."""
    module = nnx.eval_shape(build)
    return parameter_count(nnx.state(module, nnx.Param))


def backbone_count(config):
    model = dataclasses.replace(small_model(), backbone=config)
    module = nnx.eval_shape(lambda: PixelBert(model, platform="cpu", rngs=nnx.Rngs(params=0)))
    return parameter_count(nnx.state(module.backbone, nnx.Param))


def bottleneck_network(depths, groups, group_width):
    """Parameters of a ResNeXt by arithmetic: kernels, and two for each normalised channel."""
    total, inputs = 7 * 7 * 3 * 64 + 2 * 64, 64
    for stage, depth in enumerate(depths):
        inner, outputs = groups * group_width * 2**stage, 256 * 2**stage
        for block in range(depth):
            total += inputs * inner + 9 * inner * (inner // groups) + inner * outputs
            total += 2 * (inner + inner + outputs)
            total += (inputs * outputs + 2 * outputs) if block == 0 else 0
            inputs = outputs
    return total


@pytest.mark.parametrize(
    ("backbone", "published"),
    [
        (configs.RESNET50, 25_557_032),
        (configs.RESNET101, 44_549_160),
        (configs.RESNET152, 60_192_808),
        (configs.RESNEXT101_32X8D, 88_791_336),
    ],
)
def test_backbones_have_torchvisions_counts(backbone, published):
    assert backbone_count(backbone) == published - CLASSIFIER


@pytest.mark.parametrize(
    ("backbone", "group_width", "millions"),
    [(configs.RESNEXT152_32X4D, 4, 57.9), (configs.RESNEXT152_32X8D, 8, 120.3)],
)
def test_resnext152_counts(backbone, group_width, millions):
    expected = bottleneck_network((3, 8, 36, 3), 32, group_width)
    assert backbone_count(backbone) == expected
    assert round(expected / 1e6, 1) == millions


def test_arithmetic_of_this_file():
    assert bottleneck_network((3, 4, 6, 3), 1, 64) == 25_557_032 - CLASSIFIER
    assert ENCODER == 85_054_464  # BERT-base without embeddings and pooler


def test_whole_model_count():
    pixels = (2048 * 768 + 768) + 768  # projection and s_v
    text = 30522 * 768 + 512 * 768 + 2 * 768
    heads = (768 * 768 + 768) + 2 * 768 + 30522 + (768 + 1)
    built = count(lambda: ModelForPretraining(configs.pixelbert_r50(), platform="cpu", rngs=nnx.Rngs(params=0)))
    assert built == (25_557_032 - CLASSIFIER) + pixels + text + ENCODER + heads


def test_presets():
    assert configs.pixelbert_r50().backbone == configs.RESNET50
    assert configs.pixelbert_x152().backbone == configs.RESNEXT152_32X4D
    for preset in (configs.pixelbert_r50(), configs.pixelbert_x152()):
        assert preset.stride == 64
        assert preset.encoder == EncoderConfig(layers=12, width=768, heads=12, mlp_width=3072)
    assert configs.pixelbert_tiny().stride == 32
    tiny = count(lambda: PixelBert(configs.pixelbert_tiny(), platform="cpu", rngs=nnx.Rngs(params=0)))
    assert 5e6 < tiny < 15e6


@pytest.mark.parametrize(
    ("size", "ceil", "floor"),
    [  # stride-32 map: 25x42, 19x32, 2x2, 1x1
        ((800, 1333), (13, 21), (12, 21)),
        ((600, 1000), (10, 16), (9, 16)),
        ((64, 33), (1, 1), (1, 1)),
        ((1, 1), (1, 1), (1, 1)),
    ],
)
def test_grid_sizes(size, ceil, floor):
    model = configs.pixelbert_r50()
    assert model.grid(*size) == ceil
    rounded = dataclasses.replace(model, pixels=PixelsConfig(grid_rounding="floor"))
    assert rounded.grid(*size) == floor


@pytest.mark.parametrize("rounding", ["ceil", "floor"])
@pytest.mark.parametrize("pool", [True, False])
def test_grid_is_what_the_model_makes(rounding, pool):
    """Valid pixels of an image count as many as its grid has, and the canvas's as its own."""
    model = small_model(pixels={"grid_rounding": rounding, "pool": pool})
    module = nnx.eval_shape(lambda: PixelBert(model, platform="cpu", rngs=nnx.Rngs(params=0)))
    canvas = (64, 96)
    sizes = [(64, 96), (63, 17), (33, 81), (9, 40), (1, 1), (25, 57)]
    graphdef, state = nnx.split(module)
    zeros = jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), nnx.as_pure(state))
    images = jnp.zeros((len(sizes), *canvas, 3), jnp.uint8)
    _, mask = jax.jit(lambda state: nnx.merge(graphdef, state).encode_image(images, jnp.array(sizes)))(zeros)
    rows, columns = model.grid(*canvas)
    assert mask.shape[1] == rows * columns
    for size, valid in zip(sizes, mask.reshape(-1, rows, columns), strict=True):
        height, width = model.grid(*size)
        assert valid[:height, :width].all() and valid.sum() == height * width


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ResNetConfig(depths=(3, 4)), "one entry per stage"),
        (lambda: ResNetConfig(frozen_parts=6), "frozen_parts=6"),
        (lambda: ResNetConfig(frozen_parts=-1), "frozen_parts=-1"),
        (lambda: ResNetConfig(groups=3), "groups=3"),
        (lambda: ResNetConfig(block="basic", stride_in="conv1x1"), "stride_in='conv1x1' needs block='bottleneck'"),
        (lambda: ResNetConfig(stride_in="conv2x2"), "stride_in='conv2x2' must be one of 'conv3x3', 'conv1x1'"),
        (lambda: ResNetConfig(norm="group", norm_groups=48), "norm_groups=48"),
        (lambda: EncoderConfig(width=100, heads=12), "heads=12"),
        (lambda: EncoderConfig(dropout=1.0), "encoder.dropout"),
        (lambda: EncoderConfig(attention_dropout=-0.1), "attention_dropout"),
        (lambda: PretrainingConfig(sampled_pixels=-1), "sampled_pixels=-1"),
        (lambda: PretrainingConfig(mlm_weight=0, itm_weight=0), "one must be positive"),
        (lambda: PretrainingConfig(mlm_weight=-1), "must not be negative"),
        (
            lambda: PixelBert(PixelBertConfig(text=TextConfig(vocabulary_size=0)), rngs=nnx.Rngs(params=0)),
            "vocabulary_size is 0",
        ),
    ],
)
def test_errors(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
