"""VQA accuracy against a slow one, and the server's file."""

import itertools
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from data_pipelines.text.answers import AnswerVocabulary, normalize_answer
from experiments.evaluation.metrics.vqa import read_predictions, vqa_accuracy, vqa_scores, write_predictions
from tests.real_data import real_data

ANSWERS = ["yes"] * 5 + ["no", "no", "no", "maybe", "Yes, sir"]


def slow_accuracy(predicted, answers):
    """The published formula: over all ways to leave one annotator out."""
    others = list(itertools.combinations(answers, len(answers) - 1))
    return float(sum(min(Fraction(1), Fraction(nine.count(predicted), 3)) for nine in others) / len(others))


@given(st.lists(st.sampled_from(["red", "blue", "2"]), min_size=1, max_size=12), st.sampled_from(["red", "2", "x"]))
def test_accuracy_equals_leaving_each_annotator_out(answers, predicted):
    assert vqa_accuracy(predicted, answers) == pytest.approx(slow_accuracy(predicted, answers), abs=1e-12)


@pytest.mark.parametrize(("count", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)])
def test_accuracy_of_ten_annotators(count, accuracy):
    assert vqa_accuracy("yes", ["yes"] * count + ["no"] * (10 - count)) == pytest.approx(accuracy)


def test_both_sides_are_normalised_where_annotators_differ():
    answers = ["Two dogs."] * 4 + ["a cat"] * 6
    for predicted in ("2 dogs", "the two dogs", " Two\tdogs? ", "TWO DOGS", "two-dogs"):
        assert vqa_accuracy(predicted, answers) == 1
    assert vqa_accuracy("dogs", answers) == 0
    assert vqa_accuracy("dont know", ["don't know"] * 3 + ["yes"] * 7) == pytest.approx(0.9)
    assert vqa_accuracy("1000", ["1,000"] * 2 + ["yes"] * 8) == pytest.approx(0.6)


def test_nothing_is_normalised_where_all_annotators_agree():
    assert vqa_accuracy("Two", ["Two"] * 10) == 1
    assert vqa_accuracy("2", ["Two"] * 10) == 0
    assert vqa_accuracy("two", ["Two"] * 10) == 0
    assert vqa_accuracy("Two\n", [" Two"] * 5 + ["\tTwo"] * 5) == 1
    # They differ before they are normalised, so both sides are.
    assert vqa_accuracy("2", ["Two"] * 9 + ["two"]) == 1


def test_accuracy_without_answers():
    assert vqa_accuracy("yes", []) == 0


@given(st.lists(st.sampled_from(["red", "blue", "2", "dog"]), min_size=10, max_size=10))
def test_soft_targets_are_the_accuracies(answers):
    vocabulary = AnswerVocabulary(("dog", "2", "blue", "red"))
    for index, score in zip(*vocabulary.soft_targets(answers), strict=True):
        assert score == pytest.approx(vqa_accuracy(vocabulary.answers[index], answers))


def entry(question, answers, answer_type=None, question_type=None):
    found = {"question_id": question, "answers": answers, "answer_type": answer_type, "question_type": question_type}
    return {key: value for key, value in found.items() if value is not None}


def test_scores_of_a_split():
    annotations = [
        entry(1, [{"answer": answer, "answer_id": i} for i, answer in enumerate(ANSWERS)], "yes/no", "is the"),
        entry(2, ANSWERS, "yes/no", "are"),
        entry("3", ["4"] * 3 + ["5"] * 7, "number", "how many"),
        entry(4, ["cat"] * 10, "other", "are"),
        entry(5, [], "other"),
        {"question_id": 6},
    ]
    scores = vqa_scores({1: "yes", 2: "maybe", "3": "Four", 5: "dog"}, iter(annotations))
    assert scores == {
        "accuracy": pytest.approx((1 + 0.3 + 0.9) / 6),
        "per_answer_type": {"number": pytest.approx(0.9), "other": 0, "yes/no": pytest.approx(0.65)},
        "per_question_type": {"are": pytest.approx(0.15), "how many": pytest.approx(0.9), "is the": 1},
        "questions": 6,
        "unanswered": 2,
        "without_answers": 2,
    }


def test_scores_without_types():
    scores = vqa_scores({}, [entry(1, ANSWERS)])
    assert (scores["accuracy"], scores["per_answer_type"], scores["per_question_type"]) == (0, {}, {})


BAD = {
    "Question 2 has a prediction but is not in this split": ({2: "a"}, [entry(1, ANSWERS)]),
    "Question '1' has a prediction": ({"1": "a"}, [entry(1, ANSWERS)]),
    "Question 1 occurs twice": ({}, [entry(1, ANSWERS), entry(1, ANSWERS)]),
    "no labelled question": ({1: "yes"}, [entry(1, [])]),
    "There is no labelled question": ({}, []),
    "prediction 7 for question 1 is not a text": ({1: 7}, [entry(1, ANSWERS)]),
    "prediction None for question 1 is not a text": ({1: None}, [entry(1, ANSWERS)]),
    "Question 1 has 3 answers, too few": ({1: "a"}, [entry(1, ["a"] * 3)]),
    "Question 2 has 1 answers, too few": ({2: "a"}, [entry(2, ["a"])]),
    "annotation of question None": ({}, [{"answers": ANSWERS}]),
    "annotation of question True": ({}, [entry(True, ANSWERS)]),
    "annotation of question 1 is": ({}, [entry(1, "yes")]),
    "annotation of question 2 is": ({}, [entry(2, ["yes", 3])]),
    "annotation of question 3 is": ({}, [entry(3, [{"text": "yes"}])]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_annotations_and_predictions(message):
    with pytest.raises(DataError, match=message):
        vqa_scores(*BAD[message])


def test_scores_of_real_annotations():
    annotations = json.loads((real_data("vqa_v2") / "annotations.json").read_text())["annotations"]
    predictions, expected = {}, []
    for annotation in annotations:
        answers = [answer["answer"] for answer in annotation["answers"]]
        if len(set(answers)) > 1:
            answers = [normalize_answer(answer) for answer in answers]
        predictions[annotation["question_id"]] = answers[-1]
        expected.append(slow_accuracy(answers[-1], answers))
    scores = vqa_scores(predictions, annotations)
    assert scores["accuracy"] == pytest.approx(sum(expected) / len(expected))
    assert (scores["questions"], scores["unanswered"], scores["without_answers"]) == (len(annotations), 0, 0)


def test_file_for_the_server(tmp_path):
    path = tmp_path / "answers.json"
    predictions = {458752000: "net", 1: "café", "own/3": ""}
    write_predictions(path, predictions)
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"question_id": 458752000, "answer": "net"},
        {"question_id": 1, "answer": "café"},
        {"question_id": "own/3", "answer": ""},
    ]
    assert read_predictions(path) == predictions
    write_predictions(path, {})
    assert read_predictions(path) == {}


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "answers.json"
    write_predictions(path, {1: "net"})
    with pytest.raises(TypeError):
        write_predictions(path, {1: "net", 2: object()})
    assert read_predictions(path) == {1: "net"}
    assert [file.name for file in tmp_path.iterdir()] == ["answers.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "not JSON"),
        ("\udcff", "not JSON"),
        ('{"question_id": 1, "answer": "a"}', "entry 0: not"),
        ('[{"question_id": 1, "answer": "a"}, 3]', "entry 1: not"),
        ('[{"question_id": true, "answer": "a"}]', "entry 0: not"),
        ('[{"question_id": 1, "answer": 2}]', "entry 0: not"),
        ('[{"question_id": 1}]', "entry 0: not"),
        ('[{"question_id": 1, "answer": "a"}, {"question_id": 1, "answer": "a"}]', "entry 1: question 1 has"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "answers.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=message):
        read_predictions(path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path / "none.json")
