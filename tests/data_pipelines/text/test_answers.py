"""Normal forms of answers, and lists of answers."""

import collections
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from data_pipelines.text.answers import (
    AnswerVocabulary,
    build_vocabulary,
    clean_answer,
    normalize_answer,
    read_vocabulary_list,
)
from tests.real_data import real_data

NORMAL_FORMS = {
    # white space and case
    "": "",
    " Yes\n": "yes",
    "hot\tdog": "hot dog",
    "hot \n  dog": "hot dog",
    # articles, only as words
    "A dog": "dog",
    "an apple and the pear": "apple and pear",
    "the": "",
    "theatre": "theatre",
    # number words up to ten, and none
    "none": "0",
    "Zero": "0",
    "one of two": "1 of 2",
    "ten": "10",
    "eleven": "eleven",
    "someone": "someone",
    # a sign next to a space is removed, a sign between letters becomes a space
    "t-shirt": "t shirt",
    "yes, no": "yes no",
    "yes,no": "yes no",
    "black & white": "black & white",
    "at&t": "at&t",
    "black -white": "black white",
    "rock - n-roll": "rock nroll",
    "rock -n-roll": "rock nroll",
    "rock - n/roll": "rock n roll",
    "x/-y-z": "x y z",  # the space that replaces / does not count
    "x-/y-z": "x y z",
    "(red)": "red",
    "red?": "red",
    "red!": "red",
    '"stop"': "stop",
    "a/b;c\\d_e@f`g": "b c d e f g",
    "{x}[y]<z>=+w": "x y z w",
    # the apostrophe and the colon are not signs
    "10:30": "10:30",
    "men's": "men's",
    # with a comma between digits, all signs are removed
    "1,000": "1000",
    "1,000-2,000": "10002000",
    "1, 000": "1 000",
    "x,1": "x 1",
    # a full stop is removed unless a digit follows
    "yes.": "yes",
    "u.s.a.": "usa",
    "3.50": "3.50",
    "3.": "3",
    ".5": ".5",
    "no.1": "no.1",
    "." * 33 + "x": ".x",
    # contractions with a missing apostrophe
    "dont know": "don't know",
    "DONT": "don't",
    "don't": "don't",
    "oclock": "o'clock",
    "shouldntve": "shouldntve",
    "shouldnt've": "shouldn't've",
    "shouldn'tve": "shouldn't've",
    "yalld've": "yalld've",
    "y'alld've": "y'all'd've",
    "ow's'at": "'ow's'at",
    "somebodyd": "somebodyd",
    "somebody'd": "somebodyd",
    "lets": "lets",
    "Im": "im",
    "Ive": "ive",
    "dont.": "don't",
}


@pytest.mark.parametrize("text", NORMAL_FORMS)
def test_normal_form(text):
    assert normalize_answer(text) == NORMAL_FORMS[text]


def test_contractions_come_after_numbers_and_articles():
    assert normalize_answer("The ones thats a none") == "ones that's 0"


@given(st.text(st.sampled_from("ab1 .,-'/?\n\t"), max_size=12))
def test_a_normal_form_has_no_signs_and_single_spaces(text):
    normal = normalize_answer(text)
    assert normal == " ".join(normal.split())
    assert not set(normal) & set(",-/?\n\t")
    assert normalize_answer(f"  {text} ") == normal


def test_clean_answer_keeps_what_the_script_keeps():
    assert clean_answer("\tTwo\ndogs. ") == "Two dogs."


def test_published_answers_are_their_own_normal_forms():
    path = real_data("vqa_v2") / "trainval_ans2label.json"
    answers = read_vocabulary_list(path).answers
    assert len(answers) == 3129
    assert [answer for answer in answers if normalize_answer(answer) != answer] == []
    assert answers == tuple(json.loads(path.with_name("trainval_label2ans.json").read_text()))
    assert read_vocabulary_list(path.with_name("trainval_label2ans.json")).answers == answers


def test_index_of_an_answer_and_of_its_normal_form():
    vocabulary = AnswerVocabulary(("yes", "2", "garbage_bin", ""))
    assert [vocabulary.index(answer) for answer in ("yes", "Yes.", "two", "garbage_bin", "the")] == [0, 0, 1, 2, 3]
    assert vocabulary.index("garbage bin") is None
    assert len(vocabulary) == 4
    assert pickle.loads(pickle.dumps(vocabulary)) == vocabulary
    assert len(AnswerVocabulary(())) == 0


def test_an_answer_occurs_once():
    with pytest.raises(DataError, match="'b' stands twice"):
        AnswerVocabulary(("a", "b", "c", "b"))


def test_scores_of_ten_annotators():
    vocabulary = AnswerVocabulary(("x", "one", "1", "y", "z", "w"))
    answers = ["z", "y", "One.", "y", "1", "1", "?", "?", "y", "unknown"]
    index_S, score_S = vocabulary.soft_targets(answers)
    assert index_S.tolist() == [4, 3, 2]
    np.testing.assert_array_equal(score_S, np.float32([0.3, 0.9, 0.9]))
    assert (index_S.dtype, score_S.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize(("count", "score"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (5, 1), (10, 1)])
def test_score_of_a_count(count, score):
    index_S, score_S = AnswerVocabulary(("no", "yes")).soft_targets(["yes"] * count + ["maybe"] * (10 - count), 3)
    assert index_S.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(score_S, np.float32([score, 0, 0]))


def test_answers_of_fewer_than_ten_are_all_right():
    vocabulary = AnswerVocabulary(("sofa", "chair", "table"))
    assert [part.tolist() for part in vocabulary.soft_targets(["chair", "sofa", "chair"])] == [[1, 0], [1, 1]]
    assert [part.tolist() for part in vocabulary.soft_targets(["sofa"])] == [[0], [1]]
    assert [part.tolist() for part in vocabulary.soft_targets(["sofa"] * 9)] == [[0], [1]]
    assert vocabulary.soft_targets(["sofa"], votes=True)[1].tolist() == pytest.approx([0.3])
    assert vocabulary.soft_targets(["sofa", *["lamp"] * 9], votes=False)[1].tolist() == [1]


def test_no_known_answer():
    for answers in (["lamp"] * 10, ["lamp"], []):
        index_S, score_S = AnswerVocabulary(("sofa",)).soft_targets(answers)
        assert index_S.shape == score_S.shape == (0,)
    assert AnswerVocabulary(("sofa",)).soft_targets([], 2)[1].tolist() == [0, 0]


def test_more_answers_than_slots():
    with pytest.raises(DataError, match="2 different known answers but 1 slots"):
        AnswerVocabulary(("a1", "a2")).soft_targets(["a1", "a2"], 1)


def test_build_counts_the_majority_of_each_question():
    questions = [["3", "two", "2"], ["3", "two"], ["3"], ["Cat!", "dog"], ["a cat"], [], ["bee"], ["ant", "bee"]]
    # 2 of the first question, 3 of the next two; of equally common ones the first: 3, cat, ant.
    assert build_vocabulary(questions, 1).answers == ("3", "cat", "2", "ant", "bee")
    assert build_vocabulary(iter(questions), 2).answers == ("3", "cat")


def test_build_sorts_by_count_then_alphabet():
    answers = ["b"] * 3 + ["zoo"] * 9 + ["cow"] * 9 + ["d"] * 10 + ["e"] * 8
    assert build_vocabulary([answer] for answer in answers).answers == ("d", "cow", "zoo")


def test_build_without_normal_forms():
    sets = [["garbage_bin"], ["Two "], ["garbage_bin"]]
    assert build_vocabulary(sets, 1, normalize=False).answers == ("garbage_bin", "Two")
    assert build_vocabulary(sets, 1).answers == ("garbage bin", "2")


def test_build_needs_a_frequent_answer():
    with pytest.raises(DataError, match="None of 2 different answers is that of 9 questions"):
        build_vocabulary([["yes"]] * 8 + [["no"]])


@given(st.lists(st.lists(st.sampled_from(["red", "Red", "a red", "two", "2", "no"]), max_size=4), min_size=1))
def test_build_equals_a_slow_count(questions):
    counts = collections.Counter()
    for answers in questions:
        forms = [normalize_answer(answer) for answer in answers]
        for form in forms:
            if forms.count(form) == max(map(forms.count, forms)):
                counts[form] += 1
                break
    if not counts:
        with pytest.raises(DataError):
            build_vocabulary(questions, 1)
    else:
        expected = sorted(sorted(counts), key=counts.get, reverse=True)
        assert build_vocabulary(questions, 1).answers == tuple(expected)


FORMS = {
    "list.json": '["yes", "", "no"]',
    "plain.json": '{"no": 2, "yes": 0, "": 1}',
    "both.json": '{"ans2label": {"no": 2, "yes": 0, "": 1}, "label2ans": ["yes", "", "no"]}',
    "labels.json": '{"label2ans": ["yes", "", "no"]}',
    "answers.json": '{"ans2label": {"no": 2, "yes": 0, "": 1}, "version": 1}',
    "bom.json": '\ufeff["yes", "", "no"]',
    "list_without_ending": ' ["yes", "", "no"]',
}


@pytest.mark.parametrize("name", FORMS)
def test_published_forms(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    assert read_vocabulary_list(tmp_path / name).answers == ("yes", "", "no")
    assert read_vocabulary_list(str(tmp_path / name)).answers == ("yes", "", "no")


def test_one_answer_per_line(tmp_path):
    path = tmp_path / "answers.txt"
    path.write_bytes(b"[yes]\r\nhot dog \nno\n\n")
    assert read_vocabulary_list(path).answers == ("[yes]", "hot dog", "no")
    assert len(read_vocabulary_list(real_data("easy_vqa") / "answers.txt")) == 13


def test_answers_may_be_called_like_the_keys(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"label2ans": 1, "ans2label": 0}')
    assert read_vocabulary_list(path).answers == ("ans2label", "label2ans")


BAD = {
    "a.json": ("[1, 2", "line 1: not JSON"),
    "b.json": ('["yes", 3]', "entry 3 is not a text"),
    "c.json": ('["yes", null]', "entry None is not a text"),
    "d.json": ('{"yes": 0, "no": 2}', "not the numbers from 0"),
    "e.json": ('{"yes": 0, "no": 0}', "not the numbers from 0"),
    "f.json": ('{"yes": 0, "no": true}', "not the numbers from 0"),
    "g.json": ('{"yes": 0, "yes": 1}', "'yes' stands twice"),
    "h.json": ('["yes", "no", "yes"]', "'yes' stands twice"),
    "i.json": ('{"label2ans": ["a", "b"], "ans2label": {"a": 1, "b": 0}}', "differ"),
    "j.json": ('"yes"', "neither a list nor an object"),
    "k.json": ("[]", "It is empty"),
    "l.json": ("{}", "It is empty"),
    "m.json": ("[" * 100_000, "no list of answers"),
    "n.txt": ("", "It is empty"),
    "o.txt": ("yes\n\nno\n", "Line 2 is blank"),
    "p.txt": ("yes\nno\nyes\n", "'yes' stands twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lists(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as error:
        read_vocabulary_list(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_unreadable_lists(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x03}q\x00\xff")
    for name, message in (("a.pkl", "not UTF-8"), ("none.json", "No such file"), (".", "cannot be read")):
        with pytest.raises(DataError, match=message):
            read_vocabulary_list(tmp_path / name)
