"""DAQUAR: pairs of lines, the official split, several answers."""

import json
from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from tests.data_pipelines.publishers import daquar
from tests.real_data import real_data


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return daquar(tmp_path / "source")


def contents(splits: dict) -> dict:
    return {
        split: [(r.image_id, r.texts, [json.loads(label) for label in r.labels]) for r in records]
        for split, records in splits.items()
    }


def test_splits(source: Path, read_all) -> None:
    splits = read_all("daquar", source)
    assert contents(splits) == {
        "train": [
            (
                "daquar/image3",
                ("what is on the table in the image ?", "what is in the image behind the bed in the image ?"),
                [
                    {"question_id": "image3/0", "answers": ["book", "pen"]},
                    {"question_id": "image3/1", "answers": ["wall"]},
                ],
            ),
            (
                "daquar/image2",
                ("how many chairs are in the image ?",),
                [{"question_id": "image2/0", "answers": ["2"]}],
            ),
        ],
        "test": [
            (
                "daquar/image1",
                ("what is red in the image ?",),
                [{"question_id": "image1/0", "answers": ["garbage_bin"]}],
            )
        ],
    }
    assert splits["test"][0].image == (source / "images" / "image1.png").read_bytes()


def test_a_file_for_each_split(source: Path, read_all) -> None:
    (source / "all_qa_pairs.txt").unlink()
    with pytest.raises(DataError, match=r"No questions of train in .*: looked for all_qa_pairs.txt, qa.894.raw.train"):
        read_all("daquar", source)
    for path in source.glob("*.txt"):
        path.unlink()
    (source / "images").rename(source / "nyu_depth_images")
    (source / "qa.894.raw.train.txt").write_text("what is it in the image2 ?\r\nsofa\r\n\r\n")
    (source / "qa.894.raw.test.txt").write_text("what is it in the image1 ?\nbed\n")
    splits = read_all("daquar", source)
    assert [r.image_id for r in splits["train"]] == ["daquar/image2"]
    assert [r.labels for r in splits["test"]] == [('{"question_id": "image1/0", "answers": ["bed"]}',)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("what is it ?\nbed", "line 1: not a question that names one image, as in image3"),
        ("is image1 like image2 ?\nno", "line 1: not a question that names one image"),
        ("what is in the image1 ?\nbed\nwhat is in the image2 ?", "line 4: no answer to the question before it"),
        ("what is in the image1 ?\n\nwhat is in the image2 ?\nbed", "line 2: no answer to the question before it"),
        ("what is in the image1 ?\nbed, , sofa", "line 2: no answer"),
        ("what is in the image9 ?\nbed", "asks about image9, which neither list of images names"),
    ],
)
def test_bad_lines(source: Path, read_all, tmp_path: Path, text: str, message: str) -> None:
    (source / "all_qa_pairs.txt").write_text(text)
    with pytest.raises(DataError, match=f"all_qa_pairs.txt.* {message}"):
        read_all("daquar", source)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train_images_list.txt", "No list of the images of train in .*: looked for train_images_list.txt; put it"),
        ("images", "No images of DAQUAR in .*: looked for images, nyu_depth_images; unpack them there"),
    ],
)
def test_layout(source: Path, read_all, name: str, message: str) -> None:
    (source / name).rename(source / "elsewhere")
    with pytest.raises(DataError, match=message):
        read_all("daquar", source)


def test_missing_image(source: Path, read_all) -> None:
    (source / "images" / "image2.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images .* image file not found \(first: .*/images/image2\)"):
        read_all("daquar", source)


def test_not_text(source: Path, read_all) -> None:
    (source / "all_qa_pairs.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"all_qa_pairs.txt cannot be read .*; download it again"):
        read_all("daquar", source)


def test_real_daquar(read_all) -> None:
    splits = read_all("daquar", real_data("daquar"))
    counts = {split: (len(records), sum(len(r.texts) for r in records)) for split, records in splits.items()}
    assert counts == {"train": (794, 6795), "test": (653, 5673)}  # two images have no question
    labels = [json.loads(label) for records in splits.values() for r in records for label in r.labels]
    assert len({label["question_id"] for label in labels}) == 12_468
    assert max(len(label["answers"]) for label in labels) > 3
