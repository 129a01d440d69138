"""Pre-training: losses and accuracies against plain numpy, what counts, what the encoder reads."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.pixelbert import PixelBert
from pixelbert_jax.tasks.pretraining import PretrainingConfig, PretrainingTask
from pixelbert_jax.tasks.task import mean_metrics
from tests.pixelbert_jax.helpers import (
    VOCABULARY,
    GivenHeads,
    abstract_loss,
    assert_fields_are_needed,
    make_batch,
    randomize,
    small_model,
)

ROWS, TEXTS, MASKED = 4, 3, 2
KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class GivenLogits(PretrainingTask):
    """The task with given logits instead of a model's: the hidden states are the token logits."""

    def forward(self, module, batch, key):
        return module.outputs


def logits(seed=0):
    """Random logits of tokens and pairs; some are right."""
    rng = np.random.default_rng(seed)
    tokens = rng.normal(0, 2, (ROWS * TEXTS, MASKED, VOCABULARY)).astype(np.float32)
    return tokens, rng.normal(0, 2, ROWS * TEXTS).astype(np.float32)


def batch():
    """A batch with two padding pairs."""
    arrays = make_batch(ROWS, TEXTS, masked=MASKED)
    arrays["pair_mask"] = np.ones((ROWS, TEXTS), bool)
    arrays["pair_mask"][-1, 1:] = False
    predicted = logits()[0].argmax(-1).reshape(ROWS, TEXTS, MASKED)
    arrays["mlm_target"][0] = predicted[0]
    return arrays


def run(config=None, arrays=None, key=KEY, given=None, totals_of=None, gather=True, **fields):
    """Loss and metrics (name -> (sum, count)) from given logits."""
    task = GivenLogits(small_model(), config or PretrainingConfig(), **fields)
    arrays = {name: jnp.array(array) for name, array in (arrays or batch()).items()}
    module = GivenHeads(tuple(map(jnp.array, given or logits())), gather)
    loss, sums = task.loss(module, arrays, task.totals(totals_of or arrays), key)
    return float(loss), {name: (float(a), int(b)) for name, (a, b) in sums.items()}


def token_losses(tokens, targets):
    """Cross-entropy at each position, in float64."""
    tokens = tokens.astype(np.float64)
    log_sum = np.log(np.exp(tokens).sum(-1))
    return log_sum - np.take_along_axis(tokens, targets[..., None], -1)[..., 0]


def expected_metrics(arrays, on_negatives=True):
    """(sum, count) of each metric, from the definitions."""
    tokens, pair = logits()
    targets = arrays["mlm_target"].reshape(-1, MASKED)
    label, used = arrays["itm_label"].reshape(-1), arrays["pair_mask"].reshape(-1)
    counted = arrays["mlm_mask"].reshape(-1, MASKED) & used[:, None]
    if not on_negatives:
        counted &= (label == 1)[:, None]
    right = tokens.argmax(-1) == targets
    probability = 1 / (1 + np.exp(-pair.astype(np.float64)))
    pair_loss = -np.log(np.where(label == 1, probability, 1 - probability))
    return {
        "mlm_loss": (token_losses(tokens, targets)[counted].sum(), counted.sum()),
        "mlm_accuracy": (right[counted].sum(), counted.sum()),
        "itm_loss": (pair_loss[used].sum(), used.sum()),
        "itm_accuracy": (((probability > 0.5) == label)[used].sum(), used.sum()),
    }, (right, counted, label)


@pytest.mark.parametrize("gather", [True, False])
@pytest.mark.parametrize("on_negatives", [True, False])
def test_losses_and_accuracies(on_negatives, gather):
    config = PretrainingConfig(mlm_weight=0.5, itm_weight=2.0, mlm_on_negatives=on_negatives)
    loss, sums = run(config, gather=gather)
    expected, _ = expected_metrics(batch(), on_negatives)
    assert sums.keys() == expected.keys()
    for name, (total, count) in expected.items():
        assert sums[name] == (pytest.approx(total, rel=1e-5), count), name
        assert count > 0 and total > 0
    mlm, itm = (expected[name][0] / expected[name][1] for name in ("mlm_loss", "itm_loss"))
    assert loss == pytest.approx(0.5 * mlm + 2 * itm, rel=1e-5)


def test_evaluation_reports_matched_pairs_and_chosen_tokens():
    arrays = batch()
    chosen = tuple(int(token) for token in np.unique(arrays["mlm_target"])[::2])
    _, sums = run(key=None, reported_ids=chosen)
    expected, (right, counted, label) = expected_metrics(arrays)
    matched = counted & (label == 1)[:, None]
    tokens = matched & np.isin(arrays["mlm_target"].reshape(-1, MASKED), chosen)
    assert 0 < tokens.sum() < matched.sum() < counted.sum()
    assert sums.keys() == expected.keys() | {"mlm_accuracy_matched", "mlm_accuracy_words"}
    assert sums["mlm_accuracy_matched"] == ((right & matched).sum(), matched.sum())
    assert sums["mlm_accuracy_words"] == ((right & tokens).sum(), tokens.sum())
    assert "mlm_accuracy_words" not in run(key=None)[1]


def test_padding_rows_do_not_count():
    """Whatever is in them, NaN included."""
    expected = run(key=None)
    arrays, (tokens, pair) = batch(), logits()
    arrays["mlm_target"][-1, 1:] = 7
    arrays["mlm_mask"][-1, 1:] = True
    arrays["itm_label"][-1, 1:] = 1 - arrays["itm_label"][-1, 1:]
    tokens[-2:], pair[-2:] = np.nan, np.nan
    assert run(arrays=arrays, key=None, given=(tokens, pair)) == expected


def test_parts_add_up_to_the_batch():
    """With the whole batch's totals, the losses of its rows sum to its loss."""
    whole, parts = run()[0], 0.0
    tokens, pair = logits()
    for row in range(ROWS):
        pairs = slice(row * TEXTS, (row + 1) * TEXTS)
        arrays = {name: array[row : row + 1] for name, array in batch().items()}
        parts += run(arrays=arrays, given=(tokens[pairs], pair[pairs]), totals_of=batch())[0]
    assert parts == pytest.approx(whole, rel=1e-6)


def test_nothing_masked_gives_no_nan():
    arrays = batch()
    arrays["mlm_mask"][:] = False
    loss, sums = run(arrays=arrays)
    assert loss == pytest.approx(sums["itm_loss"][0] / sums["itm_loss"][1])
    means = mean_metrics({name: (jnp.array(a), jnp.array(b)) for name, (a, b) in sums.items()})
    assert means["mlm_loss"] == means["mlm_accuracy"] == 0


# The model's part.


@pytest.fixture(scope="module")
def module():
    task = PretrainingTask(small_model(), PretrainingConfig())
    module = task.init(platform="cpu", rngs=nnx.Rngs(params=0))
    randomize(module)
    return module


def test_itm_logit_reads_the_first_position(module):
    hidden = np.random.default_rng(0).normal(size=(3, 5, 32)).astype(np.float32)
    kernel, bias = np.asarray(module.itm_head.kernel[...]), np.asarray(module.itm_head.bias[...])
    expected = (hidden[:, 0] @ kernel + bias)[:, 0]
    np.testing.assert_allclose(module.itm_logit(jnp.array(hidden)), expected, atol=1e-5)


def test_token_logits_by_hand(module):
    """Dense, GELU (with erf), LayerNorm, the token embeddings, a bias; at the given positions."""
    hidden = np.random.default_rng(0).normal(size=(2, 6, 32)).astype(np.float32)
    position = np.array([[4, 1, 0], [2, 2, 5]])
    head, token_VxD = module.mlm_head, np.asarray(module.model.text_embedding.word[...])
    x = hidden[np.arange(2)[:, None], position]
    x = x @ np.asarray(head.transform.kernel[...]) + np.asarray(head.transform.bias[...])
    x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    x = x * np.asarray(head.layer_norm.scale[...]) + np.asarray(head.layer_norm.bias[...])
    expected = x @ token_VxD.T + np.asarray(head.bias[...])
    actual = module.token_logits(jnp.array(hidden), jnp.array(position))
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_model_and_head_share_the_token_embeddings(module):
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(module)) if "word" in path]
    assert paths == [("model", "text_embedding", "word")]


@pytest.mark.parametrize(("sampled", "key", "pixels"), [(4, KEY, 4), (0, KEY, 12), (100, KEY, 12), (4, None, 12)])
def test_pixels_that_the_encoder_reads(monkeypatch, sampled, key, pixels):
    """Samples in training; all of the canvas's 3x4 in evaluation, and then without dropout."""
    calls, fuse_at = [], PixelBert.fuse_at

    def spy(self, text, text_mask, pixels, mask, dropout_key, *, index_NxQ):
        calls.append((pixels.shape, mask.shape, dropout_key is None))
        return fuse_at(self, text, text_mask, pixels, mask, dropout_key, index_NxQ=index_NxQ)

    monkeypatch.setattr(PixelBert, "fuse_at", spy)
    task = PretrainingTask(small_model(), PretrainingConfig(sampled_pixels=sampled))
    arrays = make_batch(ROWS, TEXTS) | {"row": np.arange(ROWS)}
    loss, _ = abstract_loss(task, arrays, key)
    assert loss.shape == () and loss.dtype == jnp.float32
    assert calls == [((ROWS * TEXTS, pixels, 32), (ROWS * TEXTS, pixels), key is None)]


def test_fields_are_what_the_loss_takes():
    """All of them are needed, nothing else is, and their description fits a batch."""
    assert_fields_are_needed(PretrainingTask(small_model(), PretrainingConfig()), make_batch())


def test_padding_of_texts_and_images_does_not_matter(module):
    """The logits of a batch on a larger canvas, with longer texts and other padding."""
    task = PretrainingTask(module.model.config, PretrainingConfig())
    small = make_batch(2, 2, canvas=(48, 64))
    rng = np.random.default_rng(9)
    large = dict(small)
    large["images"] = rng.integers(0, 256, (2, 64, 96, 3), np.uint8)
    for image, original, (height, width) in zip(large["images"], small["images"], small["image_size"], strict=True):
        image[:height, :width] = original[:height, :width]
    large["text"] = np.pad(small["text"], ((0, 0), (0, 0), (0, 4)), constant_values=3)
    large["text_mask"] = np.pad(small["text_mask"], ((0, 0), (0, 0), (0, 4)))
    large["text"] = np.where(large["text_mask"], large["text"], 3)
    forward = nnx.jit(lambda module, batch: task.forward(module, batch, None))
    for actual, expected in zip(forward(module, large), forward(module, small), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-4)
    swapped = large | {"images": large["images"][::-1], "image_size": large["image_size"][::-1]}
    assert np.abs(forward(module, swapped)[1] - forward(module, small)[1]).max() > 1e-3


def test_bfloat16(module):
    """The same parameters in half precision: logits and loss stay float32 and near."""
    exact = PretrainingTask(small_model(), PretrainingConfig())
    half = PretrainingTask(small_model(dtype="bfloat16"), PretrainingConfig())
    arrays = make_batch(2, 2)
    halved = nnx.merge(
        nnx.graphdef(nnx.eval_shape(lambda: half.init(platform="cpu", rngs=nnx.Rngs(params=0)))),
        nnx.state(module),
    )

    @nnx.jit
    def outputs(exact_module, half_module):
        pixels, _ = half_module.model.encode_image(arrays["images"], arrays["image_size"])
        assert pixels.dtype == jnp.bfloat16
        hidden, itm = zip(
            exact.forward(exact_module, arrays, None), half.forward(half_module, arrays, None), strict=True
        )
        tokens = (each.logits_of_tokens(x) for each, x in zip((exact_module, half_module), hidden, strict=True))
        return tuple(zip(tokens, itm, strict=True))

    for expected, actual in zip(*outputs(module, halved), strict=True):
        assert actual.dtype == jnp.float32
        np.testing.assert_allclose(actual, expected, atol=0.05 * np.abs(expected).max())
        assert (actual != expected).any()
