"""Retrieval: candidates, their three losses and gradients against plain numpy; the frozen backbone; learning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.errors import ConfigError
from pixelbert_jax.joint import JointModel
from pixelbert_jax.pixelbert import PixelBert
from pixelbert_jax.tasks.retrieval import RetrievalConfig, RetrievalTask, candidate_losses
from pixelbert_jax.training.optimizer import AdamWConfig, OptimizerConfig, ScheduleConfig
from tests.pixelbert_jax.helpers import (
    assert_fields_are_needed,
    assert_learned,
    make_pairs,
    named,
    randomize,
    small_imagebert,
    small_model,
    with_regions,
)

ROWS, OTHERS = 5, 6
TEXTS = 40
KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class GivenScores(RetrievalTask):
    """The task over a table of scores, images x texts, instead of a model; a text's first token is its number."""

    def _score(self, module, visual, image_BxK, text_BxKxT, mask_BxKxT, dropout_key):
        return module.table[image_BxK, text_BxKxT[..., 0]]


@dataclasses.dataclass
class Table:
    table: jax.Array

    @property
    def model(self):
        return self

    def encode_visual(self, batch):
        return batch["images"], None


def table():
    """Random scores; the true text of the first row wins by far."""
    scores = np.random.default_rng(0).normal(0, 2, (ROWS, TEXTS)).astype(np.float32)
    scores[0, : 1 + OTHERS] += np.where(np.arange(1 + OTHERS) == 0, 5, -5)
    return scores


def batch(rows=ROWS, others=OTHERS):
    """Text `number` stands for itself; in one row candidates are missing, and one row is a padding row."""
    arrays = make_pairs(rows, 1 + others)
    arrays["text"][..., 0] = np.arange(rows * (1 + others)).reshape(rows, -1) % TEXTS
    arrays["pair_mask"][1:2, 3:] = False
    arrays["pair_mask"][-1] = False
    return arrays | {"image_group": np.arange(rows, dtype=np.int32)}


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(config, scores, arrays, totals_of, key):
    task = GivenScores(small_model(), config)

    def loss(scores):
        return task.loss(Table(scores), arrays, task.totals(totals_of), key)

    return jax.value_and_grad(loss, has_aux=True)(scores)


def run(arrays, config, key=None, scores=None, totals_of=None):
    """Loss, metrics and the gradient of the scores."""
    arrays = arrays | {"row": np.arange(len(arrays["text"]))}
    scores = table() if scores is None else scores
    (value, sums), gradient = value_and_gradient(config, scores, arrays, totals_of or arrays, key)
    return float(value), {name: (float(a), int(b)) for name, (a, b) in sums.items()}, np.asarray(gradient)


def by_hand(candidates, config):
    """Sum of the losses, rows won, and the gradient of the scores of lists of (image, text), the true one first."""
    loss, won, gradient = 0.0, 0, np.zeros((ROWS, TEXTS))
    for own, *others in candidates:
        chosen = [own, *sorted(others, key=lambda pair: -table()[pair])[: config.hardest_negatives]]
        x = np.array([table()[pair] for pair in chosen], np.float64)
        value, slopes = row_loss(x, config)
        loss += value
        won += all(table()[own] > table()[other] for other in others)
        for pair, slope in zip(chosen, slopes, strict=True):
            gradient[pair] += slope
    return loss, won, gradient


def row_loss(x, config):
    """Loss of a row's scores, the true one first and the others falling, and its gradient."""
    is_true, sigmoid = np.arange(len(x)) == 0, 1 / (1 + np.exp(-x))
    softmax = np.exp(x) / np.exp(x).sum()
    loss, slopes = -config.multiclass_weight * np.log(softmax[0]), config.multiclass_weight * (softmax - is_true)
    loss -= config.binary_weight * np.log(np.where(is_true, sigmoid, 1 - sigmoid)).mean()
    slopes += config.binary_weight * (sigmoid - is_true) / len(x)
    if len(x) > 1 and sigmoid[1] + config.margin > sigmoid[0]:
        loss += config.triplet_weight * (sigmoid[1] + config.margin - sigmoid[0])
        slopes[:2] += config.triplet_weight * np.array([-1, 1]) * (sigmoid * (1 - sigmoid))[:2]
    return loss, slopes


MULTICLASS, BINARY, TRIPLET = (
    {**dict.fromkeys(("multiclass_weight", "binary_weight", "triplet_weight"), 0.0), f"{name}_weight": 1.0}
    for name in ("multiclass", "binary", "triplet")
)
SUMMED = {"multiclass_weight": 0.5, "binary_weight": 2.0, "triplet_weight": 3.0, "margin": 0.4}
LOSSES = pytest.mark.parametrize(
    "weights", [MULTICLASS, BINARY, TRIPLET, SUMMED], ids=["multi", "binary", "triplet", "sum"]
)


def true_and_other_texts(arrays):
    """(image, text) of each row's candidates."""
    return [[(row, int(t)) for t in arrays["text"][row, :, 0][arrays["pair_mask"][row]]] for row in range(ROWS - 1)]


@pytest.mark.parametrize("hardest", [1, 3, OTHERS])
def test_loss_of_the_hardest_texts(hardest):
    """Of those that are there: the second row has but two. No other score gets a gradient."""
    arrays, config = batch(), RetrievalConfig(OTHERS, hardest)
    expected_loss, won, gradient = by_hand(true_and_other_texts(arrays), config)
    for key in (None, KEY):
        loss, sums, found = run(arrays, config, key)
        assert sums == {
            "retrieval_loss": (pytest.approx(expected_loss, rel=1e-5), ROWS - 1),
            "retrieval_accuracy": (won, ROWS - 1),
        }
        assert loss == pytest.approx(expected_loss / (ROWS - 1), rel=1e-5)
        np.testing.assert_allclose(found, gradient / (ROWS - 1), atol=1e-6)
        used = (1 + min(hardest, OTHERS)) * (ROWS - 2) + (1 + min(hardest, 2))
        assert (found != 0).sum() == (gradient != 0).sum() == used
    assert 0 < won < ROWS - 1 or hardest == OTHERS


@LOSSES
def test_losses_of_texts(weights):
    """Alone and summed; the margin is kept in some rows and not in others."""
    arrays, config = batch(), RetrievalConfig(OTHERS, 3, **weights)
    expected_loss, _, gradient = by_hand(true_and_other_texts(arrays), config)
    loss, sums, found = run(arrays, config, KEY)
    assert sums["retrieval_loss"] == (pytest.approx(expected_loss, rel=1e-5), ROWS - 1)
    assert loss == pytest.approx(expected_loss / (ROWS - 1), rel=1e-5)
    np.testing.assert_allclose(found, gradient / (ROWS - 1), atol=1e-6)
    if weights is TRIPLET:
        assert 0 < (gradient != 0).any(1).sum() < ROWS - 1


def test_losses_by_definition():
    """Two rows written out: three candidates, and one that is there with one that is not."""
    logit, used = np.float32([[1.0, 0.5, -2.0], [0.3, -0.1, 9.0]]), np.array([[True] * 3, [True, True, False]])
    p = 1 / (1 + np.exp(-logit.astype(np.float64)))
    expected = {
        "multiclass": [np.log(1 + np.exp(-0.5) + np.exp(-3.0)), np.log(1 + np.exp(-0.4))],
        "binary": [
            -(np.log(p[0, 0]) + np.log(1 - p[0, 1]) + np.log(1 - p[0, 2])) / 3,
            -(np.log(p[1, 0]) + np.log(1 - p[1, 1])) / 2,
        ],
        "triplet": [0.2 + p[0, 1] - p[0, 0], 0.2 + p[1, 1] - p[1, 0]],
    }
    for weights, values in zip((MULTICLASS, BINARY, TRIPLET), expected.values(), strict=True):
        losses = candidate_losses(jnp.array(logit), jnp.array(used), RetrievalConfig(**weights))
        np.testing.assert_allclose(losses, values, rtol=1e-5)
    assert (np.array(expected["triplet"]) > 0).all()
    far = candidate_losses(jnp.array([[3.0, -3.0]]), jnp.ones((1, 2), bool), RetrievalConfig(**TRIPLET))
    np.testing.assert_array_equal(far, 0)


@LOSSES
def test_an_image_without_other_candidates(weights):
    """Only the binary loss counts it; nothing is infinite."""
    arrays = batch()
    arrays["pair_mask"][:, 1:] = False
    loss, sums, gradient = run(arrays, RetrievalConfig(OTHERS, 3, **weights), KEY)
    assert np.isfinite(loss) and np.isfinite(gradient).all() and sums["retrieval_loss"][1] == ROWS - 1
    own = [table()[row, arrays["text"][row, 0, 0]] for row in range(ROWS - 1)]
    expected = weights["binary_weight"] * np.log1p(np.exp(-np.array(own, np.float64))).mean()
    assert loss == pytest.approx(expected, abs=1e-6)
    assert gradient.any() == (weights["binary_weight"] > 0)


def test_a_tie_is_lost():
    arrays = batch()
    scores = np.zeros((ROWS, TEXTS), np.float32)
    assert run(arrays, RetrievalConfig(OTHERS, 2), scores=scores)[1]["retrieval_accuracy"] == (0, ROWS - 1)


def test_padding_rows_do_not_count():
    arrays = batch()
    plain = run(arrays, RetrievalConfig(OTHERS, 2))
    scores = table()
    scores[-1] = np.nan  # the image of the padding row
    arrays["text"][-1, :, 0] = 3
    other = run(arrays, RetrievalConfig(OTHERS, 2), scores=scores)
    assert other[:2] == plain[:2]


def test_parts_add_up_to_the_batch():
    arrays, parts = batch(), 0.0
    for row in range(ROWS):
        part = {name: array[row : row + 1] for name, array in arrays.items()}
        parts += run(part, RetrievalConfig(OTHERS, 2), KEY, table()[row : row + 1], arrays)[0]
    assert parts == pytest.approx(run(arrays, RetrievalConfig(OTHERS, 2), KEY)[0], rel=1e-6)


@LOSSES
def test_image_side_by_hand(weights):
    """As many images as there are, so nothing is random: each true text against all images but its own."""
    arrays = batch()
    arrays["image_group"][3] = arrays["image_group"][0]
    config = RetrievalConfig(OTHERS, 2, image_negatives=True, **weights)
    texts, group = true_and_other_texts(arrays), arrays["image_group"]
    images = [
        [(row, texts[row][0][1])] + [(p, texts[row][0][1]) for p in range(ROWS - 1) if group[p] != group[row]]
        for row in range(ROWS - 1)
    ]
    expected = [a + b for a, b in zip(by_hand(texts, config), by_hand(images, config), strict=True)]
    loss, sums, gradient = run(arrays, config, KEY)
    count = 2 * (ROWS - 1)
    assert sums["retrieval_loss"] == (pytest.approx(expected[0], rel=1e-5), count)
    assert sums["retrieval_accuracy"] == (expected[1], count)
    assert loss == pytest.approx(expected[0] / (ROWS - 1), rel=1e-5)
    np.testing.assert_allclose(gradient, expected[2] / (ROWS - 1), atol=1e-6)
    texts_alone = dataclasses.replace(config, image_negatives=False)
    assert run(arrays, config)[:2] == run(arrays, texts_alone)[:2]  # evaluation scores texts alone


def test_other_images_are_other_images():
    """Never the row's own, one of its group or a padding row; none twice; each allowed one sooner or later."""
    rows, number = 9, 3
    arrays = {name: jnp.array(array) for name, array in batch(rows).items()}
    arrays["image_group"] = jnp.array([0, 1, 2, 0, 3, 3, 3, 4, 0])  # the last row is a padding row, and has group 0
    task = RetrievalTask(small_model(), RetrievalConfig(number, 1, image_negatives=True))
    other_images = jax.jit(lambda key: task._other_images(arrays, key))
    counts = np.zeros((rows, rows), int)
    for key in jax.random.split(KEY, 40):
        image, text, mask, used = map(np.asarray, other_images(key))
        assert image.shape == used.shape == (rows, 1 + number)
        np.testing.assert_array_equal(image[:, 0], np.arange(rows))
        np.testing.assert_array_equal(text, np.repeat(arrays["text"][:, :1], 1 + number, 1))
        np.testing.assert_array_equal(mask, np.repeat(arrays["text_mask"][:, :1], 1 + number, 1))
        assert used[:-1].all() and not used[-1].any()
        for row in range(rows - 1):
            others = image[row, 1:]
            assert len(set(others)) == number
            counts[row, others] += 1
    group = np.asarray(arrays["image_group"])
    allowed = (group[:, None] != group) & (np.arange(rows) < rows - 1)
    allowed[-1] = False
    np.testing.assert_array_equal(counts > 0, allowed)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_fewer_images_than_requested(rows):
    """In a small (micro-)batch: the loss of those that there are."""
    arrays = batch(rows, OTHERS)
    arrays["pair_mask"][:] = True
    loss, sums, gradient = run(arrays, RetrievalConfig(OTHERS, 4, image_negatives=True), KEY)
    assert np.isfinite(loss) and np.isfinite(gradient).all()
    assert sums["retrieval_loss"][1] == rows * (1 if rows == 1 else 2)


@pytest.mark.parametrize("model", [small_model(), small_imagebert()], ids=["pixels", "regions"])
def test_fields_are_what_the_loss_takes(model):
    """`image_group` is for the image side alone."""
    task = RetrievalTask(model, RetrievalConfig(OTHERS, 2))
    arrays = batch() if task.model == small_model() else with_regions(batch())

    @dataclasses.dataclass(frozen=True)
    class WithoutGroup(RetrievalTask):
        def fields(self):
            return {name: field for name, field in super().fields().items() if name != "image_group"}

    assert task.fields().keys() == arrays.keys()
    arrays.pop("image_group")
    assert_fields_are_needed(WithoutGroup(task.model, task.config), arrays)


def test_bad_configurations():
    for fields in ({"hardest_negatives": 0}, {"hardest_negatives": 21}, {"negatives": 4}):
        with pytest.raises(ConfigError, match=r"at least 1 and at most task\.negatives"):
            RetrievalConfig(**fields)
    for fields in ({"multiclass_weight": 0.0}, {"binary_weight": -1.0}, {"triplet_weight": -0.1}):
        with pytest.raises(ConfigError, match=r"task\.multiclass_weight, binary_weight and triplet_weight must not be"):
            RetrievalConfig(**fields)


FROZEN = {"frozen_parts": 2}  # all parts of the small backbone


def test_only_the_transformer_learns(monkeypatch):
    """The backbone runs once per image, not in training; all candidates are scored without dropout, the hard with."""
    # The multi-class loss alone leaves the bias of the scores without a gradient, rounding apart.
    task = RetrievalTask(small_model(FROZEN), RetrievalConfig(4, 2, binary_weight=1.0))
    module = task.init(platform="cpu", rngs=nnx.Rngs(params=0))
    randomize(module)
    calls, fuse, encode = [], JointModel.fuse_at, PixelBert.encode_image

    def fuse_spy(self, text, text_mask, pixels, mask, dropout_key=None):
        calls.append((len(text), dropout_key is not None))
        return fuse(self, text, text_mask, pixels, mask, dropout_key)

    def encode_spy(self, images, sizes, *, train=False):
        calls.append((len(images), train))
        return encode(self, images, sizes, train=train)

    monkeypatch.setattr(JointModel, "fuse_at", fuse_spy)
    monkeypatch.setattr(PixelBert, "encode_image", encode_spy)
    graphdef, state = nnx.split(module)
    arrays = batch(3, 4) | {"row": np.arange(3)}

    @jax.jit
    def gradient(state, arrays):
        loss = lambda state: task.loss(nnx.merge(graphdef, state), arrays, task.totals(arrays), KEY)[0]  # noqa: E731
        return jax.grad(loss, allow_int=True)(state)

    for name, array in named(gradient(nnx.as_pure(state), arrays)).items():
        assert (np.abs(array).max() > 0) == ("backbone" not in name), name
    assert calls == [(3, False), (3 * 5, False), (3 * 3, True)]


def test_a_batch_can_be_learned_by_heart_on_any_number_of_devices():
    """From texts and from images, which a frozen backbone has to distinguish."""
    # With the multi-class loss alone the bias of the scores would follow rounding.
    config = RetrievalConfig(4, 2, image_negatives=True, binary_weight=1.0)
    arrays = make_pairs(8, 5) | {"image_group": np.arange(8, dtype=np.int32)}
    arrays["text"][:, :, 0] = 1
    optimizer = OptimizerConfig(
        transformer=AdamWConfig(learning_rate=5e-3, epsilon=1e-4),
        schedule=ScheduleConfig(kind="constant", warmup_steps=0),
    )
    options = {"model": small_model(FROZEN), "optimizer": optimizer}
    assert_learned(config, arrays, "retrieval_accuracy", steps=40, **options)


def test_a_model_of_regions():
    """Its loss, from texts and from images, is that of the scores that it gives each pair alone."""
    model = small_imagebert()
    config = RetrievalConfig(OTHERS, 2, image_negatives=True, multiclass_weight=0.5, binary_weight=1.0)
    task, arrays = RetrievalTask(model, config), with_regions(batch())
    module = task.init(platform="cpu", rngs=nnx.Rngs(params=0))
    randomize(module)
    text, mask = (arrays[name].reshape(-1, arrays[name].shape[-1]) for name in ("text", "text_mask"))
    arrays["row"] = np.arange(ROWS)

    @nnx.jit
    def loss_and_scores(module):
        visual = module.model.encode_visual(arrays)
        scores = [
            module.itm_logit(module.model.fuse(text, mask, *(jnp.repeat(x[i : i + 1], len(text), 0) for x in visual)))
            for i in range(ROWS)
        ]
        return task.loss(module, arrays, task.totals(arrays), KEY)[0], jnp.stack(scores)

    loss, scores = loss_and_scores(module)
    assert scores.std(0).min() > 1e-3  # the image matters
    assert loss == pytest.approx(run(batch(), config, KEY, np.asarray(scores))[0], rel=1e-5)
