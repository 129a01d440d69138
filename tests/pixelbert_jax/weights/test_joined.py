"""Image and text together against PyTorch: ResNet, 2x2 pool, linear, s_v and BERT, each example alone and unpadded."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.config import EncoderConfig, ResNetConfig, TextConfig
from pixelbert_jax.tasks.pretraining import ModelForPretraining
from pixelbert_jax.training.step import TrainState
from pixelbert_jax.weights.initialize import InitConfig, apply, load_initial
from tests.pixelbert_jax.helpers import randomize, small_model

torch = pytest.importorskip("torch")
from tests.pixelbert_jax.weights.references import hugging_face_resnet, torch_bert  # noqa: E402

CONFIG = dataclasses.replace(
    small_model(),
    backbone=ResNetConfig(depths=(1, 2, 1, 1), widths=(32, 48, 64, 80), inner_widths=(8, 12, 16, 20), stem_width=16),
    encoder=EncoderConfig(layers=2, width=32, heads=4, mlp_width=64, initializer_std=0.1),
    text=TextConfig(60, 20),
)
SIZES = ((230, 345), (370, 150))  # landscape and portrait; 8x11 and 12x5 cells of the backbone: odd ones to pool
CANVAS = (384, 384)
LENGTHS = (9, 4)


def torch_hidden(resnet, bert, linear, segment, image, ids):
    """Hidden states of one example."""
    mean, std = torch.tensor(CONFIG.image_mean), torch.tensor(CONFIG.image_std)
    pixels = ((torch.from_numpy(image) / 255 - mean) / std).permute(2, 0, 1)[None]
    features = resnet(pixels).last_hidden_state
    pooled = torch.nn.functional.max_pool2d(features, 2, 2, ceil_mode=True)
    pixels = linear(pooled.flatten(2).transpose(1, 2)) + segment
    tokens = bert.embeddings(torch.from_numpy(ids)[None])
    return bert.encoder(torch.cat([tokens, pixels], dim=1)).last_hidden_state[0].numpy()


def test_image_and_text(tmp_path):
    resnet = hugging_face_resnet(CONFIG.backbone)
    bert = torch_bert(CONFIG.encoder, 60, 20)
    resnet.save_pretrained(tmp_path / "resnet")
    bert.save_pretrained(tmp_path / "bert")
    module = ModelForPretraining(CONFIG, platform="cpu", rngs=nnx.Rngs(params=0))
    randomize(module)
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    state = TrainState(0, nnx.as_pure(params), nnx.as_pure(rest), (), {}, 0, 0)
    loaded = load_initial(InitConfig(text=str(tmp_path / "bert"), backbone=str(tmp_path / "resnet")), CONFIG)
    state, report = apply(state, loaded)
    embedding = state.params["model"]["pixel_embedding"]
    assert {name.split(".")[0] for name in report["fresh"]} == {"model", "mlm_head", "itm_head"}
    assert {name for name in report["fresh"] if name.startswith("model")} == {
        "model.pixel_embedding.linear.kernel",
        "model.pixel_embedding.linear.bias",
        "model.pixel_embedding.segment",
    }

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    canvases = rng.integers(0, 256, (2, *CANVAS, 3), np.uint8)  # garbage around the images
    for canvas, image in zip(canvases, images, strict=True):
        canvas[: image.shape[0], : image.shape[1]] = image
    ids = rng.integers(0, 60, (2, 12))
    text_mask = np.arange(12) < np.array(LENGTHS)[:, None]

    @jax.jit
    def read(params, rest, canvases, sizes, ids, text_mask):
        model = nnx.merge(graphdef, params, rest).model
        pixels, mask = model.encode_image(canvases, sizes)
        return model.fuse(ids, text_mask, pixels, mask), mask

    sizes = np.array(SIZES, np.int32)
    hidden, pixel_mask = read(state.params, state.rest, canvases, sizes, ids, text_mask)
    mask = np.concatenate([text_mask, np.asarray(pixel_mask)], axis=1)
    linear = torch.nn.Linear(80, 32)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.array(embedding["linear"]["kernel"]).T))
        linear.bias.copy_(torch.from_numpy(np.array(embedding["linear"]["bias"])))
        segment = torch.from_numpy(np.array(embedding["segment"]))
        for i in range(2):
            expected = torch_hidden(resnet, bert, linear, segment, images[i], ids[i, : LENGTHS[i]])
            rows, columns = CONFIG.grid(*SIZES[i])
            assert expected.shape == (LENGTHS[i] + rows * columns, 32) and expected.std() > 0.3
            np.testing.assert_allclose(np.asarray(hidden)[i][mask[i]], expected, atol=1e-4, rtol=0)
