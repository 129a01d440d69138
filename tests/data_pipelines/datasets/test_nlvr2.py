"""NLVR2: one record per pair of photographs."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.errors import DataError
from data_pipelines.images.resize import ResizeRule
from data_pipelines.preparation.run import prepare
from data_pipelines.preparation.summary import describe
from data_pipelines.storage.records import open_records, read_summary
from tests.data_pipelines.publishers import lines, nlvr2
from tests.real_data import real_data


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return nlvr2(tmp_path / "source")


def labels(record) -> list[dict]:
    return [json.loads(label) for label in record.labels]


@pytest.mark.parametrize("images", ["images", "images/{split}", "images/{split}/42", "{split}"])
def test_splits(tmp_path: Path, read_all, images: str) -> None:
    source = nlvr2(tmp_path / "source", images)
    splits = read_all("nlvr2", source)
    assert {split: [(r.image_id, r.texts) for r in records] for split, records in splits.items()} == {
        "train": [
            ("nlvr2/train-7-1", ("Sentence 0 .", "Sentence 2 .")),
            ("nlvr2/train-7-0", ("Sentence 1 .", "Sentence 3 .")),
        ],
        "dev": [("nlvr2/dev-3-2", ("Sentence 0 .",))],
        "test1": [("nlvr2/test1-0-0", ("Sentence 0 .",))],
    }
    record = splits["train"][1]
    assert labels(record) == [
        {"identifier": "train-7-0-0", "label": True, "group": "train-7-0"},
        {"identifier": "train-7-0-1", "label": True, "group": "train-7-1"},
    ]
    left, right = (source / images.format(split="train") / f"train-7-0-img{side}.png" for side in (0, 1))
    assert record.image == left.read_bytes()
    assert record.second.image == right.read_bytes()
    assert (record.width, record.second.width) == (16, 17)


def test_index_and_summary(source: Path, tmp_path: Path) -> None:
    folder = prepare("nlvr2", tmp_path / "data", source)
    index = open_records(tmp_path / "data", "nlvr2", "train").index
    assert index.second_heights.tolist() == [12, 12]
    assert index.second_widths.tolist() == [17, 17]
    assert index.second_widths.dtype == np.int32
    assert index.num_texts.tolist() == [2, 2]
    text = describe(folder, read_summary(folder), ResizeRule(64, 128))
    assert text.splitlines()[1] == "each record is a pair of images"
    example = tfds.builder_from_directory(folder).as_data_source("train")[0]
    assert example["second_image"].shape == (12, 17, 3)


def test_fingerprint_covers_labels_and_second_images(source: Path, tmp_path: Path) -> None:
    def fingerprint(name: str) -> str:
        prepare("nlvr2", tmp_path / name, source)
        return open_records(tmp_path / name, "nlvr2", "dev").index.fingerprint

    first = fingerprint("a")
    path = source / "data" / "dev.json"
    path.write_text(path.read_text().replace("False", "True"))
    second = fingerprint("b")
    image = source / "images" / "dev" / "dev-3-2-img1.png"
    image.write_bytes((source / "images" / "dev" / "dev-3-2-img0.png").read_bytes())
    assert len({first, second, fingerprint("c")}) == 3


@pytest.mark.parametrize("damage", ["missing", "cut"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_pair_needs_both_images(source: Path, tmp_path: Path, damage: str, side: int) -> None:
    path = source / "images" / "train" / f"train-7-1-img{side}.png"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=rf"1 of 2 images .*train-7-1-img{side}.png"):
        prepare("nlvr2", tmp_path / "data", source)
    folder = prepare("nlvr2", tmp_path / "data", source, max_bad_share=0.5)
    skipped = read_summary(folder)["skipped"]["train"]
    assert skipped["bad"] == 1
    assert f"train-7-1-img{side}.png: " in skipped["listed"][0]
    assert [r.image_id for r in open_records(tmp_path / "data", "nlvr2", "train")] == ["nlvr2/train-7-0"]


def test_layout(source: Path, read_all, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No sentences of NLVR2 in .*: looked for train.json, data/train.json, dev"):
        read_all("nlvr2", tmp_path)
    (source / "images").rename(source / "elsewhere")
    with pytest.raises(DataError, match=r"No images of NLVR2 in .*: looked for folders images, train, dev, test1"):
        read_all("nlvr2", source)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("[]", "line 1: not a JSON object"),
        ({"sentence": "A", "label": "True"}, "line 1: not a JSON object"),
        ({"sentence": "A", "identifier": "dev-3-2", "label": "True"}, "line 1: identifier 'dev-3-2' is not split-set"),
        ({"sentence": "A", "identifier": 3, "label": "True"}, "line 1: identifier 3 is not split-set-pair-sentence"),
        ({"sentence": "A", "identifier": "dev-3-2-0", "label": "yes"}, "line 1: label 'yes' is neither true nor fal"),
        ({"sentence": "A", "identifier": "dev-3-2-0"}, "identifier 'dev-3-2-0' has no label; complete the file"),
    ],
)
def test_bad_lines(source: Path, read_all, entry: object, message: str) -> None:
    lines(source / "data" / "dev.json", entry)
    with pytest.raises(DataError, match=f"dev.json.* {message}"):
        read_all("nlvr2", source)


def test_test_split_without_labels(source: Path, read_all) -> None:
    bare = {"sentence": "A", "identifier": "test1-0-0-0"}
    lines(source / "data" / "test1.json", bare)
    splits = read_all("nlvr2", source)
    assert labels(splits["test1"][0]) == [{"identifier": "test1-0-0-0", "group": "test1-0-0"}]
    lines(source / "data" / "test1.json", bare, {**bare, "identifier": "test1-0-0-1", "label": "True"})
    with pytest.raises(DataError, match=r"identifier 'test1-0-0-1' has label, unlike those before it"):
        prepare("nlvr2", source.parent / "more", source)


def test_real_nlvr2(read_all) -> None:
    splits = read_all("nlvr2", real_data("nlvr2"))
    assert {split: (len(r), sum(len(x.texts) for x in r)) for split, r in splits.items()} == {
        "dev": (4, 8),
        "test1": (4, 8),
    }
    record = splits["dev"][0]
    assert record.image_id == "nlvr2/dev-850-0"
    assert [label["label"] for label in labels(record)] == [False, False]
    # Each of the two sentences of a set has four pairs.
    groups = [label["group"] for record in splits["dev"] for label in labels(record)]
    assert sorted(groups) == ["dev-850-0"] * 4 + ["dev-850-1"] * 4
    by_group = {label["group"]: text for r in splits["dev"] for text, label in zip(r.texts, labels(r), strict=True)}
    assert all(
        by_group[label["group"]] == t for r in splits["dev"] for t, label in zip(r.texts, labels(r), strict=True)
    )
