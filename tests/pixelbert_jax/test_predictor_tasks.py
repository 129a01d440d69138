"""Predictions of fine-tuned models: answers and judgements against the model called by hand; what a model cannot do."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

import pixelbert_jax
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import LoadedModel
from pixelbert_jax.predictor import Predictor
from pixelbert_jax.tasks.nlvr2 import Nlvr2Config, Nlvr2Task
from pixelbert_jax.tasks.retrieval import RetrievalConfig, RetrievalTask
from pixelbert_jax.tasks.task import Task
from pixelbert_jax.tasks.vqa import VqaConfig, VqaTask
from tests.pixelbert_jax.test_predictor import IMAGES, hidden

ANSWERS = ["red", "blue", "2", "yes"]
QUESTIONS = ["what color is it?", "how many circles?", "is there a large green square left of it?"]


@pytest.fixture(scope="module")
def pretrained(saved_run):
    return pixelbert_jax.load(saved_run)


def of_task(pretrained: LoadedModel, name: str, task: Task) -> LoadedModel:
    """A model of another task with random weights, whose heads give different outputs for different inputs."""
    model = task.init(rngs=nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    rng = np.random.default_rng(0)
    nnx.update(model, jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), state))
    description = {**pretrained.description, "task": name, "answers": ANSWERS}
    return dataclasses.replace(pretrained, model=model, task=task, description=description)


@pytest.fixture(scope="module")
def vqa(pretrained):
    return of_task(pretrained, "vqa", VqaTask(pretrained.task.model, VqaConfig(answers=len(ANSWERS))))


def judging(pretrained, images):
    return of_task(pretrained, "nlvr2", Nlvr2Task(pretrained.task.model, Nlvr2Config(images=images)))


def answers_by_hand(loaded, image, question):
    logits = loaded.model.answer_head(hidden(loaded, image, question)[:, 0])[0]
    probability = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    return [(ANSWERS[i], probability[i]) for i in np.argsort(-probability)]


def assert_same_answers(found, expected):
    assert [answer for answer, _ in found] == [answer for answer, _ in expected]
    np.testing.assert_allclose([p for _, p in found], [p for _, p in expected], atol=1e-5)


def test_answers(vqa):
    predictor = Predictor(vqa, batch_images=2, batch_pairs=2)
    expected = [[answers_by_hand(vqa, image, question) for question in QUESTIONS] for image in IMAGES]
    assert len({tuple(answer for answer, _ in one) for row in expected for one in row}) > 1
    assert_same_answers(predictor.answer(IMAGES[1], QUESTIONS[0]), expected[1][0])
    assert_same_answers(predictor.answer(IMAGES[1], QUESTIONS[0], top=2), expected[1][0][:2])
    for number, found in enumerate(predictor.answer(IMAGES[2], QUESTIONS)):
        assert_same_answers(found, expected[2][number])
    for number, found in enumerate(predictor.answer(IMAGES, QUESTIONS[1])):
        assert_same_answers(found, expected[number][1])
    for number, found in enumerate(predictor.answer(IMAGES, QUESTIONS)):
        assert_same_answers(found, expected[number][number])
    (only,) = predictor.answer([IMAGES[0]], QUESTIONS[:1])
    assert_same_answers(only, expected[0][0])
    assert predictor.answer([], []) == []
    with pytest.raises(ConfigError, match="3 images, 2 questions: give as many of each, or one"):
        predictor.answer(IMAGES, QUESTIONS[:2])


def test_an_image_goes_through_the_backbone_once(vqa, monkeypatch):
    predictor = Predictor(vqa, batch_images=1, batch_pairs=2)
    compiled, calls = predictor._encode, []
    monkeypatch.setitem(predictor.__dict__, "_encode", lambda *args: calls.append(1) or compiled(*args))
    predictor.answer(IMAGES[0], QUESTIONS)
    assert len(calls) == 1 and predictor._answer._cache_size() == 1


@pytest.mark.parametrize("per_row", [1, 2])
def test_judgements(pretrained, per_row):
    loaded = judging(pretrained, per_row)
    predictor = Predictor(loaded, batch_images=2, batch_pairs=2)
    sides = [IMAGES, IMAGES[::-1]][:per_row]

    def by_hand(images, sentence):
        cls = np.concatenate([hidden(loaded, image, sentence)[:, 0] for image in images], axis=-1)
        return float(jax.nn.softmax(loaded.model.truth_head(cls))[0, 1])

    expected = [by_hand(images, QUESTIONS[i]) for i, images in enumerate(zip(*sides, strict=True))]
    assert np.ptp(expected) > 1e-3
    found = predictor.judge(*sides, QUESTIONS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    one = predictor.judge(*(side[0] for side in sides), QUESTIONS[0])
    assert isinstance(one, float) and one == pytest.approx(expected[0], abs=1e-5)
    same = [by_hand([side[0] for side in sides], question) for question in QUESTIONS]
    np.testing.assert_allclose(predictor.judge(*(side[0] for side in sides), QUESTIONS), same, atol=1e-5)
    assert predictor.judge(*([] for _ in sides), []).shape == (0,)
    form = r"judge\(left, right, sentence\)" if per_row == 2 else r"judge\(image, sentence\)"
    with pytest.raises(ConfigError, match=rf"4 arguments were given, but .* takes {form}"):
        predictor.judge(*IMAGES, QUESTIONS[0])


def test_what_a_model_cannot_do_is_refused_in_one_sentence(pretrained, vqa):
    retrieval = of_task(pretrained, "retrieval", RetrievalTask(pretrained.task.model, RetrievalConfig()))
    image, text = IMAGES[0], "a [MASK] circle"
    calls = {
        "match": lambda p: p.match(image, text),
        "rank": lambda p: p.rank([image], text),
        "fill_mask": lambda p: p.fill_mask(image, text),
        "answer": lambda p: p.answer(image, text),
        "judge": lambda p: p.judge(image, image, text),
    }
    able = {
        "pretraining": (pretrained, ("match", "rank", "fill_mask")),
        "retrieval": (retrieval, ("match", "rank")),
        "vqa": (vqa, ("answer",)),
        "nlvr2": (judging(pretrained, 2), ("judge",)),
    }
    for task, (loaded, methods) in able.items():
        predictor = Predictor(loaded)
        assert predictor.methods == methods
        for name in calls.keys() - set(methods):
            expected = (
                rf"is a model of the task {task}, which has no head for {name}; use {', '.join(methods)}, attention_map"
            )
            with pytest.raises(ConfigError, match=expected):
                calls[name](predictor)
        assert predictor.attention_map(image, text, "circle").grid.shape == (6, 6)
