"""Users' own images with questions."""

import json
from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import open_records, read_summary
from tests.data_pipelines.publishers import lines, write_image


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for i in range(3):
        write_image(tmp_path / "source" / "a" / f"{i}.jpg", seed=i)
    return tmp_path / "source"


def image_with_questions(image: str, *questions: dict) -> dict:
    return {"image": image, "questions": list(questions)}


def test_splits(source: Path, read_all) -> None:
    lines(
        source / "train.jsonl",
        image_with_questions("a/1.jpg", {"question": "What is  it?", "answers": ["a dog", "dog"], "more": 1}),
        image_with_questions("a/0.jpg", {"question": "Where?", "answers": ["here"], "question_id": 17}),
        image_with_questions("./a/1.jpg", {"question": "Größe?", "answers": ["groß"]}),
    )
    lines(
        source / "my_test.jsonl",
        image_with_questions("a/1.jpg", {"question": "Who?", "answers": []}, {"question": "Why?"}),
    )
    splits = read_all("vqa", source)
    assert {s: [(r.image_id, r.texts, list(map(json.loads, r.labels))) for r in rs] for s, rs in splits.items()} == {
        "train": [
            (
                "vqa/a/1.jpg",
                ("What is it?", "Größe?"),
                [
                    {"question_id": "a/1.jpg/0", "answers": ["a dog", "dog"]},
                    {"question_id": "a/1.jpg/1", "answers": ["groß"]},
                ],
            ),
            ("vqa/a/0.jpg", ("Where?",), [{"question_id": 17, "answers": ["here"]}]),
        ],
        "my_test": [
            ("vqa/a/1.jpg", ("Who?", "Why?"), [{"question_id": "a/1.jpg/0"}, {"question_id": "a/1.jpg/1"}]),
        ],
    }


def test_what_is_counted(source: Path, tmp_path: Path) -> None:
    answered = {"answers": ["x"]}
    lines(
        source / "train.jsonl",
        image_with_questions(
            "a/0.jpg", {"question": " ", **answered}, {"question": "Why?", **answered}, {"question": 3, **answered}
        ),
        image_with_questions("a/1.jpg"),
        image_with_questions("a/2.jpg", {"question": "", **answered}),
    )
    lines(source / "val.jsonl", image_with_questions("a/0.jpg", {"question": "Who?", **answered}))
    folder = prepare("vqa", tmp_path / "data", source)
    summary = read_summary(folder)
    assert summary["skipped"]["train"]["images"] == {"no text": 2}
    assert summary["skipped"]["train"]["empty_texts"] == 2
    assert summary["skipped"]["train"]["texts"] == {"a number or another value instead of a text": 1}
    assert summary["notes"] == ["images of val that are also in train: 1"]
    (record,) = open_records(tmp_path / "data", "vqa", "train")
    assert record.labels == ('{"question_id": "a/0.jpg/1", "answers": ["x"]}',)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"question": "Why?"}, r": question_id 'a/0.jpg/1' has no answers, unlike those before it; give answers to al"),
        ({"question": "Why?", "answers": []}, r": question_id 'a/0.jpg/1' has no answers"),
        ({"question": "Why?", "answers": "x"}, ", line 1: answers must be a list of strings"),
        ({"question": "Why?", "answers": ["x", " "]}, ", line 1: answers must be a list of strings"),
        ({"question": "Why?", "answers": [3]}, ", line 1: answers must be a list of strings"),
        ({"question": "Why?", "answers": ["x"], "question_id": 1}, ": question_id 1 occurs twice"),
        ({"question": "Why?", "answers": ["x"], "question_id": [1]}, r": question_id \[1\] is neither a number nor"),
        ({"answers": ["x"]}, ', line 1: questions must be a list of objects with "question"'),
    ],
)
def test_bad_questions(source: Path, read_all, tmp_path: Path, question: dict, message: str) -> None:
    first = {"question": "Where?", "answers": ["here"], "question_id": 1}
    lines(source / "train.jsonl", image_with_questions("a/0.jpg", first, question))
    with pytest.raises(DataError, match=f"train.jsonl{message}"):
        read_all("vqa", source)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a JSON object"),
        ('{"image": "a/0.jpg", "texts": []}', "not a JSON object"),
        ('{"image": "a/0.jpg", "questions": {}}', "questions must be a list"),
        ('{"image": "../a/0.jpg", "questions": []}', "is outside of the folder"),
        ('{"image": 3, "questions": []}', "image must be a path"),
    ],
)
def test_bad_lines(source: Path, read_all, line: str, message: str) -> None:
    lines(source / "train.jsonl", "", line)
    with pytest.raises(DataError, match=f"train.jsonl, line 2: .*{message}"):
        read_all("vqa", source)


def test_layout(source: Path, read_all) -> None:
    with pytest.raises(DataError, match=r'No .jsonl file in .*; it should hold SPLIT.jsonl with lines {"image": path'):
        read_all("vqa", source)
    lines(source / "my-split.jsonl")
    with pytest.raises(DataError, match=r"'my-split' in .* cannot be the name of a split"):
        read_all("vqa", source)


def test_missing_image(source: Path, read_all) -> None:
    lines(source / "train.jsonl", image_with_questions("b.jpg", {"question": "Where?", "answers": ["here"]}))
    with pytest.raises(DataError, match=r"1 of 1 images .* image file not found \(first: .*/b.jpg\)"):
        read_all("vqa", source)
    lines(source / "train.jsonl", image_with_questions("b" * 999, {"question": "Where?", "answers": ["here"]}))
    with pytest.raises(DataError, match=r"1 of 1 images .* image file not found"):
        read_all("vqa", source)
