"""Stages that compare several images or texts."""

import itertools

import pytest

from data_pipelines.web_collection.choice import choose, longest
from data_pipelines.web_collection.merging import merge, text_key
from data_pipelines.web_collection.repeats import Use, uses, with_texts, without_repeats
from tests.data_pipelines.web_collection.crawl import image, split


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("A dog, running!", "a dog running", True),
        ("a  dog", "a dog", True),
        ("STRASSE", "Straße", True),
        ("\N{LATIN SMALL LIGATURE FI}sh \N{FULLWIDTH DIGIT ONE}", "fish 1", True),
        ("a dog", "a dogs", False),
        ("1 dog", "2 dog", False),
        ("...", "!!!", False),
    ],
)
def test_equivalent_texts(a: str, b: str, same: bool) -> None:
    assert (text_key(a) == text_key(b)) is same


def test_merge_does_not_depend_on_the_order() -> None:
    found = [
        image("third text", "a DOG runs!", number=7, page="p7"),
        image("a dog runs", "second text", number=2, page="p2"),
        image("fourth text", number=11, page="p11"),
    ]
    results = [split(merge(order, 3)) for order in itertools.permutations(found)]
    assert all(result == results[0] for result in results)
    (merged,), drops = results[0]
    assert merged == image("a dog runs", "second text", "third text", number=2, page="p2")
    assert [(d.stage, d.location, d.text, d.images, d.texts) for d in drops] == [
        ("same file", "0.tar:7", "", 1, 0),
        ("same text", "0.tar:7", "a DOG runs!", 0, 1),
        ("same file", "0.tar:11", "", 1, 0),
        ("many texts", "0.tar:11", "fourth text", 0, 1),
    ]


def test_a_text_of_too_many_images_goes_from_all() -> None:
    same = [Use(sha256, 0, "click here", "0.tar:0") for sha256 in "abc"]
    assert split(without_repeats(same, 3)) == (same, [])
    kept, drops = split(without_repeats(same, 2))
    assert not kept and [(d.stage, d.texts, d.images) for d in drops] == [("repeated", 1, 0)] * 3


def test_texts_come_back_in_their_order() -> None:
    several = image(*(f"text number {i}" for i in range(12)))
    left = [use for use in uses(several) if use.number % 2]
    (kept,), drops = split(with_texts(several, left[::-1]))
    assert kept.texts == tuple(f"text number {i}" for i in range(1, 12, 2)) and not drops
    kept, drops = split(with_texts(several, []))
    assert not kept and [(d.stage, d.images, d.texts) for d in drops] == [("own text", 1, 0)]


def test_longest() -> None:
    assert longest(["a dog", "aaaaaaaaaaaaaaaaaaaaaa", "a big dog", "the big cat"]) == 2


def test_choice_by_score() -> None:
    (kept,), drops = split(choose(image("one", "two", "three"), [0.5, 0.9, 0.9], 0.5))
    assert kept == image("two", score=0.9)
    assert [(d.stage, d.text, d.images, d.texts, d.detail) for d in drops] == [
        ("best text", "one", 0, 1, "0.5000 against 0.9000: 'two'"),
        ("best text", "three", 0, 1, "0.9000 against 0.9000: 'two'"),
    ]


def test_a_low_score_drops_the_image() -> None:
    kept, drops = split(choose(image("one", "two"), [0.1, 0.2], 0.25))
    assert not kept
    assert [(d.stage, d.text, d.images, d.texts) for d in drops] == [("best text", "one", 0, 1), ("score", "two", 1, 1)]
    assert split(choose(image("one", "two"), [0.1, 0.25], 0.25))[0] == [image("two", score=0.25)]


def test_choice_without_scores() -> None:
    (kept,), drops = split(choose(image("one", "two words"), None, 0.9))
    assert kept == image("two words") and kept.score is None and len(drops) == 1
