"""easy-VQA as published."""

import json
from pathlib import Path

import pytest

from data_pipelines.datasets import builder_class
from data_pipelines.errors import DataError
from tests.data_pipelines.publishers import easy_vqa, write_json
from tests.real_data import real_data


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return easy_vqa(tmp_path / "source")


def test_splits(source: Path, read_all) -> None:
    splits = read_all("easy_vqa", source)
    assert {split: [(r.image_id, r.texts) for r in records] for split, records in splits.items()} == {
        "train": [
            ("easy_vqa/train/0", ("what shape is it?", "is it teal?")),
            ("easy_vqa/train/1", ("is it red?",)),
        ],
        "test": [("easy_vqa/test/0", ("what color is it?",))],
    }
    assert [json.loads(label) for label in splits["train"][0].labels] == [
        {"question_id": "0/0", "answers": ["circle"]},
        {"question_id": "0/1", "answers": ["yes"]},
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test/questions.json", "No questions of test in .*: looked for test/questions.json; copy the data folder of"),
        ("train/images", "No images of train in .*: looked for train/images; copy"),
    ],
)
def test_layout(source: Path, read_all, name: str, message: str) -> None:
    (source / name).rename(source / "elsewhere")
    with pytest.raises(DataError, match=message):
        read_all("easy_vqa", source)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "is not a list of questions"),
        ([["is it?", "no", 0], ["is it?", "no"]], r"entry 1 is not \[question, answer, number of the image\]"),
        ([["is it?", "", 0]], "entry 0 is not"),
        ([["is it?", None, 0]], "entry 0 is not"),
        ([["is it?", "no", "0"]], "entry 0 is not"),
        ([["is it?", "no", True]], "entry 0 is not"),
        ([3], "entry 0 is not"),
    ],
)
def test_questions_in_another_format(source: Path, read_all, content: object, message: str) -> None:
    write_json(source / "train" / "questions.json", content)
    with pytest.raises(DataError, match=f"questions.json:? {message}"):
        read_all("easy_vqa", source)


def test_missing_image(source: Path, read_all) -> None:
    (source / "train" / "images" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images .* image file not found \(first: .*/train/images/1.png\)"):
        read_all("easy_vqa", source)


def test_real_counts(tmp_path: Path) -> None:
    builder = builder_class("easy_vqa")(data_dir=tmp_path, source_dir=real_data("easy_vqa"))
    splits = builder.candidates()
    assert {s: (c.total, sum(len(x.texts) for x in c.items), c.missing) for s, c in splits.items()} == {
        "train": (4000, 38_575, []),
        "test": (1000, 9_673, []),
    }


def test_real_easy_vqa(read_all) -> None:
    source = real_data("easy_vqa")
    splits = read_all("easy_vqa", source)
    assert {split: (len(r), sum(len(x.texts) for x in r)) for split, r in splits.items()} == {
        "train": (4000, 38_575),
        "test": (1000, 9_673),
    }
    answers = {json.loads(label)["answers"][0] for record in splits["test"] for label in record.labels}
    assert answers == set((source / "answers.txt").read_text().split())
