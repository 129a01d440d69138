"""Accuracy over sets of answers, and WUPS."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from experiments.evaluation.metrics.daquar import daquar_scores, split_answers, word_similarity, wups
from experiments.evaluation.metrics.wordnet import WordNet
from tests.experiments.evaluation.metrics.test_wordnet import THINGS
from tests.experiments.evaluation.metrics.wordnet_folder import write_wordnet
from tests.real_data import real_data

DOG_CAT, DOG_ANIMAL, CHAIR_FURNITURE = 6 / 8, 6 / 7, 6 / 7


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory) -> WordNet:
    folder = tmp_path_factory.mktemp("dict")
    write_wordnet(folder, THINGS)
    return WordNet(folder)


def test_similarity_below_the_threshold_weighs_a_tenth(wordnet):
    assert word_similarity("dog", "cat", 0.0, wordnet) == DOG_CAT
    assert word_similarity("dog", "cat", DOG_CAT, wordnet) == DOG_CAT
    assert word_similarity("dog", "cat", 0.9, wordnet) == pytest.approx(0.1 * DOG_CAT)
    assert word_similarity("dog", "domestic_dog", 0.9, wordnet) == 1
    assert word_similarity("garbage_bin", "garbage_bin", 0.9, wordnet) == 1
    assert word_similarity("garbage_bin", "dog", 0.0, wordnet) == 0


@pytest.mark.parametrize(
    ("predicted", "answers", "score"),
    [
        (["dog"], ["dog"], 1),
        (["dog"], ["cat"], DOG_CAT),
        (["chair", "dog"], ["dog", "chair"], 1),
        (["dog"], ["dog", "cat"], DOG_CAT),  # cat is covered by dog
        (["dog", "cat"], ["dog"], DOG_CAT),
        (["animal", "furniture"], ["dog", "chair"], DOG_ANIMAL * CHAIR_FURNITURE),
        (["dog", "unicorn"], ["dog"], 0),
        (["dog"], ["cat", "cat"], DOG_CAT**2),  # twice, as in the authors' script
        (["dog"], ["dog", "dog"], 1),
        ([], ["dog"], 0),
        (["dog"], [], 0),
        ([], [], 1),
    ],
)
def test_wups(wordnet, predicted, answers, score):
    assert wups(predicted, answers, 0.0, wordnet) == pytest.approx(score)


def test_wups_at_09(wordnet):
    assert wups(["dog"], ["cat"], 0.9, wordnet) == pytest.approx(0.1 * DOG_CAT)
    assert wups(["domestic_dog"], ["dog", "cat"], 0.9, wordnet) == pytest.approx(0.1 * DOG_CAT)


WORDS = st.lists(st.sampled_from(["dog", "cat", "chair", "animal", "garbage_bin"]), min_size=1, max_size=3)


@given(WORDS, WORDS, st.sampled_from([0.0, 0.8, 0.9]))
def test_wups_is_the_best_way_to_name_a_partner_for_each(wordnet, predicted, answers, threshold):
    def product(some, others):
        best = 0
        for partners in itertools.product(others, repeat=len(some)):
            value = 1
            for word, partner in zip(some, partners, strict=True):
                value *= word_similarity(word, partner, threshold, wordnet)
            best = max(best, value)
        return best

    expected = min(product(answers, predicted), product(predicted, answers))
    assert wups(predicted, answers, threshold, wordnet) == pytest.approx(expected)
    if set(predicted) == set(answers):
        assert expected == 1


def test_scores_of_a_split(wordnet):
    answers = {1: ["dog"], 2: ["chair", "dog"], "3": ["garbage_bin"], 4: ["cat"], 5: ["3"]}
    predictions = {1: ["dog", "dog"], 2: ("dog", "chair"), 4: ["dog"], 5: ["4"]}
    scores = daquar_scores(predictions, answers, wordnet)
    assert scores == {
        "accuracy": 2 / 5,
        "wups_0.9": pytest.approx((2 + 0.1 * DOG_CAT) / 5),
        "wups_0.0": pytest.approx((2 + DOG_CAT) / 5),
        "questions": 5,
        "unanswered": 1,
    }
    assert daquar_scores(predictions, answers) == {"accuracy": 2 / 5, "questions": 5, "unanswered": 1}


@pytest.mark.parametrize(
    ("predictions", "answers", "message"),
    [
        ({}, {}, "no labelled question"),
        ({2: ["a"]}, {1: ["a"]}, "Question 2 has a prediction"),
        ({1: "dog"}, {1: ["dog"]}, "'dog' of question 1 are one text"),
        ({1: ["dog"]}, {1: "dog"}, "'dog' of question 1 are one text"),
    ],
)
def test_bad_answers(predictions, answers, message):
    with pytest.raises(DataError, match=message):
        daquar_scores(predictions, answers)


def test_split_answers():
    assert split_answers("garbage_bin") == ("garbage_bin",)
    assert split_answers("sofa, sofa,chair ") == ("sofa", "sofa", "chair")


def test_real_answers():
    lines = (real_data("daquar") / "all_qa_pairs.txt").read_text().splitlines()
    answers = {number: split_answers(line) for number, line in enumerate(lines[1::2])}
    backwards = {number: several[::-1] for number, several in answers.items()}
    assert daquar_scores(backwards, answers)["accuracy"] == 1
    alone = sum(len(set(several)) == 1 for several in answers.values())
    first = daquar_scores({number: several[:1] for number, several in answers.items()}, answers)
    assert first == {"accuracy": pytest.approx(alone / len(answers)), "questions": 12468, "unanswered": 0}
