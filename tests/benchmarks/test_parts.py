"""The benchmarks of the parts, of several texts an image and of kept pixels, at a tiny size."""

import dataclasses

import jax
import pytest

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


def test_retrieval_against_torch():
    config = get_config()
    model = dataclasses.replace(config.model, backbone=MODEL.backbone)
    found = retrieval_against_torch.measure(dataclasses.replace(config, model=model), 5, 2)
    assert found["texts"] == 5 and found["pairs_per_second_ratio"]["median"] > 0


def test_last_layer():
    config = get_config()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, backbone=MODEL.backbone))
    encoder = dataclasses.replace(config.model.encoder, dropout=0.0, attention_dropout=0.0)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder))
    found = last_layer.measure(config, 8, 2)
    assert found["losses"].keys() == {last_layer.READ, last_layer.ALL}
    assert found["losses"][last_layer.READ] == pytest.approx(found["losses"][last_layer.ALL], rel=1e-4)
    assert found["ratio"]["median"] > 0 and found["pairs"] == 8 * config.data.texts_per_image
