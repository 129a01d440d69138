"""The shapes of Pixel-BERT and ImageBERT: frozen dataclasses and the papers' presets.

Every gap that the paper leaves open is a field here, with its reason in docs/fidelity.md.
"""

import dataclasses
import reprlib
import typing
from typing import Any, Literal

from pixelbert_jax.errors import ConfigError

_MOST_LAYERS, _MOST_STAGES, _MOST_WIDTH, _MOST_ROWS = 1000, 16, 1 << 20, 1 << 24  # above those of any model


def check_choices(config: Any, name: str) -> None:
    """Refuse a field whose annotation lists its values (Literal) and that has another.

    Raises:
      ConfigError: it names the field below `name` and the values.
    """
    for field, hint in typing.get_type_hints(type(config)).items():
        if typing.get_origin(hint) is Literal and getattr(config, field) not in typing.get_args(hint):
            choices = ", ".join(map(repr, typing.get_args(hint)))
            raise ConfigError(f"{name}.{field}={getattr(config, field)!r} must be one of {choices}.")


def check_sizes(config: Any, name: str, limits: dict[str, tuple[int, int]]) -> None:
    """Refuse sizes that no model has, before anything of that size is built. A shared model's file may hold any number.

    Args:
      config: a dataclass.
      name: its name in the error message.
      limits: field (a number or a tuple of numbers) -> least and greatest value.

    Raises:
      ConfigError: it names the field below `name` and the limits.
    """
    for field, (least, most) in limits.items():
        value = getattr(config, field)
        if not all(least <= number <= most for number in (value if isinstance(value, tuple) else (value,))):
            raise ConfigError(f"{name}.{field}={reprlib.repr(value)} must lie between {least} and {most}.")


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """A ResNet or ResNeXt in NHWC.

    The stride of a bottleneck lies on the 3x3 (torchvision's v1.5) or on the first 1x1 (He et al. 2015): `stride_in`.
    A "part" is the stem or one stage, counted from the image: part 1 is the stem, part 2 the first stage.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)  # blocks per stage
    widths: tuple[int, ...] = (256, 512, 1024, 2048)  # output channels per stage
    inner_widths: tuple[int, ...] = (64, 128, 256, 512)  # channels of the 3x3 convolution, per stage
    strides: tuple[int, ...] = (1, 2, 2, 2)  # of each stage's first block
    groups: int = 1  # of the 3x3 convolution in a bottleneck
    block: Literal["bottleneck", "basic"] = "bottleneck"
    stride_in: Literal["conv3x3", "conv1x1"] = "conv3x3"  # of a bottleneck: v1.5, or the original (Caffe, Detectron)
    stem: Literal["conv7x7_pool", "conv3x3"] = "conv7x7_pool"  # total stride 4, or stem_stride
    stem_width: int = 64
    stem_stride: int = 2  # of the stem's convolution
    norm: Literal["batch", "group"] = "batch"
    batch_statistics: Literal["frozen", "train"] = "frozen"  # frozen: use the stored ones, never update them
    batch_momentum: float = 0.9  # share of the old running statistic that a step keeps (torch's 0.1 is 0.9 here)
    norm_groups: int = 32  # of GroupNorm
    norm_epsilon: float = 1e-5
    frozen_parts: int = 2  # leading parts that get no gradient and no weight decay
    remat: bool = True  # recompute each block in the backward pass

    def __post_init__(self) -> None:
        check_choices(self, "model.backbone")
        sizes = ("widths", "inner_widths", "groups", "stem_width", "norm_groups")
        limits = {"depths": (1, _MOST_LAYERS), "strides": (1, _MOST_LAYERS), "stem_stride": (1, _MOST_LAYERS)}
        check_sizes(self, "model.backbone", limits | dict.fromkeys(sizes, (1, _MOST_WIDTH)))
        lengths = {len(self.depths), len(self.widths), len(self.inner_widths), len(self.strides)}
        if len(lengths) != 1:
            raise ConfigError(
                "model.backbone: depths, widths, inner_widths and strides must have one entry per stage; "
                f"they have {len(self.depths)}, {len(self.widths)}, {len(self.inner_widths)} and {len(self.strides)}."
            )
        if not 1 <= len(self.depths) <= _MOST_STAGES:
            raise ConfigError(f"model.backbone.depths has {len(self.depths)} stages; give 1 to {_MOST_STAGES}.")
        if not 0 <= self.frozen_parts <= len(self.depths) + 1:
            raise ConfigError(
                f"model.backbone.frozen_parts={self.frozen_parts}: choose 0 (nothing) to {len(self.depths) + 1} (all)."
            )
        for width in self.inner_widths:
            if self.block == "bottleneck" and width % self.groups:
                raise ConfigError(
                    f"model.backbone.groups={self.groups} does not divide the inner width {width}; choose a divisor."
                )
        if self.block == "basic" and self.groups != 1:
            raise ConfigError(f"model.backbone.groups={self.groups} needs block='bottleneck'; basic blocks have none.")
        if self.block == "basic" and self.stride_in != "conv3x3":
            raise ConfigError(
                f"model.backbone.stride_in={self.stride_in!r} needs block='bottleneck'; basic blocks have no 1x1."
            )
        channels = (self.stem_width, *self.inner_widths, *self.widths)
        if self.norm == "group" and any(c % self.norm_groups for c in channels):
            raise ConfigError(
                f"model.backbone.norm_groups={self.norm_groups} does not divide all of the widths {channels}; "
                "choose a divisor."
            )

    @property
    def stride(self) -> int:
        """Image pixels per cell of the last feature map, along one side."""
        stride = self.stem_stride * (2 if self.stem == "conv7x7_pool" else 1)
        for stage_stride in self.strides:
            stride *= stage_stride
        return stride

    @classmethod
    def resnet(cls, depths: tuple[int, ...], groups: int = 1, group_width: int = 64, **kwargs: Any) -> "ResNetConfig":
        """torchvision's family: ResNet-50/101/152 and ResNeXt-DEPTH groups x group_width d."""
        inner = tuple(planes * group_width * groups // 64 for planes in (64, 128, 256, 512))
        return cls(depths=depths, inner_widths=inner, groups=groups, **kwargs)


RESNET50 = ResNetConfig.resnet((3, 4, 6, 3))
RESNET101 = ResNetConfig.resnet((3, 4, 23, 3))
RESNET152 = ResNetConfig.resnet((3, 8, 36, 3))
RESNEXT101_32X8D = ResNetConfig.resnet((3, 4, 23, 3), groups=32, group_width=8)
RESNEXT152_32X4D = ResNetConfig.resnet((3, 8, 36, 3), groups=32, group_width=4)
RESNEXT152_32X8D = ResNetConfig.resnet((3, 8, 36, 3), groups=32, group_width=8)


@dataclasses.dataclass(frozen=True)
class PixelsConfig:
    """How the last feature map becomes pixel embeddings (paper section 3.1)."""

    pool: bool = True  # 2x2 max pool after the backbone: total stride 64
    grid_rounding: Literal["ceil", "floor"] = "ceil"  # what the pool does with an odd last row or column
    projection: Literal["pool_then_linear", "conv3x3_then_pool"] = "pool_then_linear"
    layer_norm: bool = False
    position: Literal["none", "sine2d", "rowcol"] = "none"
    max_grid: int = 32  # rows and columns of the learned tables, with position="rowcol"

    def __post_init__(self) -> None:
        check_choices(self, "model.pixels")
        check_sizes(self, "model.pixels", {"max_grid": (1, _MOST_WIDTH)})


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Token embeddings: w + p, LayerNorm, dropout."""

    vocabulary_size: int = 30522  # 0: taken from the run's vocabulary
    max_positions: int = 512
    segment: bool = False  # add a segment vector s to all text; ImageBERT has one, Pixel-BERT has none

    def __post_init__(self) -> None:
        check_sizes(self, "model.text", {"vocabulary_size": (0, _MOST_ROWS), "max_positions": (1, _MOST_ROWS)})


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """A BERT encoder with post-LayerNorm blocks."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    mlp_width: int = 3072
    activation: Literal["gelu", "relu"] = "gelu"
    dropout: float = 0.1  # after the embeddings, the attention's output and the MLP
    attention_dropout: float = 0.1  # on the attention's probabilities
    layer_norm_epsilon: float = 1e-12
    initializer_std: float = 0.02  # BERT's, for a width of 768; narrow models from scratch need more
    scan_unroll: int = 1  # layers per iteration of the scan: more compile time, less overhead for small models
    remat: Literal["none", "dots", "full"] = "dots"  # what the backward pass recomputes: nothing, all but products, all

    def __post_init__(self) -> None:
        check_choices(self, "model.encoder")
        limits = {"layers": (1, _MOST_LAYERS), "scan_unroll": (1, _MOST_LAYERS)}
        check_sizes(self, "model.encoder", limits | dict.fromkeys(("width", "heads", "mlp_width"), (1, _MOST_WIDTH)))
        if self.width % self.heads:
            raise ConfigError(
                f"model.encoder.width={self.width} is not a multiple of model.encoder.heads={self.heads}; change one."
            )
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.encoder.{name}={getattr(self, name)} must lie in [0, 1).")


@dataclasses.dataclass(frozen=True)
class PixelBertConfig:
    """A whole Pixel-BERT, without the heads of its tasks."""

    backbone: ResNetConfig = RESNET50
    pixels: PixelsConfig = PixelsConfig()
    text: TextConfig = TextConfig()
    encoder: EncoderConfig = EncoderConfig()
    dtype: Literal["bfloat16", "float32"] = "bfloat16"  # of activations; parameters and losses are float32
    image_mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # RGB in [0, 1], ImageNet's
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        check_choices(self, "model")

    @property
    def stride(self) -> int:
        """Image pixels per cell of the grid, along one side (64 in the paper)."""
        return self.backbone.stride * (2 if self.pixels.pool else 1)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of cells of an image (or a canvas) of `height` x `width` pixels."""
        rows, columns = (-(-side // self.backbone.stride) for side in (height, width))
        if self.pixels.pool:
            if self.pixels.grid_rounding == "ceil":
                rows, columns = -(-rows // 2), -(-columns // 2)
            else:
                rows, columns = max(1, rows // 2), max(1, columns // 2)
        return rows, columns


@dataclasses.dataclass(frozen=True)
class RegionsConfig:
    """A detector's regions (ImageBERT, section 3.2); the published features have 2048 numbers and 1600 classes."""

    feature_size: int = 2048  # length of a region's feature vector
    classes: int = 1600  # number of the detector's classes
    global_size: int = 0  # length of the whole image's feature vector, read as one more region; 0: none

    def __post_init__(self) -> None:
        if min(self.feature_size, self.classes) < 1 or self.global_size < 0:
            raise ConfigError(
                f"model.regions: feature_size={self.feature_size} and classes={self.classes} must be positive, "
                f"global_size={self.global_size} not negative."
            )


@dataclasses.dataclass(frozen=True)
class ImageBertConfig:
    """A whole ImageBERT, without the heads of its tasks."""

    regions: RegionsConfig = RegionsConfig()
    text: TextConfig = TextConfig(segment=True)
    encoder: EncoderConfig = EncoderConfig()
    dtype: Literal["bfloat16", "float32"] = "bfloat16"  # of activations; parameters and losses are float32

    def __post_init__(self) -> None:
        check_choices(self, "model")


ModelConfig = PixelBertConfig | ImageBertConfig


def imagebert_base() -> ImageBertConfig:
    """The paper's model: BERT-base over 100 regions and 44 tokens."""
    return ImageBertConfig()


def pixelbert_r50() -> PixelBertConfig:
    """The paper's smaller model: ResNet-50 and BERT-base."""
    return PixelBertConfig()


def pixelbert_x152() -> PixelBertConfig:
    """The paper's larger model; 32x4d is the width that fits the parameter count others report (docs/fidelity.md)."""
    return PixelBertConfig(backbone=RESNEXT152_32X4D)


def pixelbert_tiny() -> PixelBertConfig:
    """A few million parameters for a laptop: 12-layer basic-block network with GroupNorm from scratch, stride 32."""
    return PixelBertConfig(
        backbone=ResNetConfig(
            depths=(1, 1, 1, 1),
            widths=(32, 64, 128, 192),
            inner_widths=(32, 64, 128, 192),
            block="basic",
            stem_width=32,
            norm="group",
            norm_groups=8,
            frozen_parts=0,
            remat=False,
        ),
        pixels=PixelsConfig(pool=False),
        encoder=EncoderConfig(
            layers=4,
            width=192,
            heads=4,
            mlp_width=768,
            attention_dropout=0.0,
            initializer_std=0.06,
            remat="none",
        ),
        dtype="float32",
    )
