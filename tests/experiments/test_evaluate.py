"""Evaluation of fine-tuned models: the submission file, and its scores, counted by hand."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from flax import nnx

import pixelbert_jax
from data_pipelines.errors import DataError
from data_pipelines.images import resize
from data_pipelines.storage.records import open_records
from data_pipelines.text.answers import AnswerVocabulary
from experiments import evaluate as program
from experiments.evaluation import predict
from experiments.evaluation.metrics.vqa import vqa_accuracy
from experiments.evaluation.predict import Prediction
from experiments.run.common_flags import OUTPUT, SPLIT, WORKDIR
from experiments.tasks import nlvr2, vqa
from pixelbert_jax.tasks.nlvr2 import Nlvr2Config
from tests.experiments.evaluating import evaluate
from tests.experiments.evaluation.metrics.wordnet_folder import write_wordnet
from tests.experiments.fine_tuning import config_of, evaluated, fine_tune, steps

pytestmark = pytest.mark.usefixtures("compiled_once")


def test_evaluation_writes_the_servers_file(vqa_run, own_data, tmp_path, capsys):
    """Every question once; the accuracy is counted by hand and equals the metric of training."""
    output = tmp_path / "answers.json"
    with flagsaver.flagsaver((WORKDIR, str(vqa_run)), (OUTPUT, str(output)), (SPLIT, "val")):
        program.main()
    printed = capsys.readouterr().out
    predicted = {entry["question_id"]: entry["answer"] for entry in json.loads(output.read_text())}
    labels = [json.loads(label) for record in open_records(own_data, "vqa", "val") for label in record.labels]
    assert [label["question_id"] for label in labels] == list(predicted)
    assert all(entry.keys() == {"question_id", "answer"} for entry in json.loads(output.read_text()))
    right = sum(predicted[label["question_id"]] in label["answers"] for label in labels)
    assert 0 < right < len(labels)
    assert f"accuracy {right / len(labels):38.4f}" in printed
    (best,) = steps(vqa_run / "best")
    assert f"best/{best}, step {best}" in printed
    assert evaluated(vqa_run, "eval/vqa_score")[best] == pytest.approx(right / len(labels), abs=1e-6)


def test_a_split_without_answers_gives_the_file_alone(vqa_run, tmp_path):
    loaded = pixelbert_jax.load(vqa_run)
    assert evaluate(loaded, "test", tmp_path / "a.json") == {"questions": 15}
    assert len(json.loads((tmp_path / "a.json").read_text())) == 15


def logits_by_hand(loaded, records) -> dict[str, np.ndarray]:
    """Logits of each question alone with its image."""

    @nnx.jit
    def answer(module, image, size, text):
        pixels, mask = module.model.encode_image(image, size)
        cls = module.model.fuse(text, jax.numpy.ones(text.shape, bool), pixels, mask)[:, 0]
        return module.answer_head(cls)[0]

    found = {}
    for record in records:
        pixels = resize.decode(record.image)
        size = resize.resized_size(*pixels.shape[:2], loaded.data.resize)
        canvas = resize.place_on_canvas(resize.resize(pixels, size), (48, 48))
        for text, label in zip(record.texts, record.labels, strict=True):
            ids = loaded.tokenizer.encode(text, loaded.data.max_text_length)
            logits = answer(loaded.model, canvas[None], np.array([size], np.int32), ids[None])
            found[json.loads(label)["question_id"]] = np.asarray(logits)
    return found


def test_answers_are_those_of_the_model(vqa_run, own_data, tmp_path, monkeypatch):
    """The control with shuffled images mixes the rows: neighbours may show nearly the same."""
    loaded = pixelbert_jax.load(vqa_run)
    logits = logits_by_hand(loaded, open_records(own_data, "vqa", "val"))
    mean = np.mean(list(logits.values()), 0)
    head = loaded.model.answer_head.outer
    head.bias[...] = head.bias[...] - mean  # so that small differences make other answers
    evaluate(loaded, "val", tmp_path / "a.json")
    predicted = {entry["question_id"]: entry["answer"] for entry in json.loads((tmp_path / "a.json").read_text())}
    answers = loaded.description["answers"]
    assert predicted == {question: answers[int((x - mean).argmax())] for question, x in logits.items()}
    assert set(predicted.values()) == set(answers)
    seeds, plan = [], predict.EvaluationPlan
    spy = lambda *arrays, seed, **more: seeds.append(seed) or plan(*arrays, seed=seed, **more)  # noqa: E731
    monkeypatch.setattr(predict, "EvaluationPlan", spy)
    evaluate(loaded, "val", tmp_path / "b.json", shuffle_images=True)
    assert seeds == [0]
    shuffled = {entry["question_id"]: entry["answer"] for entry in json.loads((tmp_path / "b.json").read_text())}
    assert list(shuffled) == list(predicted) and shuffled != predicted


def test_votes_are_scored_by_the_official_accuracy(vqa_config, tmp_path):
    votes = dataclasses.replace(vqa_config, data=dataclasses.replace(vqa_config.data, answers_are="votes"))
    given = [["red"] * 2 + ["blue"] * 8, ["yes"] * 10, ["no"] * 3 + ["yes"] * 7]
    answered = [
        Prediction({"question_id": k, "answers": a, "answer_type": f"t{k % 2}"}, "?", predicted)
        for k, (a, predicted) in enumerate(zip(given, ("red", "no", "no"), strict=True))
    ]
    scores = vqa.write_submission(votes, answered, tmp_path / "a.json")
    expected = [vqa_accuracy(p.answer, p.label["answers"]) for p in answered]
    assert scores["accuracy"] == pytest.approx(np.mean(expected)) and 0 < scores["accuracy"] < 1
    assert scores["per_answer_type/t0"] == pytest.approx((expected[0] + expected[2]) / 2)


def test_each_of_several_right_answers_is_right(vqa_config, tmp_path):
    """By the comparison that training's targets make: "The Dog" is known by its normal form, "a cow" is not known."""
    right = dataclasses.replace(vqa_config, data=dataclasses.replace(vqa_config.data, answers_are="right"))
    known = AnswerVocabulary(("dog", "cat", "black dog"))
    given = [["The Dog", "black dog"], ["a cow"], ["cat"], ["black dog", "dog"]]
    answered = [
        Prediction({"question_id": k, "answers": a}, "?", predicted)
        for k, (a, predicted) in enumerate(zip(given, ("dog", "dog", "dog", "black dog"), strict=True))
    ]
    scores = vqa.write_submission(right, answered, tmp_path / "a.json", known)
    assert scores == {"accuracy": 2 / 4, "questions": 4, "unanswered": 0}
    for prediction in answered:  # training's metric for the same answers
        index_S, score_S = known.soft_targets(prediction.label["answers"], votes=False)
        expected = dict(zip(index_S.tolist(), score_S.tolist(), strict=True)).get(known.index(prediction.answer), 0)
        one = vqa.write_submission(right, [prediction], tmp_path / "a.json", known)
        assert one["accuracy"] == expected
    sets = dataclasses.replace(right, data=dataclasses.replace(right.data, answers_are="set"))
    assert vqa.write_submission(sets, answered, tmp_path / "a.json", known)["accuracy"] == 0


def test_wups_of_right_answers(vqa_run, own_data, tmp_path, capsys):
    """Red and blue are nearer to each other than to green; counted by hand, with one answer per question."""
    colours = [("thing", [], "@"), ("warm", [0], "@"), ("red", [1], "@"), ("blue", [1], "@"), ("green", [0], "@")]
    write_wordnet(tmp_path, colours)
    settings = ((WORKDIR, str(vqa_run)), (OUTPUT, str(tmp_path / "a.json")), (SPLIT, "val"))
    with flagsaver.flagsaver(*settings, (program._WORDNET, str(tmp_path))):
        program.main()
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("wups", "acc")))
    predicted = {entry["question_id"]: entry["answer"] for entry in json.loads((tmp_path / "a.json").read_text())}
    labels = [json.loads(label) for record in open_records(own_data, "vqa", "val") for label in record.labels]
    near = {frozenset(pair): value for *pair, value in (("red", "blue", 4 / 6), ("red", "green", 2 / 5))}
    near[frozenset(("blue", "green"))] = 2 / 5
    similar = [near.get(frozenset((predicted[label["question_id"]], *label["answers"])), 1.0) for label in labels]
    assert 0 < np.mean([value == 1 for value in similar]) < 1
    assert float(printed["wups_0.0"]) == pytest.approx(np.mean(similar), abs=1e-4)
    tenth = [value if value == 1 else value / 10 for value in similar]
    assert float(printed["wups_0.9"]) == pytest.approx(np.mean(tenth), abs=1e-4)
    assert float(printed["accuracy"]) == pytest.approx(np.mean([value == 1 for value in similar]), abs=1e-4)


# Pairs of images.


def test_pairs_from_fine_tuning_to_the_official_file(own_data, small_run, tmp_path):
    """Users' own identifiers; accuracy and consistency are counted by hand."""
    config = config_of(Nlvr2Config(), own_data, small_run, "image_pairs")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=2))
    fine_tune(config, tmp_path / "run")
    loaded = pixelbert_jax.load(tmp_path / "run")
    scores = evaluate(loaded, "val", tmp_path / "predicted.csv")
    with (tmp_path / "predicted.csv").open() as file:
        predicted = dict(csv.reader(file))
    labels = [json.loads(label) for r in open_records(own_data, "image_pairs", "val") for label in r.labels]
    assert list(predicted) == [str(label["identifier"]) for label in labels]
    right = {label["identifier"]: predicted[str(label["identifier"])] == str(label["label"]) for label in labels}
    groups = [[right[x["identifier"]] for x in labels if x["group"] == group] for group in (0, 1)]
    assert scores["accuracy"] == pytest.approx(sum(right.values()) / len(right))
    assert scores["consistency"] == pytest.approx(sum(map(all, groups)) / 2)
    assert evaluated(tmp_path / "run", "eval/nlvr2_accuracy")[2] == pytest.approx(scores["accuracy"], abs=1e-6)
    assert evaluate(loaded, "test", tmp_path / "test.csv") == {"examples": 9}
    with pytest.raises(DataError, match="have no identifier; use a data set for nlvr2"):
        evaluate(loaded, "val", tmp_path / "x.csv", dataset="vqa")


def test_drawings_are_scored_with_all_their_permutations(tmp_path):
    answered = [
        Prediction({"identifier": "7-1", "permutation": k, "label": False, "group": "7"}, "?", k == 5) for k in range(6)
    ]
    scores = nlvr2.write_submission(answered, "dev", tmp_path / "a.csv")
    assert scores["accuracy"] == pytest.approx(5 / 6) and scores["consistency"] == 0
    assert (tmp_path / "a.csv").read_text().splitlines()[5] == "dev-7-1-5.png,True"
