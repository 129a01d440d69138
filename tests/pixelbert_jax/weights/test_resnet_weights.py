"""The backbone's weights: parity of all stages with PyTorch by every naming, and what does not fit."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pixelbert_jax.config import RESNET50, ResNetConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.resnet import ResNet
from pixelbert_jax.weights.resnet import resnet_parameters

torch = pytest.importorskip("torch")
from tests.pixelbert_jax.weights.references import (  # noqa: E402
    TorchResNet,
    filled,
    hugging_face_resnet,
    run,
    shake,
)

SMALL = ResNetConfig(
    depths=(2, 1, 2, 1), widths=(32, 48, 64, 80), inner_widths=(8, 12, 16, 20), stem_width=16, remat=False
)
RESNEXT = dataclasses.replace(SMALL, groups=4, inner_widths=(16, 24, 32, 48))
STRIDE_IN_1X1 = dataclasses.replace(SMALL, stride_in="conv1x1")
BASIC = dataclasses.replace(SMALL, block="basic", inner_widths=SMALL.widths)
GROUP_NORM = dataclasses.replace(SMALL, norm="group", norm_groups=4)


def torch_model(config):
    return shake(TorchResNet(config))


def numpy_state(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


def save(model, file, change=None):
    """The state dict of a model as safetensors, changed before."""
    tensors = numpy_state(model)
    if change:
        tensors = change(tensors) or tensors
    save_file(tensors, file)
    return str(file)


def assert_parity(config, name, stages_of, size=(75, 107)):
    """All stages agree, on an image whose maps are odd at every stride."""
    arrays = resnet_parameters(name, config).arrays
    graphdef, state = filled(lambda rngs: ResNet(config, platform="cpu", rngs=rngs), arrays, "model.backbone")
    image = np.random.default_rng(3).normal(0, 1, (1, *size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = [stage.numpy() for stage in stages_of(torch.from_numpy(image.transpose(0, 3, 1, 2)))]
    stages = run(graphdef, state, lambda module, image: module.all_stages(image, jnp.array([size])), image)
    assert len(stages) == len(expected) == len(config.depths)
    for (features, _), reference in zip(stages, expected, strict=True):
        reference = reference.transpose(0, 2, 3, 1)
        assert np.abs(reference).max() > 0.1
        np.testing.assert_allclose(features, reference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [SMALL, RESNEXT, BASIC])
def test_torchvision_names(tmp_path, config):
    model = torch_model(config)
    assert_parity(config, save(model, tmp_path / "resnet.safetensors"), model)


def test_real_resnet50(tmp_path):
    model = torch_model(RESNET50)
    assert sum(value.numel() for value in model.parameters()) - model.fc.weight.numel() - 10 == 23_508_032
    assert_parity(RESNET50, save(model, tmp_path / "resnet50.safetensors"), model, (64, 96))


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_torch_file_of_data_parallel(tmp_path, wrapper):
    model = torch_model(RESNEXT)
    state = torch.nn.DataParallel(model).state_dict()
    assert "module.layer1.0.conv1.weight" in state and "module.bn1.num_batches_tracked" in state
    torch.save({wrapper: state, "epoch": 90}, tmp_path / "checkpoint.pth")
    assert_parity(RESNEXT, str(tmp_path / "checkpoint.pth"), model)


def test_a_file_of_lightning(tmp_path):
    model = torch_model(RESNEXT)
    file = save(
        model, tmp_path / "a.safetensors", lambda tensors: {f"model._orig_mod.{n}": t for n, t in tensors.items()}
    )
    assert_parity(RESNEXT, file, model)


def test_timm_folder(tmp_path):
    """timm's names are torchvision's; its config.json has other fields than Hugging Face's."""
    model = torch_model(RESNEXT)
    save(model, tmp_path / "model.safetensors")
    content = {"architecture": "resnext50_32x4d", "num_classes": 10, "pretrained_cfg": {"first_conv": "conv1"}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert_parity(RESNEXT, str(tmp_path), model)
    (tmp_path / "config.json").write_text(json.dumps(content | {"architecture": "resnetaa50"}))
    with pytest.raises(ConfigError, match="resnetaa50 smooths"):
        resnet_parameters(str(tmp_path), RESNEXT)


@pytest.mark.parametrize("kind", ["ResNetModel", "ResNetForImageClassification"])
@pytest.mark.parametrize("config", [dataclasses.replace(SMALL, inner_widths=(8, 12, 16, 20)), BASIC])
def test_hugging_face_folder(tmp_path, kind, config):
    model = hugging_face_resnet(config, kind)
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert any(name.startswith("resnet.") for name in names) == (kind != "ResNetModel")
    assert_parity(config, str(tmp_path), lambda x: model(x, output_hidden_states=True).hidden_states[1:])


THREE_STAGES = dataclasses.replace(
    SMALL, depths=(2, 1, 2), widths=(32, 48, 64), inner_widths=(8, 12, 16), strides=(1, 2, 2)
)


def test_leading_stages(tmp_path):
    model = torch_model(SMALL)
    name = save(model, tmp_path / "resnet.safetensors")
    unused = resnet_parameters(name, THREE_STAGES).unused
    assert set(unused) == {name for name in model.state_dict() if name.startswith("layer4.")} and len(unused) == 24
    assert_parity(THREE_STAGES, name, lambda x: model(x)[:3])


def test_leading_stages_of_a_hugging_face_folder(tmp_path):
    model = hugging_face_resnet(SMALL)
    model.save_pretrained(tmp_path)
    unused = resnet_parameters(str(tmp_path), THREE_STAGES).unused
    assert unused and all(name.startswith("encoder.stages.3.") for name in unused)
    assert_parity(THREE_STAGES, str(tmp_path), lambda x: model(x, output_hidden_states=True).hidden_states[1:4])
    other = dataclasses.replace(THREE_STAGES, depths=(2, 1, 1))
    with pytest.raises(ConfigError, match=r"depths=\[2, 1, 2, 1\] \(here model\.backbone\.depths=\[2, 1, 1, 1\]\)"):
        resnet_parameters(str(tmp_path), other)


def test_fewer_blocks_or_more_stages_are_refused(tmp_path):
    name = save(torch_model(SMALL), tmp_path / "resnet.safetensors")
    with pytest.raises(ConfigError, match=r"tensors that are there are not known \(layer1\.1\."):
        resnet_parameters(name, dataclasses.replace(SMALL, depths=(1, 1, 2, 1)))
    name = save(torch_model(THREE_STAGES), tmp_path / "shallow.safetensors")
    with pytest.raises(ConfigError, match=r"tensors that the model needs are not there \(layer4\."):
        resnet_parameters(name, SMALL)


def test_stride_in_the_first_1x1(tmp_path):
    """Hugging Face's other placement; without its config.json the weights fit v1.5's too, which gives other numbers."""
    model = hugging_face_resnet(SMALL, downsample_in_bottleneck=True)
    model.save_pretrained(tmp_path)

    def stages_of(x):
        return model(x, output_hidden_states=True).hidden_states[1:]

    assert_parity(STRIDE_IN_1X1, str(tmp_path), stages_of)
    (tmp_path / "config.json").unlink()
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_parity(SMALL, str(tmp_path), stages_of)


def test_group_norm_weights_into_a_group_norm_model(tmp_path):
    def change(tensors):
        return {name: array for name, array in tensors.items() if "running" not in name and "num_batches" not in name}

    name = save(torch_model(SMALL), tmp_path / "x.safetensors", change)
    arrays = resnet_parameters(name, GROUP_NORM).arrays
    filled(lambda rngs: ResNet(GROUP_NORM, platform="cpu", rngs=rngs), arrays, "model.backbone")
    with pytest.raises(ConfigError, match=r"46 tensors .* are not there \(layer1\.0\.bn1\.running_mean"):
        resnet_parameters(name, SMALL)


# What does not fit.


def test_batch_norm_weights_into_a_group_norm_model(tmp_path):
    name = save(torch_model(SMALL), tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=r"BatchNorm weights, but model\.backbone\.norm='group'"):
        resnet_parameters(name, GROUP_NORM)


def deep_stem(tensors):
    weight = tensors.pop("conv1.weight")
    return tensors | {"conv1.0.weight": weight, "conv1.3.weight": weight}


def average_down(tensors):
    """timm puts a pooling layer in front, which moves the others by one."""
    return {
        name.replace("downsample.1.", "downsample.2.").replace("downsample.0.", "downsample.1."): array
        for name, array in tensors.items()
    }


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (deep_stem, "a stem of three convolutions"),
        (average_down, "average pooling in its shortcuts"),
        (lambda tensors: {f"x.{name}_": array for name, array in tensors.items()}, r"names as 'x\..*' are no ResNet's"),
        (
            lambda tensors: tensors | {"layer1.0.se.fc1.weight": np.zeros((2, 2), np.float32)},
            r"1 tensors that are there are not known \(layer1\.0\.se\.fc1\.weight\)",
        ),
    ],
)
def test_variants_are_refused(tmp_path, change, match):
    name = save(torch_model(SMALL), tmp_path / "x.safetensors", change)
    with pytest.raises(ConfigError, match=match) as error:
        resnet_parameters(name, SMALL)
    assert name in str(error.value)


def test_another_architecture(tmp_path):
    name = save(torch_model(SMALL), tmp_path / "x.safetensors")
    with pytest.raises(ConfigError) as error:
        resnet_parameters(name, dataclasses.replace(SMALL, depths=(2, 2, 1, 1), stem_width=8))
    for part in (
        "15 tensors that the model needs are not there (layer2.1.conv1.weight",
        "15 tensors that are there are not known (layer3.1.bn1.bias",
        "and 11 more",
        "conv1.weight: 16x3x7x7, model.backbone.stem.conv.kernel: 7x7x3x8",
    ):
        assert part in str(error.value)


def test_other_groups(tmp_path):
    name = save(torch_model(RESNEXT), tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=r"layer1\.0\.conv2\.weight: 16x4x3x3, .*convs\.1\.kernel: 3x3x8x16"):
        resnet_parameters(name, dataclasses.replace(RESNEXT, groups=2))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"downsample_in_bottleneck": True}, r"downsample_in_bottleneck=True \(here model\.backbone\.stride_in"),
        ({"layer_type": "basic"}, r"layer_type='basic' \(here model\.backbone\.block='bottleneck'\)"),
        ({"depths": [2, 1, 2, 2]}, r"depths=\[2, 1, 2, 2\] \(here model\.backbone\.depths=\[2, 1, 2, 1\]\)"),
        ({"hidden_sizes": [32, 48, 64, 84]}, r"hidden_sizes=.*model\.backbone\.widths"),
        ({"hidden_act": "gelu"}, r"hidden_act='gelu' \(here always 'relu'\)"),
        ({"downsample_in_first_stage": True}, r"downsample_in_first_stage=True .*strides"),
    ],
)
def test_another_hugging_face_config(tmp_path, fields, match):
    hugging_face_resnet(SMALL, **fields).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=match):
        resnet_parameters(str(tmp_path), SMALL)


@pytest.mark.parametrize("written", [True, False])
def test_a_hugging_face_config_of_v1_5_for_the_other_placement(tmp_path, written):
    """Files from before the field was there do not have it."""
    hugging_face_resnet(SMALL).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content.pop("downsample_in_bottleneck") is False
    if not written:
        (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"downsample_in_bottleneck=False \(here model\.backbone\.stride_in"):
        resnet_parameters(str(tmp_path), STRIDE_IN_1X1)


def test_basic_blocks_have_one_placement(tmp_path):
    """Hugging Face does not read the field for them."""
    hugging_face_resnet(BASIC, downsample_in_bottleneck=True).save_pretrained(tmp_path)
    assert resnet_parameters(str(tmp_path), BASIC).arrays


def test_a_bert_is_no_resnet(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architecture": null}')
    save_file({"bert.embeddings.LayerNorm.gamma": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"bert\.embeddings\.LayerNorm\.gamma"):
        resnet_parameters(str(tmp_path), SMALL)
