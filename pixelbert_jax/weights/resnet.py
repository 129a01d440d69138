"""ResNet's and ResNeXt's weights: state dicts of torchvision and timm, and Hugging Face ResNetModel."""

from typing import Any

import numpy as np

from pixelbert_jax.config import ResNetConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.resnet import ResNet
from pixelbert_jax.weights.conversion import Loaded, Row, convert, convolution, renamed, shapes, split_off
from pixelbert_jax.weights.files import check_config, find, read_config, read_published


def _table(stem: tuple[str, str], block: tuple[str, str], shortcut: tuple[str, str]) -> tuple[Row, ...]:
    """Rows from the sources' names of convolution and normalisation in the stem, in a block, and beside it."""
    here = "model.backbone."
    layers = (
        (f"{here}stem.conv", f"{here}stem.norm", *stem),
        (f"{here}stages.{{stage}}.{{block}}.convs.{{i}}", f"{here}stages.{{stage}}.{{block}}.norms.{{i}}", *block),
        (
            f"{here}stages.{{stage}}.{{block}}.shortcut",
            f"{here}stages.{{stage}}.{{block}}.shortcut_norm",
            *shortcut,
        ),
    )
    leaves = {"scale": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}
    rows = []
    for conv, norm, source_conv, source_norm in layers:
        rows.append(Row(f"{conv}.kernel", (f"{source_conv}.weight",), convolution))
        rows += [Row(f"{norm}.{ours}", (f"{source_norm}.{theirs}",)) for ours, theirs in leaves.items()]
    return tuple(rows)


TORCHVISION = _table(  # timm has the same names
    ("conv1", "bn1"),
    ("layer{stage+1}.{block}.conv{i+1}", "layer{stage+1}.{block}.bn{i+1}"),
    ("layer{stage+1}.{block}.downsample.0", "layer{stage+1}.{block}.downsample.1"),
)
_HF_BLOCK = "encoder.stages.{stage}.layers.{block}"
HUGGING_FACE = _table(
    ("embedder.embedder.convolution", "embedder.embedder.normalization"),
    (f"{_HF_BLOCK}.layer.{{i}}.convolution", f"{_HF_BLOCK}.layer.{{i}}.normalization"),
    (f"{_HF_BLOCK}.shortcut.convolution", f"{_HF_BLOCK}.shortcut.normalization"),
)
_STAGES = {  # start of a stage's names, and the first one's number
    TORCHVISION: (r"layer(?P<number>\d+)\.", 1),
    HUGGING_FACE: (r"encoder\.stages\.(?P<number>\d+)\.", 0),
}
_ROOTS = (  # names by which a source's own naming is known; also of a deep stem, which is refused by name
    "conv1.weight",
    "conv1.0.weight",
    "embedder.embedder.convolution.weight",
    "resnet.embedder.embedder.convolution.weight",
)
_ALLOWED = (r".*\.num_batches_tracked", r"fc\..*", r"classifier\..*")


def resnet_parameters(name_or_path: str, config: ResNetConfig) -> Loaded:
    """All convolutions, scales, biases and stored statistics of the backbone.

    A source with more stages than the backbone gives its leading ones.

    State dicts do not say which convolution has the stride: `model.backbone.stride_in` decides. Its default is v1.5's
    3x3, as in torchvision, timm and Hugging Face. A config.json of Hugging Face names the convolution and must agree.

    Args:
      name_or_path: a file, a folder, or a Hugging Face name.
      config: the backbone that takes the weights.

    Returns:
      Arrays by their names in ModelForPretraining: `model.backbone.stem.conv.kernel` (hxwxIxO), ...; and the names of
      the tensors of further stages, which stay unused.

    Raises:
      ConfigError: no such weights, broken ones, or ones that do not fit the config.
    """
    path = find(name_or_path)
    _check_config(read_config(path), config, name_or_path)
    tensors = renamed(read_published(path, _ROOTS), lambda name: name.removeprefix("resnet."), name_or_path)
    table = _choose_table(tensors, name_or_path)
    if config.norm == "group" and any(name.endswith(".running_mean") for name in tensors):
        raise ConfigError(
            f"{name_or_path} holds BatchNorm weights, but model.backbone.norm='group'; set model.backbone.norm='batch' "
            "or leave init.backbone empty."
        )
    pattern, first = _STAGES[table]
    unused = split_off(tensors, pattern, {number: number for number in range(first, first + len(config.depths))})
    targets = shapes(lambda rngs: ResNet(config, platform="cpu", rngs=rngs), "model.backbone")
    return Loaded(convert(tensors, table, targets, source=name_or_path, allowed=_ALLOWED), unused=unused)


def _choose_table(tensors: dict[str, np.ndarray], source: str) -> tuple[Row, ...]:
    if "embedder.embedder.convolution.weight" in tensors:
        return HUGGING_FACE
    deep_stem = "conv1.0.weight" in tensors
    average_down = any(name.endswith(".downsample.1.weight") and array.ndim == 4 for name, array in tensors.items())
    if deep_stem or average_down:
        variant = "a stem of three convolutions" if deep_stem else "average pooling in its shortcuts"
        raise ConfigError(
            f"{source} is a ResNet variant with {variant} (timm's ...c, ...d or ...t), which this backbone has not; "
            "take plain ResNet or ResNeXt weights."
        )
    if "conv1.weight" not in tensors:
        raise ConfigError(
            f"{source}: names as {next(iter(tensors), 'none')!r} are no ResNet's of torchvision, timm or Hugging Face; "
            "give init.backbone one of these."
        )
    return TORCHVISION


def _check_config(found: dict[str, Any], config: ResNetConfig, source: str) -> None:
    """Compare a config.json of Hugging Face or timm with ours."""
    architecture = str(found.get("architecture", ""))  # only timm has it
    if "aa" in architecture or "blur" in architecture:
        raise ConfigError(
            f"{source}: {architecture} smooths before it strides, which this backbone does not; take a plain ResNet."
        )
    if "layer_type" not in found and found.get("model_type") != "resnet":
        return
    expected = {
        "model_type": ("resnet", ""),
        "layer_type": (config.block, "model.backbone.block"),
        "depths": (_leading(found.get("depths"), config.depths), "model.backbone.depths"),
        "hidden_sizes": (_leading(found.get("hidden_sizes"), config.widths), "model.backbone.widths"),
        "hidden_act": ("relu", ""),
        "downsample_in_first_stage": (config.strides[0] == 2, "model.backbone.strides[0] == 2"),
    }
    if config.block == "bottleneck":  # Hugging Face reads the field for these only, and takes False where there is none
        found = {"downsample_in_bottleneck": False} | found
        expected["downsample_in_bottleneck"] = (config.stride_in == "conv1x1", "model.backbone.stride_in == 'conv1x1'")
    check_config(found, expected, source)


def _leading(found: Any, ours: tuple[int, ...]) -> list[int]:
    """Ours, followed by what the file has for further stages, which stay unused."""
    return [*ours, *(found[len(ours) :] if isinstance(found, list) else ())]
