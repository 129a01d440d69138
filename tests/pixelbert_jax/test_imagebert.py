"""ImageBERT: regions as vectors against plain numpy, the whole model against PyTorch, what regions do and do not do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.config import ImageBertConfig, RegionsConfig
from pixelbert_jax.embeddings import RegionEmbedding, TextEmbedding, box_vectors
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.imagebert import ImageBert
from pixelbert_jax.models import make_model
from pixelbert_jax.pixelbert import PixelBert
from pixelbert_jax.tasks.pretraining import ModelForPretraining
from pixelbert_jax.training.optimizer import AdamWConfig, OptimizerConfig, make_optimizer
from pixelbert_jax.weights.bert import bert_parameters
from tests.pixelbert_jax.helpers import VOCABULARY, make_regions, named, randomize, small_imagebert, small_model
from tests.pixelbert_jax.test_embeddings import layer_norm

ROWS, REGIONS, LENGTH, WHOLE = 4, 5, 8, 3
WITH_WHOLE = {"global_size": WHOLE}


def values(module):
    """Parameters by name, float64."""
    return {".".join(map(str, path)): np.asarray(leaf[...], np.float64) for path, leaf in nnx.to_flat_state(module)}


def made(make):
    """A module with random scales and biases, and its parameters."""
    module = make(nnx.Rngs(params=0))
    randomize(module)
    return module, values(nnx.state(module))


def texts(rows=ROWS, seed=0):
    """Ids and a mask, 3 to 8 tokens."""
    rng = np.random.default_rng(seed)
    return rng.integers(5, VOCABULARY, (rows, LENGTH)), np.arange(LENGTH) < rng.integers(3, LENGTH + 1, (rows, 1))


def area_vectors(box_NxRx4):
    """The five numbers of each box, written out."""
    return np.array([[[x, y, u, v, (u - x) * (v - y)] for x, y, u, v in boxes] for boxes in box_NxRx4.astype(float)])


def regions_by_hand(p, feature, box_NxRx4, layer="feature"):
    """Feature, box, segment and the one position, summed and normalised."""
    x = feature.astype(np.float64) @ p[f"{layer}.kernel"] + p[f"{layer}.bias"]
    x = x + area_vectors(box_NxRx4) @ p["box.kernel"] + p["box.bias"] + p["segment"] + p["position"]
    return layer_norm(x, p["layer_norm.scale"], p["layer_norm.bias"])


def test_box_vectors():
    """Left, top, right, bottom and the share of the area; the last box has none."""
    boxes = [[0.1, 0.2, 0.5, 0.8], [0.0, 0.0, 1.0, 1.0], [0.3, 0.6, 0.3, 0.9]]
    expected = [[0.1, 0.2, 0.5, 0.8, 0.24], [0, 0, 1, 1, 1], [0.3, 0.6, 0.3, 0.9, 0]]
    np.testing.assert_allclose(box_vectors(jnp.array([boxes]))[0], expected, atol=1e-6)


def test_regions_by_hand():
    module, p = made(lambda rngs: RegionEmbedding(small_imagebert(), rngs=rngs))
    fields = make_regions(ROWS, REGIONS)
    expected = regions_by_hand(p, fields["regions"], fields["boxes"])
    np.testing.assert_allclose(module(fields["regions"], fields["boxes"]), expected, atol=1e-5)
    assert p.keys() == {
        *(f"{layer}.{name}" for layer in ("feature", "box") for name in ("kernel", "bias")),
        *("segment", "position", "layer_norm.scale", "layer_norm.bias"),
    }
    assert p["position"].shape == p["segment"].shape == (32,) and p["box.kernel"].shape == (5, 32)


def test_whole_image_by_hand():
    """Its own layer for the feature, the box of the image, and all else as of a region; it comes first and counts."""
    model, p = made(lambda rngs: ImageBert(small_imagebert(WITH_WHOLE), rngs=rngs))
    p = {name.removeprefix("region_embedding."): array for name, array in p.items()}
    fields = make_regions(ROWS, REGIONS, whole=WHOLE)
    visual, mask = model.encode_visual(fields)
    assert visual.shape == (ROWS, 1 + REGIONS, 32)
    everything = np.tile([0.0, 0.0, 1.0, 1.0], (ROWS, 1, 1))
    first = regions_by_hand(p, fields["whole"][:, None], everything, "whole")
    np.testing.assert_allclose(visual[:, :1], first, atol=1e-5)
    np.testing.assert_allclose(visual[:, 1:], regions_by_hand(p, fields["regions"], fields["boxes"]), atol=1e-5)
    np.testing.assert_array_equal(mask, np.concatenate([np.ones((ROWS, 1), bool), fields["region_mask"]], 1))
    given = model.encode_regions(*(fields[name] for name in ("regions", "boxes", "region_mask", "whole")))
    for actual, expected in zip(given, (visual, mask), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("segment", [True, False])
def test_tokens_by_hand(segment):
    """With the segment's vector, or without, as in Pixel-BERT."""
    config = dataclasses.replace(small_imagebert(), text=dataclasses.replace(small_imagebert().text, segment=segment))
    module, p = made(lambda rngs: TextEmbedding(config, rngs=rngs))
    ids, _ = texts()
    x = p["word"][ids] + p["position"][None, :LENGTH]
    if segment:
        x = x + p["segment"]
    assert ("segment" in p) == segment
    expected = layer_norm(x, p["layer_norm.scale"], p["layer_norm.bias"])
    np.testing.assert_allclose(module(jnp.array(ids)), expected, atol=1e-5)


def test_the_model_of_a_configuration():
    rngs = nnx.Rngs(params=0)
    assert isinstance(make_model(small_imagebert(), rngs=rngs), ImageBert)
    assert isinstance(make_model(small_model(), platform="cpu", rngs=rngs), PixelBert)
    config = small_imagebert()
    with pytest.raises(ConfigError, match=r"model\.text\.vocabulary_size is 0"):
        ImageBert(dataclasses.replace(config, text=dataclasses.replace(config.text, vocabulary_size=0)), rngs=rngs)
    for fields in ({"feature_size": 0}, {"classes": 0}, {"global_size": -1}):
        with pytest.raises(ConfigError, match="must be positive, global_size"):
            RegionsConfig(**fields)
    with pytest.raises(ConfigError, match=r"model\.dtype='float16'"):
        ImageBertConfig(dtype="float16")


@pytest.mark.parametrize("decay_vectors", [True, False])
def test_decay_of_vectors(decay_vectors):
    """Without gradients only the decay moves a parameter: vectors, the regions' one position too, only if asked."""
    module = nnx.eval_shape(lambda: ImageBert(small_imagebert(WITH_WHOLE), rngs=nnx.Rngs(params=0)))
    ones = jax.tree.map(lambda array: jnp.ones(array.shape), nnx.as_pure(nnx.state(module, nnx.Param)))
    config = OptimizerConfig(transformer=AdamWConfig(0.1, 0.3), decay_vectors=decay_vectors, clip_norm=0.0)
    optimizer = make_optimizer(config, None, lambda step: 1.0)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, ones), optimizer.init(ones), ones)
    for name, update in named(updates).items():
        is_matrix = update.ndim - ("encoder/layers/" in name) >= 2
        np.testing.assert_allclose(update, -0.03 if is_matrix or decay_vectors else 0, rtol=1e-6, err_msg=name)


# Tokens and regions together.


@pytest.fixture(scope="module")
def fused():
    """Hidden states and image-text matching (ITM) logits of texts with regions, compiled."""
    module, _ = made(lambda rngs: ModelForPretraining(small_imagebert(WITH_WHOLE), rngs=rngs))

    @nnx.jit
    def hidden_and_logit(module, ids, mask, fields):
        hidden = module.model.fuse(ids, mask, *module.model.encode_visual(fields))
        return hidden, module.itm_logit(hidden)

    return lambda ids, mask, fields: tuple(map(np.asarray, hidden_and_logit(module, ids, mask, fields)))


@pytest.fixture(scope="module")
def fields():
    return make_regions(ROWS, REGIONS, whole=WHOLE)


def tokens_changed(hidden, expected):
    """Whether the hidden states of each row's tokens differ by more than rounding."""
    return (np.abs(hidden - expected)[:, :LENGTH].max((1, 2)) > 1e-3).all()


def test_absent_regions_are_never_attended_to(fused, fields):
    """Whatever is in them, no other position changes; the other regions matter."""
    assert not fields["region_mask"].all()
    ids, text_mask = texts()
    expected, logits = fused(ids, text_mask, fields)
    other = make_regions(ROWS, REGIONS, seed=1)
    there = fields["region_mask"][..., None]
    changed = {name: np.where(there, fields[name], other[name]) for name in ("regions", "boxes")}
    hidden, again = fused(ids, text_mask, fields | changed)
    mask = np.concatenate([text_mask, np.ones((ROWS, 1), bool), fields["region_mask"]], 1)
    np.testing.assert_array_equal(hidden[mask], expected[mask])
    np.testing.assert_array_equal(again, logits)
    assert np.abs(hidden - expected)[~mask].max() > 0.1
    for name in ("regions", "boxes"):
        moved = {name: np.where(there, other[name], fields[name])}
        assert tokens_changed(fused(ids, text_mask, fields | moved)[0], expected), name
    fewer = fields["region_mask"] & (np.arange(REGIONS) > 0)
    assert tokens_changed(fused(ids, text_mask, fields | {"region_mask": fewer})[0], expected)


def test_the_order_of_regions_does_not_matter(fused, fields):
    """They have one position: a region's hidden state goes with it, and the score stays."""
    ids, text_mask = texts()
    expected, logits = fused(ids, text_mask, fields)
    order = np.array([3, 1, 4, 0, 2])
    moved = {name: fields[name][:, order] for name in ("regions", "boxes", "region_mask")}
    hidden, again = fused(ids, text_mask, fields | moved)
    np.testing.assert_allclose(again, logits, atol=1e-5)
    np.testing.assert_allclose(hidden[:, -REGIONS:], expected[:, -REGIONS:][:, order], atol=1e-5)
    assert np.abs(hidden[:, -REGIONS:] - expected[:, -REGIONS:]).max() > 0.1
    swapped = fields | {"boxes": fields["boxes"][:, order]}  # other features in the same boxes
    assert tokens_changed(fused(ids, text_mask, swapped)[0], expected)


def test_dropout_of_tokens_and_regions():
    """In training both are dropped, by draws of their own: the encoder's input is zero or 1 / (1 - rate) of it."""
    config = small_imagebert(WITH_WHOLE, encoder={"dropout": 0.25})
    model, _ = made(lambda rngs: ImageBert(config, rngs=rngs))
    fields, (ids, text_mask) = make_regions(ROWS, REGIONS, whole=WHOLE), texts()
    visual = model.encode_visual(fields, train=True)
    np.testing.assert_array_equal(visual[0], model.encode_visual(fields)[0])
    plain, mask = map(np.asarray, model._join(ids, text_mask, *visual, None))
    dropped, same = map(np.asarray, model._join(ids, text_mask, *visual, jax.random.key(0)))
    np.testing.assert_array_equal(mask, same)
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], plain[kept] / 0.75, rtol=1e-5)
    for part in (kept[:, :LENGTH], kept[:, LENGTH:]):
        assert 0.2 < 1 - part.mean() < 0.3
    count = min(LENGTH, kept.shape[1] - LENGTH)
    assert (kept[0, :count] != kept[0, LENGTH : LENGTH + count]).any()  # further rows are draws of other positions
    np.testing.assert_array_equal(plain[:, LENGTH:], visual[0])


# Against PyTorch.


def torch_parts(torch, p, bert, dummy):
    """Linear layers with our weights; `bert` gets our regions' vectors as second token type and position `dummy`."""

    def linear(name):
        layer = torch.nn.Linear(*p[f"{name}.kernel"].shape)
        layer.weight.copy_(torch.from_numpy(p[f"{name}.kernel"].T))
        layer.bias.copy_(torch.from_numpy(p[f"{name}.bias"]))
        return layer

    with torch.no_grad():
        layers = {name: linear(name) for name in ("feature", "box", "whole")}
        bert.embeddings.token_type_embeddings.weight[1] = torch.from_numpy(p["segment"])
        bert.embeddings.position_embeddings.weight[dummy] = torch.from_numpy(p["position"])
    return layers


def test_parity_with_pytorch(tmp_path):
    """Hugging Face's BERT over inputs_embeds: text of type 0 at 0, 1, ...; regions of type 1 at one position."""
    torch = pytest.importorskip("torch")
    from tests.pixelbert_jax.weights.references import overlaid, run, torch_bert

    config, dummy = small_imagebert(WITH_WHOLE), 16
    bert = torch_bert(config.encoder, VOCABULARY, 17)  # ours has the first 16 positions
    bert.save_pretrained(tmp_path)
    arrays = bert_parameters(str(tmp_path), config, resize=True).arrays
    # BERT has one LayerNorm for all that its embeddings normalise.
    shared = {
        f"model.region_embedding.layer_norm.{name}": arrays[f"model.text_embedding.layer_norm.{name}"]
        for name in ("scale", "bias")
    }
    module, p = made(lambda rngs: ModelForPretraining(config, rngs=rngs))
    p = {name.rpartition("region_embedding.")[2]: array for name, array in p.items() if "region_embedding" in name}
    layers = torch_parts(torch, {name: array.astype(np.float32) for name, array in p.items()}, bert, dummy)

    fields, (ids, text_mask) = make_regions(ROWS, REGIONS, whole=WHOLE), texts()
    everything = np.tile([0.0, 0.0, 1.0, 1.0, 1.0], (ROWS, 1, 1))
    boxes = np.concatenate([everything, area_vectors(fields["boxes"])], 1)
    tensor = lambda array: torch.from_numpy(np.asarray(array, np.float32))  # noqa: E731
    mask = np.concatenate([text_mask, np.ones((ROWS, 1), bool), fields["region_mask"]], 1)
    positions = np.concatenate([np.arange(LENGTH), np.full(1 + REGIONS, dummy)])
    with torch.no_grad():
        found = torch.cat(
            [layers["whole"](tensor(fields["whole"]))[:, None], layers["feature"](tensor(fields["regions"]))], 1
        )
        tokens = bert.embeddings.word_embeddings(torch.from_numpy(ids))
        reference = bert(
            inputs_embeds=torch.cat([tokens, found + layers["box"](tensor(boxes))], 1),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            token_type_ids=torch.from_numpy(np.tile(positions >= dummy, (ROWS, 1)).astype(np.int64)),
            position_ids=torch.from_numpy(np.tile(positions, (ROWS, 1))),
            output_hidden_states=True,
        ).hidden_states

    def read(module, ids, text_mask, fields):
        visual = module.model.encode_visual(fields)
        return module.model._join(ids, text_mask, *visual, None)[0], module.model.fuse(ids, text_mask, *visual)

    ours = run(*overlaid(module, arrays | shared), read, ids, text_mask, fields)
    for actual, expected in zip(ours, (reference[0], reference[-1]), strict=True):
        assert expected.shape == actual.shape and expected.numpy()[mask].std() > 0.3
        np.testing.assert_allclose(np.asarray(actual)[mask], expected.numpy()[mask], atol=1e-5, rtol=0)


def test_bert_loads_with_a_segment_of_its_own(tmp_path):
    """Positions are as BERT has them, the segment is its first token type, and text alone gives what BERT gives."""
    pytest.importorskip("torch")
    from tests.pixelbert_jax.weights import test_bert

    model = test_bert.saved(tmp_path, "BertForMaskedLM")
    pixels = test_bert.our_config()
    config = dataclasses.replace(
        small_imagebert(), encoder=pixels.encoder, text=dataclasses.replace(pixels.text, segment=True)
    )
    loaded = bert_parameters(str(tmp_path), config)
    state = {name.removeprefix("bert.embeddings."): value.numpy() for name, value in model.state_dict().items()}
    embedding = {name: loaded.arrays[f"model.text_embedding.{name}"] for name in ("position", "segment")}
    np.testing.assert_array_equal(embedding["position"], state["position_embeddings.weight"])
    np.testing.assert_array_equal(embedding["segment"], state["token_type_embeddings.weight"][0])
    assert loaded.arrays.keys() == bert_parameters(str(tmp_path), pixels).arrays.keys() | {
        "model.text_embedding.segment"
    }
    test_bert.assert_hidden(config, loaded.arrays, model)
    test_bert.assert_logits(config, loaded.arrays, model)
