"""PyTorch models with random weights to convert from, and our modules filled with what was converted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.config import EncoderConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def shake(model, seed=0):
    """Every parameter and statistic away from the ones and zeros that hide errors; in evaluation mode."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(module, torch.nn.BatchNorm2d | torch.nn.LayerNorm):
                    parameter.uniform_(0.5, 1.0) if name == "weight" else parameter.normal_(0, 0.1)
                elif isinstance(module, torch.nn.Embedding) or parameter.ndim == 1:
                    parameter.normal_(0, 0.3)
            if isinstance(module, torch.nn.Linear):
                module.weight.normal_(0, 0.8 / module.weight.shape[1] ** 0.5)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def torch_bert(encoder: EncoderConfig, vocabulary: int, positions: int, kind="BertModel"):
    """A BERT of Hugging Face with the shape of our encoder."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        num_hidden_layers=encoder.layers,
        hidden_size=encoder.width,
        num_attention_heads=encoder.heads,
        intermediate_size=encoder.mlp_width,
        hidden_act=encoder.activation,
        layer_norm_eps=encoder.layer_norm_epsilon,
        vocab_size=vocabulary,
        max_position_embeddings=positions,
        attn_implementation="eager",
    )
    model = getattr(transformers, kind)(config)
    shake(model)
    model.tie_weights()
    return model


class TorchBlock(torch.nn.Module):
    """torchvision's residual blocks, by its names."""

    def __init__(self, inputs, inner, outputs, stride, groups, bottleneck):
        super().__init__()
        if bottleneck:
            shapes = [(inputs, inner, 1, 1, 1), (inner, inner, 3, stride, groups), (inner, outputs, 1, 1, 1)]
        else:
            shapes = [(inputs, inner, 3, stride, 1), (inner, outputs, 3, 1, 1)]
        self.count = len(shapes)
        for i, (a, b, size, step, g) in enumerate(shapes, start=1):
            conv = torch.nn.Conv2d(a, b, size, step, (size - 1) // 2, groups=g, bias=False)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", torch.nn.BatchNorm2d(b))
        self.downsample = None
        if stride != 1 or inputs != outputs:
            conv = torch.nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = torch.nn.Sequential(conv, torch.nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = torch.relu(y) if i < self.count else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(torch.nn.Module):
    """A ResNet or ResNeXt with torchvision's names, of the shape of our config; gives all stages."""

    def __init__(self, config):
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = torch.nn.Conv2d(3, config.stem_width, 7, 2, 3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(config.stem_width)
        inputs = config.stem_width
        self.stages = len(config.depths)
        for i in range(self.stages):
            blocks = []
            for j in range(config.depths[i]):
                stride = config.strides[i] if j == 0 else 1
                outputs, bottleneck = config.widths[i], config.block == "bottleneck"
                blocks.append(TorchBlock(inputs, config.inner_widths[i], outputs, stride, config.groups, bottleneck))
                inputs = outputs
            setattr(self, f"layer{i + 1}", torch.nn.Sequential(*blocks))
        self.fc = torch.nn.Linear(inputs, 10)

    def forward(self, x):
        x = torch.nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        outputs = []
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
            outputs.append(x)
        return outputs


def hugging_face_resnet(config, kind="ResNetModel", **fields):
    """A ResNet of Hugging Face with the shape of our config."""
    torch.manual_seed(0)
    fields = {
        "embedding_size": config.stem_width,
        "hidden_sizes": list(config.widths),
        "depths": list(config.depths),
        "layer_type": config.block,
    } | fields
    return shake(getattr(transformers, kind)(transformers.ResNetConfig(**fields)))


def filled(make, arrays, prefix):
    """Graph and state of a module, all of whose arrays are in `arrays`, below a prefix."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(params=0))))
    flat = nnx.to_flat_state(state)
    names = [".".join((prefix, *map(str, path))) for path, _ in flat]
    assert all(arrays[name].dtype == np.float32 for name in names)
    assert sorted(names) == sorted(name for name in arrays if name.startswith(f"{prefix}."))
    state = [(path, leaf.replace(jnp.asarray(arrays[name]))) for name, (path, leaf) in zip(names, flat, strict=True)]
    return graphdef, nnx.as_pure(nnx.from_flat_state(state))


def run(graphdef, state, function, *arguments):
    """function(module, *arguments), compiled."""
    return jax.jit(lambda state, *rest: function(nnx.merge(graphdef, state), *rest))(state, *arguments)


def overlaid(module, arrays):
    """Graph and state of an initialised module, with some arrays replaced by name."""
    graphdef, state = nnx.split(module)
    flat = {".".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    for name, array in arrays.items():
        path, leaf = flat[name]
        assert leaf.shape == array.shape, name
        flat[name] = (path, leaf.replace(jnp.asarray(array)))
    return graphdef, nnx.as_pure(nnx.from_flat_state(list(flat.values())))
