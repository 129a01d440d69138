"""Flickr30k and Flickr8k with Karpathy's splits."""

from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.storage.records import read_summary
from tests.data_pipelines.publishers import flickr, write_json
from tests.real_data import real_data


@pytest.mark.parametrize(
    ("name", "images"),
    [("flickr8k", "images"), ("flickr8k", "Flicker8k_Dataset"), ("flickr30k", "flickr30k-images")],
)
def test_splits(tmp_path: Path, read_all, name: str, images: str) -> None:
    splits = read_all(name, flickr(tmp_path / "source", name, images))
    assert {split: [r.image_id for r in records] for split, records in splits.items()} == {
        "train": [f"{name}/100_abc"],
        "val": [f"{name}/101_abc"],
        "test": [f"{name}/102_abc"],
    }
    assert splits["val"][0].texts == ("photo 1", "it")


def test_a_sentence_that_is_nan_is_counted(tmp_path: Path, read_all) -> None:
    source = flickr(tmp_path / "source")
    sentences = [{"raw": float("nan")}, {"raw": "a photo"}]
    entry = {"filename": "100_abc.jpg", "split": "train", "sentences": sentences}
    write_json(source / "dataset_flickr8k.json", {"images": [entry]})
    assert read_all("flickr8k", source)["train"][0].texts == ("a photo",)
    skipped = read_summary(tmp_path / "data" / "flickr8k" / "1.0.0")["skipped"]["train"]
    assert skipped["listed_texts"] == [f"{source}/images/100_abc.jpg: NaN instead of a text"]


def test_layout(tmp_path: Path, read_all) -> None:
    with pytest.raises(DataError, match=r"looked for dataset_flickr30k.json, annotations/dataset_fl"):
        read_all("flickr30k", tmp_path)
    write_json(tmp_path / "dataset_flickr30k.json", {"images": []})
    with pytest.raises(DataError, match=r"No images of flickr30k in .*: looked for images, flickr30"):
        read_all("flickr30k", tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"The files in .* list no image; download them again"):
        read_all("flickr30k", tmp_path)


def test_unknown_split(tmp_path: Path, read_all) -> None:
    source = flickr(tmp_path / "source")
    entry = {"filename": "100_abc.jpg", "split": "dev", "sentences": []}
    write_json(source / "dataset_flickr8k.json", {"images": [entry]})
    with pytest.raises(DataError, match=r"unknown split 'dev'; it should be dataset_flickr8k.json"):
        read_all("flickr8k", source)


def test_names_cannot_leave_the_folder(tmp_path: Path, read_all) -> None:
    source = flickr(tmp_path / "source")
    (source / "images" / "100_abc.jpg").rename(source / "100_abc.jpg")
    entry = {"filename": "../100_abc.jpg", "split": "train", "sentences": [{"raw": "a"}]}
    write_json(source / "dataset_flickr8k.json", {"images": [entry]})
    with pytest.raises(DataError, match="1 image file not found"):
        read_all("flickr8k", source)


def test_real_flickr8k(read_all) -> None:
    source = real_data("flickr8k")
    splits = read_all("flickr8k", source)
    assert {split: len(records) for split, records in splits.items()} == {
        "train": 800,
        "val": 100,
        "test": 100,
    }
    assert sum(len(r.texts) for records in splits.values() for r in records) == 5000
    record = splits["train"][0]
    name = record.image_id.removeprefix("flickr8k/")
    assert record.image == (source / "images" / f"{name}.jpg").read_bytes()
