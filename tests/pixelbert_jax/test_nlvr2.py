"""NLVR2 and NLVR: loss and accuracy against plain numpy, what counts, two images, learning."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.nlvr2 import Nlvr2Config, Nlvr2Task
from tests.pixelbert_jax.helpers import (
    assert_fields_are_needed,
    assert_learned,
    assert_parts_add_up,
    make_pairs,
    randomize,
    small_model,
)

ROWS, TEXTS = 4, 3


@dataclasses.dataclass(frozen=True)
class GivenLogits(Nlvr2Task):
    """The task with given logits instead of a model's."""

    def forward(self, module, batch, key):
        return module


def logits():
    return np.random.default_rng(0).normal(0, 2, (ROWS * TEXTS, 2)).astype(np.float32)


def batch(images=2, rows=ROWS, texts=TEXTS):
    label = np.random.default_rng(3).integers(0, 2, (rows, texts)).astype(np.int32)
    return make_pairs(rows, texts, images) | {"label": label}


def run(arrays, given=None, totals_of=None):
    task = GivenLogits(small_model(), Nlvr2Config())
    arrays = {name: jnp.array(array) for name, array in arrays.items()}
    loss, sums = task.loss(jnp.array(logits() if given is None else given), arrays, task.totals(totals_of or arrays), 1)
    return float(loss), {name: (float(a), int(b)) for name, (a, b) in sums.items()}


def test_loss_and_accuracy():
    arrays = batch()
    arrays["pair_mask"][2, 1:] = False
    used, label = arrays["pair_mask"].reshape(-1), arrays["label"].reshape(-1)
    x = logits().astype(np.float64)
    losses = (np.log(np.exp(x).sum(-1)) - x[np.arange(len(x)), label])[used]
    right = ((x[:, 1] > x[:, 0]) == label)[used]
    assert 0 < right.sum() < len(right) == 10
    loss, sums = run(arrays)
    assert sums == {
        "nlvr2_loss": (pytest.approx(losses.sum(), rel=1e-5), 10),
        "nlvr2_accuracy": (right.sum(), 10),
    }
    assert loss == pytest.approx(losses.mean(), rel=1e-5)


def test_padding_sentences_do_not_count():
    arrays, given = batch(), logits()
    arrays["pair_mask"][-1, 1:] = False
    plain = run(arrays)
    arrays["label"][-1, 1:] = 1 - arrays["label"][-1, 1:]
    given[-2:] = np.nan
    assert run(arrays, given) == plain


def test_parts_add_up_to_the_batch():
    arrays = batch()
    arrays["pair_mask"][-1, 1:] = False
    assert_parts_add_up(run, arrays, logits())


def test_prediction_is_1_where_a_sentence_is_true():
    task = GivenLogits(small_model(), Nlvr2Config())
    expected = (logits()[:, 1] > logits()[:, 0]).reshape(ROWS, TEXTS)
    np.testing.assert_array_equal(task.predict(jnp.array(logits()), batch()), expected)


@pytest.mark.parametrize("images", [1, 2])
def test_fields_are_what_the_loss_takes(images):
    assert_fields_are_needed(Nlvr2Task(small_model(), Nlvr2Config(images)), batch(images))


def test_three_images_are_refused():
    with pytest.raises(ConfigError, match=r"task.images=3 must be 1 \(NLVR\) or 2"):
        Nlvr2Config(3)


def test_left_and_right_are_not_the_same():
    """The image on the left meets the first half of the classifier's input."""
    task = Nlvr2Task(small_model(), Nlvr2Config())
    module = task.init(platform="cpu", rngs=nnx.Rngs(params=0))
    randomize(module)
    forward = nnx.jit(lambda module, batch: task.forward(module, batch, None))
    arrays = batch(rows=2, texts=2)
    swapped = arrays | {name: arrays[name][:, ::-1] for name in ("images", "image_size")}
    plain, other = (np.asarray(forward(module, each)) for each in (arrays, swapped))
    assert np.abs(plain - other).max(-1).min() > 1e-3
    inner = module.truth_head.inner.kernel
    inner[...] = inner[...].at[32:].set(0)  # blind to the right
    plain = np.asarray(forward(module, arrays))
    for side, name in enumerate(("left", "right")):
        black = arrays | {"images": arrays["images"].copy()}
        black["images"][:, side] = 0
        assert (np.abs(np.asarray(forward(module, black)) - plain).max() > 1e-3) == (name == "left")


def test_a_batch_can_be_learned_by_heart_on_any_number_of_devices():
    arrays = batch(rows=8, texts=2)
    assert_learned(Nlvr2Config(), arrays, "nlvr2_accuracy", steps=50)
