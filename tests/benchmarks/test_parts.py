"""The benchmarks of the parts, of several texts an image and of kept pixels, at a tiny size."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from tests.benchmarks.test_harness import get_config

torch = pytest.importorskip("torch")
from benchmarks.cpu import last_layer, parts, retrieval_against_torch, texts_an_image  # noqa: E402
from tests.benchmarks.test_against_torch import MODEL, make_mesh_of_one  # noqa: E402


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    from benchmarks.cpu import against_torch

    monkeypatch.setattr(against_torch, "make_mesh", make_mesh_of_one)


@pytest.mark.slow
def test_parts():
    found = parts.measure(MODEL, (64, 128), 1)
    names = ["stem", "stage 1", "stage 2", "pool and projection", "encoder", "words' head"]
    expected = [(name, what) for name in names for what in ("forward", "with gradients")] + [("optimizer", "update")]
    assert [(row["part"], row["what"]) for row in found["parts"]] == expected
    assert all(row["ours_over_torch"] > 0 and row["limit_ms"] > 0 for row in found["parts"])
    work = {(row["part"], row["what"]): row["gflop"] for row in found["parts"]}
    for name in names[1:]:
        assert work[name, "with gradients"] / work[name, "forward"] == pytest.approx(3, rel=0.25)


@pytest.mark.parametrize("backbone", ["r50", "x152"])
def test_both_parts_make_the_same_shapes(backbone):
    """Ours, channels last, against the peer's, for shapes of the model that is measured."""
    from benchmarks.cpu.against_torch import MODELS, comparable

    model = comparable(MODELS[backbone]())
    with torch.device("meta"):
        peer = parts.TorchPixelBert(model).eval()
    ours = parts.nnx.eval_shape(lambda: parts._module(model))
    for name, (our, their, shape) in parts.parts(model, (96, 160)).items():
        if name == "encoder":
            continue
        made = parts.nnx.eval_shape(our, ours, jax.ShapeDtypeStruct(shape, "float32")).shape
        x = torch.empty(shape, device="meta")
        theirs = their(peer, x.permute(0, 3, 1, 2) if len(shape) == 4 else x)
        theirs = theirs.permute(0, 2, 3, 1) if theirs.ndim == 4 else theirs
        assert made == tuple(theirs.shape), name


@pytest.mark.slow
def test_texts_an_image():
    found = texts_an_image.measure(MODEL, (64, 128), 3, 2)
    assert found["texts"] == 3 and set(found["seconds"]) == {"1", "3"} and found["pairs_per_second_ratio"]["median"] > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_retrieval_against_torch(dtype):
    """Both sides score each text once."""
    config = get_config()
    model = dataclasses.replace(config.model, backbone=MODEL.backbone, dtype=dtype)
    config = dataclasses.replace(config, model=model)
    ours, about = retrieval_against_torch.side_of("ours", config, 9)
    peer, about_peer = retrieval_against_torch.side_of("torch", config, 9)
    assert about["texts"] == 9 and about_peer["torch"] == torch.__version__
    theirs = np.concatenate(peer())[:, 0]
    assert ours().shape == (1, 9) and theirs.shape == (9,) and theirs.dtype == np.float32


def test_retrieval_against_torch_starts_both_sides(monkeypatch, capsys):
    """With the same options; pairs per second are those of the texts."""
    seen = {}

    def stand_in(commands, turns):
        seen.update(commands)
        about = {"ours": {"texts": 6, "first_call_seconds": 1.0}, "torch": {"first_call_seconds": 2.0}}
        return about, {"ours": [2.0] * turns, "torch": [3.0] * turns}

    monkeypatch.setattr(retrieval_against_torch, "alternate", stand_in)
    with flagsaver.flagsaver(peer_python="/other/python"):
        retrieval_against_torch.main([], retrieval_against_torch._CONFIG, {"model.dtype": "float32"})
    found = json.loads(capsys.readouterr().out)
    assert found["pairs_per_second_ratio"]["median"] == 1.5 and found["pairs_per_second"]["ours"]["median"] == 3.0
    assert seen["torch"][0] == "/other/python" and seen["ours"][1:-1] == seen["torch"][1:-1]
    assert "--config.model.dtype=float32" in seen["ours"]


def test_last_layer():
    config = get_config()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, backbone=MODEL.backbone))
    encoder = dataclasses.replace(config.model.encoder, dropout=0.0, attention_dropout=0.0)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder))
    found = last_layer.measure(config, 8, 2)
    assert found["losses"].keys() == {last_layer.READ, last_layer.ALL}
    assert found["losses"][last_layer.READ] == pytest.approx(found["losses"][last_layer.ALL], rel=1e-4)
    assert found["ratio"]["median"] > 0 and found["pairs"] == 8 * config.data.texts_per_image
