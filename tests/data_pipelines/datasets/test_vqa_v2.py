"""VQA 2.0: official files, COCO photographs, and the questions of Visual Genome."""

import json
from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import Record, open_records, read_summary
from tests.data_pipelines.publishers import visual_genome_qa, vqa_questions, vqa_v2, write_json
from tests.real_data import real_data

TRAIN = "v2_mscoco_train2014_annotations.json"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return vqa_v2(tmp_path / "source")


def labels(record: Record) -> list[dict]:
    return [json.loads(label) for label in record.labels]


def test_splits(source: Path, read_all, tmp_path: Path) -> None:
    splits = read_all("vqa_v2", source)
    assert {split: [(r.image_id, len(r.texts)) for r in records] for split, records in splits.items()} == {
        "train": [("coco/2", 2), ("coco/1", 1)],
        "val": [("coco/3", 2)],
        "test": [("coco/4", 1), ("coco/5", 2)],
        "test-dev": [("coco/5", 1)],
    }
    record = splits["train"][0]
    assert record.texts == ("What is 0 of 2?", "What is 1 of 2?")
    assert labels(record)[1] == {
        "question_id": 2001,
        "question_type": "what is",
        "answer_type": "other",
        "answers": ["a mesh", *["net"] * 9],
        "multiple_choice_answer": "net",
    }
    assert record.image == (source / "train2014" / "COCO_train2014_000000000002.jpg").read_bytes()
    assert labels(splits["test"][1]) == [{"question_id": 5000}, {"question_id": 5001}]
    summary = read_summary(tmp_path / "data" / "vqa_v2" / "1.0.0")
    assert summary["notes"] == ["images of test-dev that are also in test: 1"]
    assert summary["splits"]["train"]["texts"] == 3


@pytest.mark.parametrize("layout", ["2017", "flat", "nested"])
def test_other_locations_of_the_images(source: Path, read_all, layout: str) -> None:
    (source / "images").mkdir()
    if layout == "nested":
        for name in ("train2014", "val2014", "test2015"):
            (source / name).rename(source / "images" / name)
    for path in list(source.glob("*20*/*.jpg")) if layout != "nested" else []:
        plain = path.name.rpartition("_")[2]
        target = source / "train2017" / plain if layout == "2017" else source / "images" / path.name
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    splits = read_all("vqa_v2", source)
    assert {split: len(records) for split, records in splits.items()} == {
        "train": 2,
        "val": 1,
        "test": 2,
        "test-dev": 1,
    }


def test_only_some_splits(tmp_path: Path, read_all) -> None:
    source = vqa_v2(tmp_path / "source")
    (source / "questions").mkdir()
    for path in source.glob("v2_*"):
        if "val2014" in path.name:
            path.rename(source / "questions" / path.name)
        else:
            path.unlink()
    assert list(read_all("vqa_v2", source)) == ["val"]


def test_files_of_one_split_without_its_name(source: Path, read_all) -> None:
    for kind, name in {
        "OpenEnded_mscoco_val2014_questions": "questions",
        "mscoco_val2014_annotations": "annotations",
    }.items():
        (source / f"v2_{kind}.json").rename(source / f"{name}.json")
    for path in source.glob("v2_*"):
        path.unlink()
    splits = read_all("vqa_v2", source)
    assert {split: [r.image_id for r in records] for split, records in splits.items()} == {"val": ["coco/3"]}
    assert len(labels(splits["val"][0])[0]["answers"]) == 10


def test_layout(source: Path, read_all, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No questions of VQA 2.0 in .*: looked for v2_OpenEnded_mscoco_train2014_qu"):
        read_all("vqa_v2", tmp_path)
    (source / TRAIN).unlink()
    with pytest.raises(DataError, match=rf"No answers to the questions of train in .*: looked for {TRAIN}; put it"):
        read_all("vqa_v2", source)
    vqa_questions(tmp_path / "bare", "train2014", {1: 1})
    with pytest.raises(DataError, match=r"No COCO images in .*: looked for folders train2014, val2014, test2015"):
        read_all("vqa_v2", tmp_path / "bare")
    assert not (tmp_path / "data").exists()


def test_question_without_annotation(source: Path, read_all) -> None:
    content = json.loads((source / TRAIN).read_text())
    content["annotations"] = [a for a in content["annotations"] if a["question_id"] != 2001]
    write_json(source / TRAIN, content)
    with pytest.raises(DataError, match=rf"{TRAIN}: question_id 2001 has no answers; complete the file"):
        read_all("vqa_v2", source)


def test_question_without_answers(source: Path, read_all) -> None:
    content = json.loads((source / TRAIN).read_text())
    content["annotations"][0]["answers"] = []
    write_json(source / TRAIN, content)
    with pytest.raises(DataError, match=rf"{TRAIN}: question_id 1000 has no answers"):
        read_all("vqa_v2", source)


def test_question_that_occurs_twice(source: Path, read_all) -> None:
    path = source / "v2_OpenEnded_mscoco_test2015_questions.json"
    content = json.loads(path.read_text())
    content["questions"].append(content["questions"][0])
    write_json(path, content)
    with pytest.raises(DataError, match=r"test2015_questions.json: question_id 4000 occurs twice"):
        read_all("vqa_v2", source)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"questions": []}, "lists no question; download it again"),
        ({"questions": [{"question_id": 3}]}, "an entry has no 'image_id' of type int"),
        ({"questions": [{"question_id": "3", "image_id": 1}]}, "an entry has no 'question_id' of type int"),
        ([], "lists no question"),
    ],
)
def test_questions_in_another_format(source: Path, read_all, content: object, message: str) -> None:
    write_json(source / "v2_OpenEnded_mscoco_test2015_questions.json", content)
    with pytest.raises(
        DataError, match=f"test2015_questions.json {'is not .*' if 'entry' in message else ''}{message}"
    ):
        read_all("vqa_v2", source)


@pytest.mark.parametrize("name", [TRAIN, "v2_OpenEnded_mscoco_train2014_questions.json"])
def test_cut_files(source: Path, read_all, name: str) -> None:
    content = (source / name).read_bytes()
    (source / name).write_bytes(content[:-40])
    with pytest.raises(DataError, match=rf"{name} is not whole JSON"):
        read_all("vqa_v2", source)


def test_missing_image(source: Path, read_all, tmp_path: Path) -> None:
    name = "COCO_train2014_000000000002.jpg"
    (source / "train2014" / name).unlink()
    with pytest.raises(DataError, match=rf"1 of 2 images .* image file not found \(first: train2014/{name}\)"):
        read_all("vqa_v2", source)
    folder = prepare("vqa_v2", tmp_path / "data", source, max_bad_share=0.5)
    assert read_summary(folder)["skipped"]["train"]["listed"] == [f"train2014/{name}: image file not found"]
    assert [r.image_id for r in open_records(tmp_path / "data", "vqa_v2", "train")] == ["coco/1"]


@pytest.mark.parametrize("folder", ["", "visual_genome"])
def test_visual_genome(source: Path, read_all, tmp_path: Path, folder: str) -> None:
    visual_genome_qa(source / folder, {1: 2, 2: 3, 3: None, 4: 5})
    assert "visual_genome" not in read_all("vqa_v2", source)
    folder = prepare("vqa_v2", tmp_path / "more", source, options={"visual_genome_qa": True})
    records = list(open_records(tmp_path / "more", "vqa_v2", "visual_genome"))
    assert [record.image_id for record in records] == ["coco/2", "visual_genome/3"]
    assert records[0].texts == ("Why 0?", "Why 1?")
    assert labels(records[0]) == [
        {"question_id": 10, "answers": ["Because of 1."]},
        {"question_id": 11, "answers": ["Because of 1."]},
    ]
    assert read_summary(folder)["notes"] == [
        "visual_genome: 2 images of VQA's val and test splits skipped",
        "images of visual_genome that are also in train: 1",
        "images of test-dev that are also in test: 1",
    ]
    with pytest.raises(DataError, match="was prepared with --visual_genome_qa=True, not False"):
        prepare("vqa_v2", tmp_path / "more", source, options={"visual_genome_qa": False})


def test_visual_genome_needs_the_list_of_val(source: Path, read_all) -> None:
    visual_genome_qa(source, {1: 2})
    (source / "v2_OpenEnded_mscoco_val2014_questions.json").unlink()
    with pytest.raises(DataError, match=r"--visual_genome_qa skips the images of val, .*put it there"):
        read_all("vqa_v2", source, visual_genome_qa=True)


@pytest.mark.parametrize("answer", [None, " ", 3])
def test_visual_genome_without_an_answer(source: Path, read_all, answer: object) -> None:
    visual_genome_qa(source, {1: 2})
    entry = {"id": 1, "qas": [{"qa_id": 7, "question": "Who?", "answer": answer}]}
    write_json(source / "question_answers.json", [entry])
    with pytest.raises(DataError, match=r"question_answers.json: question_id 7 has no answers"):
        read_all("vqa_v2", source, visual_genome_qa=True)


def test_visual_genome_without_files(source: Path, read_all) -> None:
    with pytest.raises(DataError, match=r"No questions of Visual Genome in .*: looked for question_answers.json"):
        read_all("vqa_v2", source, visual_genome_qa=True)


def test_real_questions(read_all) -> None:
    splits = read_all("vqa_v2", real_data("vqa_v2"))
    assert {split: [r.image_id for r in records] for split, records in splits.items()} == {"train": ["coco/458752"]}
    (record,) = splits["train"]
    assert record.texts[0] == "What is this photo taken looking through?"
    assert [label["question_id"] for label in labels(record)] == [458752000, 458752001, 458752002]
    assert all(len(label["answers"]) == 10 for label in labels(record))
    assert labels(record)[0]["answers"][3] == "netting"
