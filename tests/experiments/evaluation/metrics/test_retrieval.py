"""Recall against a slow one that sorts lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from experiments.evaluation.metrics.retrieval import folded_recalls, rank_items, recalls


def rank_of_first(query_scores, right):
    """Rank of the first right item in a list sorted by score, wrong items first among equals."""
    order = sorted(range(len(query_scores)), key=lambda item: (-query_scores[item], item in right))
    return next(rank for rank, item in enumerate(order) if item in right)


def slow_ranks(scores, image_of_text):
    texts = [{t for t, image in enumerate(image_of_text) if image == i} for i in range(len(scores))]
    columns = list(zip(*scores, strict=True))
    return (
        [rank_of_first(row, texts[i]) for i, row in enumerate(scores)],
        [rank_of_first(column, {image_of_text[t]}) for t, column in enumerate(columns)],
    )


@st.composite
def tables(draw):
    """Scores with many ties, and the image of each text, in any order."""
    images = draw(st.integers(1, 6))
    more = draw(st.lists(st.integers(0, images - 1), max_size=8))
    image_of_text = draw(st.permutations([*range(images), *more]))
    row = st.lists(
        st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 1.0]), min_size=len(image_of_text), max_size=len(image_of_text)
    )
    return draw(st.lists(row, min_size=images, max_size=images)), image_of_text


@given(tables())
def test_equals_sorting(table):
    scores, image_of_text = table
    ranks = rank_items(np.array(scores), np.array(image_of_text))
    text, image = slow_ranks(scores, image_of_text)
    assert ranks.text_I.tolist() == text
    assert ranks.image_T.tolist() == image
    expected = {
        f"{kind}_recall_{k}": sum(rank < k for rank in ranked) / len(ranked)
        for kind, ranked in (("text", text), ("image", image))
        for k in (1, 2, 5)
    }
    assert recalls(np.array(scores), np.array(image_of_text), (1, 2, 5)) == pytest.approx(expected)


def test_by_hand():
    scores = np.array([[0.9, 0.1, 0.8, 0.3], [0.2, 0.6, 0.7, 0.1], [0.5, 0.6, 0.1, 0.2]], np.float32)
    image_of_text = np.array([0, 1, 1, 2])
    ranks = rank_items(scores, image_of_text)
    assert ranks.text_I.tolist() == [0, 0, 2]
    assert ranks.image_T.tolist() == [0, 1, 1, 1]  # the second ties with image 2
    assert recalls(scores, image_of_text, (1, 2)) == {
        "text_recall_1": pytest.approx(2 / 3),
        "text_recall_2": pytest.approx(2 / 3),
        "image_recall_1": 0.25,
        "image_recall_2": 1,
    }
    assert list(recalls(scores, image_of_text)) == [
        f"{kind}_recall_{k}" for kind in ("text", "image") for k in (1, 5, 10)
    ]


def test_the_same_score_for_all_is_the_worst():
    scores, image_of_text = np.zeros((20, 40)), np.arange(40) // 2
    ranks = rank_items(scores, image_of_text)
    assert set(ranks.text_I) == {38}
    assert set(ranks.image_T) == {19}
    assert set(recalls(scores, image_of_text).values()) == {0}


def test_half_precision_and_items_that_were_not_scored():
    scores = np.full((3, 3), -np.inf, np.float16)
    scores[0, 0] = 1
    ranks = rank_items(scores, np.arange(3, dtype=np.int32))
    assert ranks.text_I.tolist() == ranks.image_T.tolist() == [0, 2, 2]


def test_folds_are_consecutive_images_with_their_texts():
    rng = np.random.default_rng(0)
    image_of_text = rng.permutation(np.repeat(np.arange(10), 2))
    scores = rng.normal(size=(10, 20)) + 2 * (image_of_text == np.arange(10)[:, None])
    results = []
    for start in range(0, 10, 2):
        mine = [t for t in range(20) if image_of_text[t] in (start, start + 1)]
        part = [[float(scores[i, t]) for t in mine] for i in (start, start + 1)]
        text, image = slow_ranks(part, [int(image_of_text[t]) - start for t in mine])
        results.append((np.mean(np.array(text) < 1), np.mean(np.array(image) < 1)))
    folded = folded_recalls(scores, image_of_text, 5, (1,))
    assert tuple(folded.values()) == pytest.approx(tuple(np.mean(results, axis=0)))
    assert 0 < folded["image_recall_1"] < 1
    assert folded_recalls(scores, image_of_text, 1) == recalls(scores, image_of_text)
    assert folded != pytest.approx(recalls(scores, image_of_text, (1,)))


SCORES = np.zeros((2, 3))
NAN = np.array([[0, 1, 0], [0, 1, np.nan]])


@pytest.mark.parametrize(
    ("scores", "image_of_text", "message"),
    [
        (NAN, [0, 1, 1], "score of image 1 is not a number"),
        (NAN, [0, 1, 0], "score of image 1 is not a number"),
        (SCORES, [0, 1], "do not fit"),
        (SCORES[0], [0, 1, 1], "do not fit"),
        (SCORES[:, :0], [], "do not fit"),
        (SCORES, [0, 1, 2], "not indices of 2 images"),
        (SCORES, [0, 1, -1], "not indices of 2 images"),
        (SCORES, [0.0, 1.0, 1.0], "not indices of 2 images"),
        (SCORES, [0, 0, 0], "Image 1 has no text"),
    ],
)
def test_bad_scores(scores, image_of_text, message):
    with pytest.raises(DataError, match=message):
        recalls(scores, np.array(image_of_text))


@pytest.mark.parametrize("folds", [0, 2, 4])
def test_folds_have_to_be_equal(folds):
    with pytest.raises(DataError, match=f"3 images cannot be cut into {folds}"):
        folded_recalls(np.eye(3), np.arange(3), folds)
