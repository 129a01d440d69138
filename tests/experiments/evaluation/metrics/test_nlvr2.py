"""Accuracy and consistency, and the files of the official scripts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from experiments.evaluation.metrics.nlvr2 import (
    nlvr2_scores,
    nlvr_scores,
    pair_scores,
    read_nlvr_predictions,
    read_predictions,
    write_nlvr_predictions,
    write_predictions,
)
from tests.real_data import real_data

LABELS = {
    "dev-850-0-0": False,
    "dev-850-1-0": True,
    "dev-850-0-1": True,
    "dev-850-1-1": False,
    "dev-85-0-0": True,
    "test1-850-0-0": True,
}


def test_consistency_wants_all_pairs_of_a_sentence():
    scores = nlvr2_scores(LABELS, LABELS)
    assert scores == {"accuracy": 1, "consistency": 1, "examples": 6, "sentences": 4, "unanswered": 0}
    wrong = nlvr2_scores({**LABELS, "dev-850-1-0": False}, LABELS)
    assert (wrong["accuracy"], wrong["consistency"]) == (pytest.approx(5 / 6), 3 / 4)
    wrong = nlvr2_scores({**LABELS, "dev-850-0-0": True, "dev-850-1-0": False}, LABELS)
    assert (wrong["accuracy"], wrong["consistency"]) == (pytest.approx(4 / 6), 3 / 4)
    wrong = nlvr2_scores({**LABELS, "dev-850-0-0": True, "dev-850-0-1": False}, LABELS)
    assert (wrong["accuracy"], wrong["consistency"]) == (pytest.approx(4 / 6), 2 / 4)


def test_examples_without_prediction_count_as_wrong():
    scores = nlvr2_scores({name: label for name, label in LABELS.items() if "850" in name}, LABELS)
    assert scores == {
        "accuracy": pytest.approx(5 / 6),
        "consistency": 3 / 4,
        "examples": 6,
        "sentences": 4,
        "unanswered": 1,
    }
    assert nlvr2_scores({}, {"dev-1-0-0": False})["accuracy"] == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.booleans()), min_size=1))
def test_equals_a_slow_count(examples):
    predicted = {f"dev-{a}-{b}-{c}": right for a, b, c, right in examples}
    scores = nlvr2_scores(predicted, dict.fromkeys(predicted, True))
    assert scores["accuracy"] == pytest.approx(sum(predicted.values()) / len(predicted))
    sentences = {(a, c) for a, _, c, _ in examples}
    consistent = [all(predicted.get(f"dev-{a}-{b}-{c}", True) for b in range(3)) for a, c in sentences]
    assert scores["consistency"] == pytest.approx(sum(consistent) / len(sentences))


def test_sentences_of_other_data():
    labels, groups = {"x": True, "y": True, "z": False}, {"x": "s", "y": "s", "z": "t"}
    scores = pair_scores({"x": True, "y": False, "z": False}, labels, groups.__getitem__)
    assert (scores["accuracy"], scores["consistency"]) == (pytest.approx(2 / 3), 1 / 2)


def test_nlvr_wants_all_permutations_of_all_drawings():
    labels = {"1572-0": True, "1572-3": False, "157-0": True}
    predicted = {f"{name}-{k}": label for name, label in labels.items() for k in range(6)}
    assert nlvr_scores(predicted, labels) == {
        "accuracy": 1,
        "consistency": 1,
        "examples": 18,
        "sentences": 2,
        "unanswered": 0,
    }
    scores = nlvr_scores({**predicted, "1572-3-5": True}, labels)
    assert (scores["accuracy"], scores["consistency"]) == (pytest.approx(17 / 18), 1 / 2)
    del predicted["157-0-2"]
    assert nlvr_scores(predicted, labels)["unanswered"] == 1
    with pytest.raises(DataError, match="'1572-0-6' has a prediction"):
        nlvr_scores({"1572-0-6": True}, labels)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (nlvr2_scores, {}, "no labelled example"),
        (nlvr_scores, {}, "no labelled example"),
        (nlvr2_scores, {"dev-1-0": True}, "'dev-1-0' is not SPLIT-SET-PAIR-SENTENCE"),
        (nlvr_scores, {"1-0-3": True}, "'1-0-3' is not SENTENCE-DRAWING"),
    ],
)
def test_bad_labels(scores, labels, message):
    with pytest.raises(DataError, match=message):
        scores({}, labels)


def test_prediction_of_another_split():
    with pytest.raises(DataError, match="Example 'test1-0-0-0' has a prediction but is not in this split"):
        nlvr2_scores({"test1-0-0-0": True}, LABELS)


def test_file_of_nlvr2(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(path, {"dev-850-0-0": True, "dev-850-1-0": False})
    assert path.read_bytes() == b"dev-850-0-0,True\ndev-850-1-0,False\n"
    assert read_predictions(path) == {"dev-850-0-0": True, "dev-850-1-0": False}
    path.write_text("dev-850-0-0,true\r\n\n dev-850-1-0,FALSE")
    assert read_predictions(path) == {"dev-850-0-0": True, "dev-850-1-0": False}


def test_file_of_nlvr(tmp_path):
    path = tmp_path / "predictions.csv"
    write_nlvr_predictions(path, {"1572-0-3": True, "1572-0-4": False}, "dev")
    assert path.read_bytes() == b"dev-1572-0-3.png,True\ndev-1572-0-4.png,False\n"
    assert read_nlvr_predictions(path) == {"1572-0-3": True, "1572-0-4": False}
    for split in ("", "test-p", "a,b", "a.b"):
        with pytest.raises(DataError, match="cannot be part of a file"):
            write_nlvr_predictions(path, {}, split)
    path.write_text("dev-1-0-3.png,True\ntest-1-0-3.png,True\n")
    with pytest.raises(DataError, match="occurs twice"):
        read_nlvr_predictions(path)


def test_a_bad_prediction_leaves_the_old_file(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(path, {"x": True})
    for bad in ({"a,b": True}, {"a\nb": True}, {" a": True}, {"": True}):
        with pytest.raises(DataError, match="cannot be part of a line"):
            write_predictions(path, bad)
    for predicted in ("False", None, 2):
        with pytest.raises(DataError, match="neither true nor false"):
            write_predictions(path, {"x": predicted})
    assert path.read_text() == "x,True\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,True\ny\n", "line 2: not"),
        ("x,yes\n", "line 1: not"),
        ("x,True,False\n", "line 1: not"),
        ("x,True\nx,True\n", "line 2: 'x' has a prediction already"),
        ("\udcff,True\n", "cannot be read"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "predictions.csv"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=message):
        read_predictions(path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path / "none.csv")


def test_real_nlvr2(tmp_path):
    lines = (real_data("nlvr2") / "data" / "dev.json").read_text().splitlines()
    examples = [json.loads(line) for line in lines]
    labels = {example["identifier"]: example["label"] == "True" for example in examples}
    sentences = {example["identifier"]: example["sentence"] for example in examples}
    predicted = dict.fromkeys(labels, True)
    write_predictions(tmp_path / "p.csv", predicted)
    scores = nlvr2_scores(read_predictions(tmp_path / "p.csv"), labels)
    assert scores == pair_scores(predicted, labels, sentences.__getitem__)
    assert scores["sentences"] == 2
    assert scores["accuracy"] == sum(labels.values()) / len(labels)


def test_real_nlvr():
    lines = (real_data("nlvr") / "dev" / "dev.json").read_text().splitlines()
    labels = {example["identifier"]: example["label"] == "true" for example in map(json.loads, lines)}
    scores = nlvr_scores({f"{name}-{k}": True for name in labels for k in range(6)}, labels)
    assert scores["accuracy"] == pytest.approx(sum(labels.values()) / len(labels))
    wrong = {name.split("-")[0] for name, label in labels.items() if not label}
    sentences = {name.split("-")[0] for name in labels}
    assert scores["consistency"] == pytest.approx(1 - len(wrong) / len(sentences))
    assert (scores["examples"], scores["sentences"]) == (6 * len(labels), len(sentences))
