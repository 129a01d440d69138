"""Users' own pairs of images."""

import json
from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.storage.records import read_summary
from tests.data_pipelines.publishers import lines, write_image


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for i in range(3):
        write_image(tmp_path / "source" / f"{i}.jpg", width=16 + i, seed=i)
    return tmp_path / "source"


def pair(left: int, right: int, *sentences: dict) -> dict:
    return {"images": [f"{left}.jpg", f"{right}.jpg"], "sentences": list(sentences)}


def test_splits(source: Path, read_all) -> None:
    lines(
        source / "train.jsonl",
        pair(0, 1, {"sentence": "Both  are red.", "label": True}, {"sentence": "One is.", "label": "False"}),
        pair(1, 0, {"sentence": "One is.", "label": True, "identifier": "x", "group": "g"}),
        pair(0, 1, {"sentence": "None is.", "label": False}),
    )
    lines(source / "test.jsonl", pair(2, 2, {"sentence": "Same."}))
    splits = read_all("image_pairs", source)
    assert {s: [(r.image_id, r.texts) for r in records] for s, records in splits.items()} == {
        "train": [
            ("image_pairs/0.jpg|1.jpg", ("Both are red.", "One is.", "None is.")),
            ("image_pairs/1.jpg|0.jpg", ("One is.",)),
        ],
        "test": [("image_pairs/2.jpg|2.jpg", ("Same.",))],
    }
    first, second = splits["train"]
    assert [json.loads(label) for label in first.labels[:2]] == [
        {"identifier": "0.jpg|1.jpg/0", "label": True, "group": "Both  are red."},
        {"identifier": "0.jpg|1.jpg/1", "label": False, "group": "One is."},
    ]
    assert [json.loads(label) for label in second.labels] == [{"identifier": "x", "label": True, "group": "g"}]
    assert json.loads(splits["test"][0].labels[0]) == {"identifier": "2.jpg|2.jpg/0", "group": "Same."}
    assert (first.width, first.second.width) == (16, 17)
    assert first.second.image == (source / "1.jpg").read_bytes() == second.image


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"images": ["0.jpg"], "sentences": []}, ", line 1: images must be two paths, left and right"),
        ({"images": "0.jpg", "sentences": []}, ", line 1: images must be two paths"),
        ({"images": ["0.jpg", "../1.jpg"], "sentences": []}, ", line 1: image '../1.jpg' is outside"),
        ({"images": ["0.jpg", "1.jpg"]}, ", line 1: not a JSON object"),
        (pair(0, 1, {"label": True}), ', line 1: sentences must be a list of objects with "sentence"'),
        (pair(0, 1, {"sentence": "A", "label": "maybe"}), ", line 1: label 'maybe' is neither true nor false"),
        (
            pair(0, 1, {"sentence": "A", "label": True}, {"sentence": "B"}),
            r": identifier '0.jpg\|1.jpg/1' has no label, unlike those before it; give label to all",
        ),
    ],
)
def test_bad_lines(source: Path, read_all, line: dict, message: str) -> None:
    lines(source / "train.jsonl", line)
    with pytest.raises(DataError, match=f"train.jsonl{message}"):
        read_all("image_pairs", source)


def test_sentences_that_are_none(source: Path, read_all, tmp_path: Path) -> None:
    none = [{"sentence": value, "label": True} for value in (None, float("nan"), 5)]
    lines(source / "train.jsonl", pair(0, 1, *none, {"sentence": "One is.", "label": True}))
    assert [record.texts for record in read_all("image_pairs", source)["train"]] == [("One is.",)]
    skipped = read_summary(tmp_path / "data" / "image_pairs" / "1.1.0")["skipped"]["train"]
    assert skipped["texts"] == {"NaN instead of a text": 1, "a number or another value instead of a text": 1}
    assert skipped["empty_texts"] == 1


def test_missing_image(source: Path, read_all) -> None:
    lines(source / "train.jsonl", pair(0, 7, {"sentence": "A", "label": True}))
    with pytest.raises(DataError, match=r"1 of 1 images .* image file not found \(first: .*/7.jpg\)"):
        read_all("image_pairs", source)
