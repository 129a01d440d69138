"""The predictor against the model called by hand, one pair at a time."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import pixelbert_jax
from data_pipelines.errors import DataError
from data_pipelines.storage.paths import is_file
from pixelbert_jax import predictor_inputs
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.predictor import Predictor
from pixelbert_jax.visual_readers import AttentionMap, interpolated

TEXTS = ["a red circle", "a small blue cross and a large green square", "the large cross", "a black cross", ""]


def image(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# After the resize rule (48): 48x48, 24x48 and 48x30 pixels, so that grids of stride 8 are 6x6, 3x6 and 6x4.
IMAGES = [image(48, 48, 0), image(24, 48, 1), image(48, 30, 2)]


@pytest.fixture(scope="module")
def loaded(saved_run):
    return pixelbert_jax.load(saved_run)


@pytest.fixture(scope="module")
def predictor(loaded):
    return Predictor(loaded, batch_images=2, batch_pairs=4)


@jax.jit
def encode_image(model, canvas, size):
    return model.encode_image(canvas, size)


@jax.jit
def fuse(model, ids, pixels):
    return model.fuse(ids, jnp.ones(ids.shape, bool), pixels, jnp.ones(pixels.shape[:2], bool))


def sequence(loaded, image, text):
    """What the encoder reads of one image and one text, without padding of either."""
    canvas = np.zeros((48, 48, 3), np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    pixels, mask = encode_image(loaded.model.model, canvas[None], np.array([image.shape[:2]]))
    pixels = np.asarray(pixels)[:, np.flatnonzero(np.asarray(mask)[0])]
    return loaded.tokenizer.encode(text, 32)[None], pixels


def hidden(loaded, image, text):
    return fuse(loaded.model.model, *sequence(loaded, image, text))


@pytest.fixture(scope="module")
def expected(loaded):
    """Probabilities of all pairs, one by one."""
    logit = [[loaded.model.itm_logit(hidden(loaded, image, text))[0] for text in TEXTS] for image in IMAGES]
    return jax.nn.sigmoid(np.array(logit))


@pytest.mark.parametrize(("batch_images", "batch_pairs"), [(1, 1), (2, 4), (3, 64)])
def test_match_equals_pairs_one_by_one(loaded, expected, batch_images, batch_pairs):
    scores = Predictor(loaded, batch_images=batch_images, batch_pairs=batch_pairs).match(IMAGES, TEXTS)
    assert scores.shape == (3, 5) and scores.dtype == np.float32
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_one_or_many_and_every_kind_of_image(predictor, expected, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(IMAGES[1]).save(path)
    kinds = [IMAGES[1], str(path), path, path.read_bytes(), Image.open(path)]
    for one in kinds:
        np.testing.assert_allclose(predictor.match(one, TEXTS[1]), expected[1:2, 1:2], atol=1e-5)
    np.testing.assert_allclose(predictor.match(kinds, TEXTS), np.repeat(expected[1:2], 5, 0), atol=1e-5)
    many = np.stack([IMAGES[0], IMAGES[0]])
    np.testing.assert_allclose(predictor.match(many, TEXTS), np.repeat(expected[:1], 2, 0), atol=1e-5)
    grey = IMAGES[0][..., 0]
    np.testing.assert_array_equal(predictor.encode(grey).items[0], np.stack([grey] * 3, -1))
    assert predictor.match([], TEXTS).shape == (0, 5) and predictor.match(IMAGES, []).shape == (3, 0)


def test_the_backbone_runs_once_an_image_and_compiles_once(loaded, expected, monkeypatch):
    predictor = Predictor(loaded, batch_images=2, batch_pairs=4)
    compiled, calls = predictor._encode, []
    monkeypatch.setitem(predictor.__dict__, "_encode", lambda *args: calls.append(1) or compiled(*args))
    encoded = predictor.encode(IMAGES)
    assert len(encoded) == 3 and len(calls) == 2
    for _ in range(2):
        np.testing.assert_allclose(predictor.match(encoded, TEXTS), expected, atol=1e-5)
    predictor.match(encoded, TEXTS[:2])
    predictor.encode(IMAGES[:2])
    assert len(calls) == 3
    assert compiled._cache_size() == 1 and predictor._match._cache_size() == 1


def test_rank(predictor, expected):
    ranked = predictor.rank(IMAGES, TEXTS[1])
    assert [index for index, _ in ranked] == np.argsort(-np.asarray(expected[:, 1])).tolist()
    np.testing.assert_allclose([p for _, p in ranked], np.sort(expected[:, 1])[::-1], atol=1e-5)


def test_fill_mask(predictor, loaded):
    text = "a [MASK] circle and a large [MASK]"
    filled = predictor.fill_mask(IMAGES[2], text, top=3)
    ids = loaded.tokenizer.encode(text, 32)
    positions = np.flatnonzero(ids == loaded.tokenizer.mask)
    assert positions.tolist() == [2, 7]
    logits = loaded.model.token_logits(hidden(loaded, IMAGES[2], text), positions[None])[0]
    probability = np.asarray(jax.nn.softmax(logits))
    assert len(filled) == 2
    for guesses, row in zip(filled, probability, strict=True):
        best = np.argsort(-row)[:3]
        assert [token for token, _ in guesses] == [loaded.tokenizer.vocabulary[i] for i in best]
        np.testing.assert_allclose([p for _, p in guesses], row[best], atol=1e-5)


def attention_by_hand(loaded, image, text, layer):
    """Probabilities HxSxS in plain numpy, for a sequence without padding."""
    ids, pixels = sequence(loaded, image, text)
    tokens = loaded.model.model.text_embedding(ids)
    x = jnp.concatenate([tokens, pixels], axis=1)
    mask = jnp.ones(x.shape[:2], bool)
    graphdef, state = nnx.split(loaded.model.model.encoder.layers)
    one = [nnx.merge(graphdef, jax.tree.map(lambda a, i=i: a[i], nnx.as_pure(state))) for i in range(layer + 1)]
    for block in one[:layer]:
        x = block(x, mask, None)
    kernel, bias = (
        np.asarray(one[layer].query_key_value.kernel[...]),
        np.asarray(one[layer].query_key_value.bias[...]),
    )
    query, key, _ = np.split(np.asarray(x[0]) @ kernel + bias, 3, axis=-1)
    heads = [slice(0, 16), slice(16, 32)]
    scores = np.stack([query[:, h] @ key[:, h].T / 4 for h in heads])
    exponents = np.exp(scores - scores.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True), ids.shape[1]


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("image", "grid"), [(0, (6, 6)), (1, (3, 6)), (2, (6, 4))])
def test_attention_map(predictor, loaded, layer, image, grid):
    text = "a red circle and a red cross"
    probability, length = attention_by_hand(loaded, IMAGES[image], text, layer)
    for word, positions in (("circle", [3]), ("red", [2, 6]), ("red cross", [6, 7])):
        for head in (None, 0, 1):
            found = predictor.attention_map(IMAGES[image], text, word, layer=layer, head=head)
            rows = probability.mean(0) if head is None else probability[head]
            assert found.grid.shape == grid and found.weights.shape == IMAGES[image].shape[:2]
            np.testing.assert_allclose(found.grid.ravel(), rows[positions, length:].mean(0), atol=1e-6)
            np.testing.assert_array_equal(found.image, IMAGES[image])


def test_a_map_is_drawn_where_its_cell_lies():
    grid = np.zeros((3, 4), np.float32)
    grid[2, 1] = 1.0
    original = np.zeros((210, 300, 3), np.uint8)  # resized to 42x60 in cells of 16: the last row is cropped
    weights = interpolated(grid, 16, (42, 60), original)
    assert weights.shape == (210, 300)
    row, column = np.unravel_index(weights.argmax(), weights.shape)
    assert 160 <= row < 210 and 80 <= column < 160
    assert weights[:100].max() < 0.05


def test_long_texts_take_the_models_whole_length(predictor):
    long = " ".join(["red"] * 28)
    assert predictor._tokens(["a red cross"])[0].shape == (1, 22)
    assert predictor._tokens([long])[0].shape == (1, 32)
    with pytest.raises(ConfigError, match="more than the model's 32 tokens: 'red red"):
        predictor.match(IMAGES[0], long + " red red red")


def test_what_is_meant_is_accepted(predictor, expected):
    one, texts = IMAGES[0], TEXTS[:2]
    table = np.array(texts, object)
    for given in (
        np.array(texts),
        table,
        tuple(texts),
        iter(texts),
        (text for text in texts),
        dict.fromkeys(texts).keys(),
    ):
        np.testing.assert_allclose(predictor.match(one, given), expected[:1, :2], atol=1e-5)
    for given in (np.array(texts[1]), np.str_(texts[1]), [texts[1]]):
        np.testing.assert_allclose(predictor.match(one, given), expected[:1, 1:2], atol=1e-5)
    batch = np.stack([one, one])
    kinds = [jnp.asarray(one), jnp.asarray(batch), iter([one]), (image for image in [one, one]), one[:, ::-1][:, ::-1]]
    buffer = io.BytesIO()
    Image.fromarray(one).save(buffer, "PNG")
    kinds += [bytearray(buffer.getvalue()), memoryview(buffer.getvalue())]
    for given in kinds:
        scores = predictor.match(given, texts)
        np.testing.assert_allclose(scores, np.repeat(expected[:1, :2], len(scores), 0), atol=1e-5)
    assert len(predictor.encode(jnp.asarray(batch))) == 2
    np.testing.assert_array_equal(predictor.encode(one[:, ::-1]).items[0], one[:, ::-1])
    assert predictor.fill_mask(one, ["a [MASK]"]) == predictor.fill_mask(one, "a [MASK]")
    assert predictor.rank(IMAGES, np.array([texts[1]])) == predictor.rank(IMAGES, texts[1])


def test_arrays_of_torch(predictor, expected):
    torch = pytest.importorskip("torch")
    one, batch = torch.from_numpy(IMAGES[0]), torch.from_numpy(np.stack([IMAGES[0]] * 2))
    for given in (one, [one], batch):
        scores = predictor.match(given, TEXTS)
        np.testing.assert_allclose(scores, np.repeat(expected[:1], len(scores), 0), atol=1e-5)
    assert len(predictor.encode(batch)) == 2
    for given, message in ((one.float(), "type float32"), (batch.permute(0, 3, 1, 2), r"shape \(3, 48, 48\)")):
        with pytest.raises(ConfigError, match=message):
            predictor.encode(given)
    with pytest.raises(ConfigError, match="Tensor is no image that NumPy can read"):
        predictor.encode(one.to("meta"))


def test_a_file_and_a_pil_image_are_the_same(predictor, tmp_path):
    deep = np.linspace(0, 65535, 64)[None].repeat(64, 0).astype(np.uint16)
    drawing = np.zeros((64, 64, 4), np.uint8)
    drawing[16:48, 16:48, 3] = 255  # black on nothing
    for name, pixels, mean in (("deep.png", deep, 127.5), ("drawing.png", drawing, 0.75 * 255)):
        Image.fromarray(pixels).save(tmp_path / name)
        path, pil = predictor.encode([tmp_path / name, Image.open(tmp_path / name)]).items
        np.testing.assert_array_equal(path, pil)
        assert path.mean() == pytest.approx(mean, abs=0.6)


def _in_no_bucket(path):
    """As the library of a bucket without credentials."""
    if path.parent.name == "bucket":
        raise RuntimeError("Unable to locate credentials")
    return is_file(path)


def test_bad_input_is_one_sentence(predictor, tmp_path, monkeypatch):
    file = tmp_path / "broken.jpg"
    file.write_bytes(b"\xff\xd8\xff")
    huge = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(huge, "PNG")
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(whole, "PNG")
    cut, closed = Image.open(io.BytesIO(whole.getvalue()[:2000])), Image.open(whole)
    closed.close()
    monkeypatch.setattr(predictor_inputs, "is_file", _in_no_bucket)
    cases = [
        (lambda: predictor.match(tmp_path / "no.jpg", "a"), ConfigError, "no.jpg: no such image"),
        (lambda: predictor.match("a text " * 99, "a"), ConfigError, "a text : no such image"),
        (lambda: predictor.match("", "a"), ConfigError, "^'': no such image"),
        (lambda: predictor.match("bucket/a.jpg", "a"), ConfigError, "a.jpg: cannot be read"),
        (lambda: predictor.match(cut, "a"), DataError, "a truncated, damaged or closed file"),
        (lambda: predictor.match(closed, "a"), DataError, "a truncated, damaged or closed file"),
        (lambda: predictor.index([]), ConfigError, "An index of no images was asked for"),
        (lambda: predictor.match(file, "a"), DataError, "broken.jpg: damaged header"),
        (lambda: predictor.match(huge.getvalue(), "a"), DataError, "over 64 megapixels"),
        (lambda: predictor.match(np.zeros((4, 4, 3)), "a"), ConfigError, "type float64 and shape"),
        (lambda: predictor.match(np.zeros((4, 4, 4), np.uint8), "a"), ConfigError, r"shape \(4, 4, 4\)"),
        (lambda: predictor.match(np.zeros((0, 4, 3), np.uint8), "a"), ConfigError, "has no pixels"),
        (lambda: predictor.match(np.zeros((2, 4, 0, 3), np.uint8), "a"), ConfigError, "has no pixels"),
        (lambda: predictor.match(np.zeros((4, 4), ">u2"), "a"), ConfigError, "type >u2"),
        (lambda: predictor.match(jnp.zeros((4, 4, 3), jnp.bfloat16), "a"), ConfigError, "type bfloat16"),
        (lambda: predictor.match(None, "a"), ConfigError, "NoneType None is no image; give a path"),
        (lambda: predictor.match([IMAGES[0], None], "a"), ConfigError, "NoneType None is no image"),
        (lambda: predictor.match({"a": IMAGES[0]}, "a"), ConfigError, "dict .* is no image"),
        (lambda: predictor.match([[[1, 2], [3]]], "a"), ConfigError, "list is no image that NumPy can read"),
        (lambda: predictor.match(Image.new("F", (4, 4)), "a"), DataError, "A PIL image cannot be used: mode F"),
        (lambda: predictor.match(Image.new("RGB", (0, 4)), "a"), DataError, "A PIL image cannot be used: no pixels"),
        (lambda: predictor.match(IMAGES[0], None), ConfigError, "NoneType None is no text; give a string"),
        (lambda: predictor.match(IMAGES[0], 3.5), ConfigError, "float 3.5 is no text"),
        (lambda: predictor.match(IMAGES[0], jnp.array(3)), ConfigError, "ArrayImpl .* is no text"),
        (lambda: predictor.match(io.BytesIO(b"x"), "a"), ConfigError, "BytesIO .* is no image"),
        (lambda: predictor.match(IMAGES[0], b"a"), ConfigError, "bytes b'a' is no text"),
        (lambda: predictor.match(IMAGES[0], {"a": 1}), ConfigError, "dict .* is no text"),
        (lambda: predictor.match(IMAGES[0], {"a", "b"}), ConfigError, "set .* is no text"),
        (lambda: predictor.match(IMAGES[0], np.array([["a"]])), ConfigError, "ndarray .* is no text"),
        (lambda: predictor.match(IMAGES[0], ["a", None]), ConfigError, "Text 1 of 2 is NoneType None, no string"),
        (lambda: predictor.match(IMAGES[0], ["a", float("nan")]), ConfigError, "Text 1 of 2 is float nan"),
        (lambda: predictor.match(IMAGES[0], np.array([b"a"])), ConfigError, "Text 0 of 1 is bytes b'a'"),
        (lambda: predictor.match(IMAGES[0], "a \ud800"), ConfigError, "Text 0 of 1 is no valid Unicode"),
        (lambda: predictor.rank(IMAGES, ["a", "b"]), ConfigError, "One text is needed here, 2 were given"),
        (lambda: predictor.fill_mask(IMAGES[0], []), ConfigError, "One text is needed here, 0 were given"),
        (lambda: predictor.attention_map(IMAGES[0], "a", None), ConfigError, "NoneType None is no text"),
        (lambda: predictor.fill_mask(IMAGES[0], "a red"), ConfigError, "has no \\[MASK\\]"),
        (lambda: predictor.fill_mask(IMAGES, "[MASK]"), ConfigError, "One image is needed here, 3 were"),
        (lambda: predictor.attention_map(IMAGES[0], "a red", "blue"), ConfigError, "'blue' is not in 'a red'"),
        (lambda: predictor.attention_map(IMAGES[0], "a", "a", layer=2), ConfigError, "layers 0 to 1"),
        (lambda: predictor.attention_map(IMAGES[0], "a", "a", head=2), ConfigError, "heads 0 to 1"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_attention_is_drawn_over_the_image():
    image = np.full((4, 6, 3), 200, np.uint8)
    weights = np.zeros((4, 6), np.float32)
    weights[1, 2] = 0.5
    drawn = AttentionMap("dog", weights, weights, image).overlay()
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    # Inferno is black at 0 and light yellow at 1; the greatest weight takes 0.85 of it, none takes 0.25.
    assert drawn[1, 2].tolist() == pytest.approx([0.15 * 200 + 0.85 * c for c in (252, 255, 164)], abs=2)
    assert drawn[0, 0].tolist() == pytest.approx([0.75 * 200 + 0.25 * c for c in (0, 0, 4)], abs=2)
