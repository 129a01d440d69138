"""Bad images and texts: counted and listed; an error only if there are many."""

import functools
import threading
import time
from pathlib import Path

import pytest

from data_pipelines.datasets.candidates import Candidate, Candidates, FileBytes, clean_text
from data_pipelines.datasets.reading import MAX_LISTED, Skipped, map_in_order, verified_examples
from data_pipelines.errors import DataError
from tests.data_pipelines.publishers import encode

GOOD = encode()


def candidate(i: int, content: bytes = GOOD, texts=("a text",), image_id: str = "") -> Candidate:
    return Candidate(image_id or f"x/{i}", texts, functools.partial(bytes, content), f"{i}.jpg")


def read(candidates: Candidates, max_bad_share: float = 1.0) -> tuple[list[dict], Skipped]:
    skipped = Skipped()
    examples = verified_examples(
        candidates,
        seen=set(),
        skipped=skipped,
        num_threads=2,
        max_bad_share=max_bad_share,
        progress=lambda: None,
    )
    return list(examples), skipped


def test_what_is_skipped_is_counted_with_its_reason(tmp_path: Path) -> None:
    items = [
        candidate(0),
        candidate(1, b"<html>"),
        candidate(2, GOOD[:-20]),
        candidate(3, b""),
        candidate(4, texts=["", " \n", None, 7]),
        candidate(5, image_id="x/0"),
        Candidate("x/6", ["a"], None, "6.jpg"),
        Candidate("x/7", ["a"], FileBytes(tmp_path / "7.jpg"), "7.jpg"),
        Candidate("x/8", ["a"], FileBytes(tmp_path), "8.jpg"),
        candidate(9, texts=["b", ""]),
    ]
    examples, skipped = read(Candidates.of(items))
    assert [example["image_id"] for example in examples] == ["x/0", "x/9"]
    assert examples[1]["texts"] == ["b"]
    assert examples[0]["image"] == GOOD
    assert (examples[0]["height"], examples[0]["width"]) == (12, 16)
    assert skipped.images == {
        "not a JPEG, PNG, WebP, BMP or GIF": 1,
        "truncated or damaged file": 1,
        "empty file": 1,
        "no text": 1,
        "image occurs twice": 1,
        "image file not found": 2,
        "Is a directory": 1,
    }
    assert skipped.bad == 6
    assert skipped.empty_texts == 4
    assert skipped.listed_texts == ["4.jpg: a number or another value instead of a text"]
    assert skipped.listed[0] == "1.jpg: not a JPEG, PNG, WebP, BMP or GIF"


@pytest.mark.parametrize("total", [100, None])
def test_share_of_bad_images(total: int | None) -> None:
    items = [candidate(i, GOOD if i % 50 else b"") for i in range(100)]
    examples, _ = read(Candidates(iter(items), total), max_bad_share=0.02)
    assert len(examples) == 98
    with pytest.raises(DataError) as error:
        read(Candidates(iter(items), total), max_bad_share=0.019)
    assert str(error.value) == (
        f"{'At least ' if total else ''}2 of 100 images (2.0%) cannot be used, more than --max_bad_share=0.019: "
        "2 empty file (first: 0.jpg: empty file); repair the source files or raise --max_bad_share."
    )


def test_stops_as_soon_as_too_many_are_bad() -> None:
    taken = []

    def items():
        for i in range(10_000):
            taken.append(i)
            yield candidate(i, b"")

    with pytest.raises(DataError, match="11 of 1,000 images"):
        read(Candidates(items(), 1000), max_bad_share=0.01)
    assert len(taken) < 40


def test_list_of_bad_images_is_bounded() -> None:
    _, skipped = read(Candidates(candidate(i, b"") for i in range(MAX_LISTED + 5)))
    assert skipped.bad == MAX_LISTED + 5
    assert len(skipped.listed) == MAX_LISTED


def test_map_in_order_keeps_the_order_and_looks_ahead_a_little() -> None:
    taken = []
    lock = threading.Lock()

    def items():
        for i in range(100):
            with lock:
                taken.append(i)
            yield i

    def slow_if_even(i: int) -> int:
        time.sleep(0.002 * (i % 2 == 0))
        return i

    results = map_in_order(slow_if_even, items(), num_threads=4, look_ahead=8)
    assert [next(results) for _ in range(10)] == list(range(10))
    assert len(taken) <= 18
    assert list(results) == list(range(10, 100))


def test_map_in_order_passes_errors_on() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(lambda i: 1 // i, [1, 0, 1], num_threads=2, look_ahead=2))


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  A  dog\n\truns . ", "A dog runs ."),
        ("nul\0here", "nul here"),
        ("broken \ud800 surrogate", "broken surrogate"),
        ("no\u00a0break\u3000wide", "no break wide"),
        ("Größe 犬 🐕", "Größe 犬 🐕"),
    ],
)
def test_clean_text(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@pytest.mark.parametrize("text", ["", " ", "\0", None, 3, ["x"]])
def test_texts_that_count_as_empty(text: object) -> None:
    assert clean_text(text) == ""
