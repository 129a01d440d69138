"""Visual question answering: loss and score against plain numpy, what counts, learning."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.vqa import VqaConfig, VqaTask
from tests.pixelbert_jax.helpers import (
    assert_fields_are_needed,
    assert_learned,
    assert_parts_add_up,
    make_pairs,
    randomize,
    small_model,
)

ROWS, TEXTS, ANSWERS, SLOTS = 4, 3, 7, 3
CONFIG = VqaConfig(answers=ANSWERS, answer_slots=SLOTS)


@dataclasses.dataclass(frozen=True)
class GivenLogits(VqaTask):
    """The task with given logits instead of a model's."""

    def forward(self, module, batch, key):
        return module


def logits():
    return np.random.default_rng(0).normal(0, 2, (ROWS * TEXTS, ANSWERS)).astype(np.float32)


def batch(rows=ROWS, texts=TEXTS):
    """Questions with three slots that hold other answers; in test_loss_and_score some have an answer twice."""
    rng = np.random.default_rng(1)
    shape = (rows, texts)
    answer = np.argsort(rng.random((*shape, ANSWERS)))[..., :SLOTS].astype(np.int32)
    score = rng.choice([0.3, 0.6, 0.9, 1.0], (*shape, SLOTS)).astype(np.float32)
    unused = np.arange(SLOTS) >= rng.integers(1, SLOTS + 1, shape)[..., None]
    answer[unused], score[unused] = 0, 0
    whole = np.ones(shape, bool)
    return make_pairs(rows, texts) | {"answer": answer, "answer_score": score, "one_is_enough": whole}


def run(arrays, given=None, totals_of=None):
    task = GivenLogits(small_model(), CONFIG)
    arrays = {name: jnp.array(array) for name, array in arrays.items()}
    loss, sums = task.loss(jnp.array(logits() if given is None else given), arrays, task.totals(totals_of or arrays), 1)
    return float(loss), {name: (float(a), int(b)) for name, (a, b) in sums.items()}


def expected(arrays):
    """Loss and score of each question, one answer after the other, in float64."""
    losses, scores = [], []
    for x_A, answer_S, score_S in zip(
        logits().astype(np.float64),
        arrays["answer"].reshape(-1, SLOTS),
        arrays["answer_score"].reshape(-1, SLOTS),
        strict=True,
    ):
        given = list(zip(answer_S, score_S, strict=True))
        target_A = [max([score for answer, score in given if answer == i], default=0) for i in range(ANSWERS)]
        p_A = 1 / (1 + np.exp(-x_A))
        losses.append(-sum(t * np.log(p) + (1 - t) * np.log(1 - p) for t, p in zip(target_A, p_A, strict=True)))
        scores.append(float(target_A[int(np.argmax(x_A))]))
    return np.array(losses), np.array(scores)


def test_loss_and_score():
    """Answer 0 in use beside unused slots, which name it too; one answer twice, where the greater score counts."""
    arrays = batch()
    arrays["answer"][0, 0], arrays["answer_score"][0, 0] = [0, 0, 0], [0.6, 0, 0]
    best = int(logits()[1].argmax())
    arrays["answer"][0, 1], arrays["answer_score"][0, 1] = [best, 2, best], [0.3, 1, 0.9]
    arrays["pair_mask"][2, 1:] = False
    losses, scores = expected(arrays)
    used = arrays["pair_mask"].reshape(-1)
    assert scores[1] == pytest.approx(0.9) and 0 < scores[used].sum() < used.sum()
    loss, sums = run(arrays)
    assert sums == {
        "vqa_loss": (pytest.approx(losses[used].sum(), rel=1e-5), 10),
        "vqa_score": (pytest.approx(scores[used].sum(), rel=1e-5), 10),
    }
    assert loss == pytest.approx(losses[used].mean(), rel=1e-5)


def test_a_question_without_a_known_answer_counts():
    arrays = batch()
    before = run(arrays)[1]["vqa_score"]
    arrays["answer_score"][:, 0] = 0
    total, count = run(arrays)[1]["vqa_score"]
    assert count == before[1] == ROWS * TEXTS and total < before[0]


def test_no_single_answer_is_a_set_of_several():
    """The loss teaches each of them; DAQUAR's accuracy needs all."""
    arrays = batch()
    loss, plain = run(arrays)
    scores = expected(arrays)[1]
    arrays["one_is_enough"][0] = False
    assert scores[:TEXTS].sum() > 0
    assert run(arrays)[0] == loss
    assert run(arrays)[1]["vqa_score"] == (pytest.approx(plain["vqa_score"][0] - scores[:TEXTS].sum()), ROWS * TEXTS)


def test_padding_questions_do_not_count():
    """Whatever is in them, NaN included."""
    arrays, given = batch(), logits()
    arrays["pair_mask"][-1, 1:] = False
    plain = run(arrays)
    arrays["answer_score"][-1, 1:] = 1
    given[-2:] = np.nan
    assert run(arrays, given) == plain


def test_parts_add_up_to_the_batch():
    arrays = batch()
    arrays["pair_mask"][-1, 1:] = False
    assert_parts_add_up(run, arrays, logits())


def test_an_empty_batch_is_no_nan():
    arrays = batch()
    arrays["pair_mask"][:] = False
    assert run(arrays)[0] == 0


def test_prediction_is_the_best_answer():
    task = GivenLogits(small_model(), CONFIG)
    given = jnp.array(logits())
    np.testing.assert_array_equal(task.predict(given, batch()), logits().argmax(-1).reshape(ROWS, TEXTS))


def test_fields_are_what_the_loss_takes():
    assert_fields_are_needed(VqaTask(small_model(), CONFIG), batch())


def test_bad_configurations():
    for fields in ({"answers": -1}, {"answer_slots": 0}):
        with pytest.raises(ConfigError, match="too small"):
            VqaConfig(**fields)
    with pytest.raises(ConfigError, match=r"task.answers is 0; set it to"):
        VqaTask(small_model(), VqaConfig()).init(rngs=nnx.Rngs(params=0))


def test_questions_of_an_image_do_not_influence_each_other():
    """Another second question: the first one's logits stay, and so do those of other images."""
    task = VqaTask(small_model(), CONFIG)
    module = task.init(platform="cpu", rngs=nnx.Rngs(params=0))
    randomize(module)
    forward = nnx.jit(lambda module, batch: task.forward(module, batch, None))
    arrays = batch(2, 2)
    plain = np.asarray(forward(module, arrays))
    changed = arrays | {"text": arrays["text"].copy(), "text_mask": arrays["text_mask"].copy()}
    changed["text"][0, 1], changed["text_mask"][0, 1] = 9, True
    other = np.asarray(forward(module, changed))
    np.testing.assert_array_equal(np.delete(other, 1, 0), np.delete(plain, 1, 0))
    assert np.abs(other[1] - plain[1]).max() > 1e-3


def test_a_batch_can_be_learned_by_heart_on_any_number_of_devices():
    arrays = batch(8, 2)
    arrays["answer_score"] = np.where(np.arange(SLOTS) == 0, 1, 0).astype(np.float32) * np.ones((8, 2, 1), np.float32)
    assert_learned(CONFIG, arrays, "vqa_score", steps=60)


def test_each_answer_is_as_likely_as_a_guess_at_first():
    module = VqaTask(small_model(), CONFIG).init(rngs=nnx.Rngs(params=0))
    np.testing.assert_allclose(nnx.sigmoid(module.answer_head.outer.bias[...]), 1 / ANSWERS, rtol=1e-6)
