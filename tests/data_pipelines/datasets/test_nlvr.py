"""NLVR, version 1: six drawings per sentence, in folders or in a tar file."""

import json
from pathlib import Path

import pytest

from data_pipelines.datasets import builder_class
from data_pipelines.datasets.formats.tar_images import list_tar_images
from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import open_records, read_summary
from tests.data_pipelines.publishers import encode, lines, nlvr, tar
from tests.real_data import real_data


@pytest.mark.parametrize("as_tar", [False, True])
def test_records(tmp_path: Path, read_all, as_tar: bool) -> None:
    splits = read_all("nlvr", nlvr(tmp_path / "source", as_tar=as_tar))
    assert list(splits) == ["dev"]
    records = splits["dev"]
    assert [r.image_id for r in records] == [f"nlvr/dev-{i}-{k}" for i in ("12-0", "12-3") for k in range(6)]
    assert [r.texts for r in records] == [("Sentence 0",)] * 6 + [("Sentence 1",)] * 6
    assert [json.loads(r.labels[0]) for r in records[5:7]] == [
        {"identifier": "12-0", "permutation": 5, "label": True, "group": "12"},
        {"identifier": "12-3", "permutation": 0, "label": False, "group": "12"},
    ]
    assert [r.image for r in records] == [encode(4, 10, "PNG", "P", seed=10 * i + k) for i in (0, 1) for k in range(6)]
    assert (records[0].height, records[0].width) == (4, 10)


def test_splits(tmp_path: Path, read_all) -> None:
    for split, prefix in {"train": "train", "train2": "hidden", "test": "test"}.items():
        nlvr(tmp_path / "source", split, prefix, as_tar=split == "train2")
    splits = read_all("nlvr", tmp_path / "source")
    assert {split: len(records) for split, records in splits.items()} == {"train": 12, "train2": 12, "test": 12}
    assert splits["train2"][0].image_id == "nlvr/train2-12-0-0"


def test_flat_folder(tmp_path: Path, read_all) -> None:
    source = nlvr(tmp_path / "source")
    for path in source.glob("dev/images/4/*"):
        path.rename(source / "dev" / "images" / path.name)
    assert len(read_all("nlvr", source)["dev"]) == 12


def test_layout(tmp_path: Path, read_all) -> None:
    with pytest.raises(DataError, match=r"No sentences of NLVR in .*: looked for train/train.json, train2/train2.js"):
        read_all("nlvr", tmp_path)
    source = nlvr(tmp_path / "source")
    (source / "dev" / "images").rename(source / "dev" / "elsewhere")
    with pytest.raises(DataError, match=r"No images of NLVR in .*dev: looked for images, images.tar"):
        read_all("nlvr", source)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"sentence": "A", "identifier": "1-0"}, "dev.json: identifier '1-0' has no label; complete the file"),
        ({"sentence": "A", "identifier": "1-0", "label": 2}, "dev.json, line 1: label 2 is neither true nor false"),
        ({"sentence": "A", "label": "true"}, "dev.json, line 1: not a JSON object"),
    ],
)
def test_bad_lines(tmp_path: Path, read_all, entry: dict, message: str) -> None:
    source = nlvr(tmp_path / "source")
    lines(source / "dev" / "dev.json", entry)
    with pytest.raises(DataError, match=message):
        read_all("nlvr", source)


def test_sentence_that_occurs_twice(tmp_path: Path, read_all) -> None:
    source = nlvr(tmp_path / "source")
    entry = {"sentence": "A", "identifier": "1-0", "label": "true"}
    lines(source / "dev" / "dev.json", entry, entry)
    with pytest.raises(DataError, match=r"dev.json: identifier '1-0' occurs twice"):
        read_all("nlvr", source)


def test_test_split_without_labels(tmp_path: Path, read_all) -> None:
    source = nlvr(tmp_path / "source", "test", "test")
    lines(source / "test" / "test.json", {"sentence": "A", "identifier": "12-0"})
    record = read_all("nlvr", source)["test"][2]
    assert json.loads(record.labels[0]) == {"identifier": "12-0", "permutation": 2, "group": "12"}


def test_missing_and_damaged_images(tmp_path: Path) -> None:
    source = nlvr(tmp_path / "source", as_tar=True)
    path = source / "dev" / "images.tar"
    members = {f"images/4/dev-12-{i}-{k}.png": encode(format="PNG") for i in (0, 3) for k in range(6)}
    del members["images/4/dev-12-3-1.png"]
    members["images/4/dev-12-0-2.png"] = b"GIF"
    tar(path, members)
    with pytest.raises(DataError, match=r"1 of 12 images .* image file not found \(first: .*: dev-12-3-1.png\)"):
        prepare("nlvr", tmp_path / "data", source)
    folder = prepare("nlvr", tmp_path / "data", source, max_bad_share=0.2)
    assert read_summary(folder)["skipped"]["dev"]["listed"] == [
        f"{path}:dev-12-0-2.png: not a JPEG, PNG, WebP, BMP or GIF",
        f"{path.parent}: dev-12-3-1.png: image file not found",
    ]
    assert len(open_records(tmp_path / "data", "nlvr", "dev")) == 10


@pytest.mark.parametrize("keep", [700, -10_500])
def test_cut_tar_file(tmp_path: Path, read_all, keep: int) -> None:
    source = nlvr(tmp_path / "source", as_tar=True)
    path = source / "dev" / "images.tar"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"images.tar is not a whole tar file .*; download it again"):
        read_all("nlvr", source)


def test_images_of_a_tar_file(tmp_path: Path) -> None:
    path = tar(tmp_path / "0.tar", {"a/x.png": b"first", "b/x.png": b"second", "y.JPG": b"", "z.txt": b"no"})
    found = list_tar_images(path)
    assert {name: member() for name, member in found.items()} == {"x.png": b"first", "y.JPG": b""}


def test_real_counts(tmp_path: Path) -> None:
    splits = builder_class("nlvr")(data_dir=tmp_path, source_dir=real_data("nlvr")).candidates()
    assert {split: (candidates.total, candidates.missing) for split, candidates in splits.items()} == {
        "train": (6000, []),
        "train2": (5910, []),
        "dev": (5934, []),
    }


def test_real_dev(tmp_path: Path, read_all) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "dev").symlink_to(real_data("nlvr") / "dev")
    records = read_all("nlvr", tmp_path / "source")["dev"]
    assert len(records) == 989 * 6
    assert {(r.height, r.width) for r in records} == {(100, 400)}
    labels = [json.loads(r.labels[0]) for r in records]
    assert sum(label["label"] for label in labels) == 547 * 6
    assert len({label["identifier"] for label in labels}) == 989
