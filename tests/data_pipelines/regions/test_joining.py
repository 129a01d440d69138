"""Regions are joined with images by id, in every data set of single images; images without regions are counted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines import datasets
from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.regions.ids import keys_of, normal_id
from data_pipelines.regions.row_table import RowTable
from data_pipelines.storage.records import Record, open_records, read_summary
from tests.data_pipelines.publishers import (
    coco,
    detections,
    easy_vqa,
    encode,
    flickr,
    lines,
    lxmert_row,
    nlvr2,
    region_hdf5,
    region_npz,
    region_tsv,
    tar,
    visual_genome,
    vqa_v2,
    write_image,
)
from tests.real_data import real_data

SQUARE = {"img_h": 12, "img_w": 16}


def found(*image_ids: str) -> dict[str, dict[str, Any]]:
    """Regions of images of 16x12; the classes of each are twice the position of its id, and one more."""
    return {
        image_id: {
            **values,
            **SQUARE,
            "boxes": np.float32([[0, 0, 8, 6]] * 2),
            "objects_id": np.array([2 * i, 2 * i + 1]),
        }
        for i, (image_id, values) in enumerate(detections(image_ids).items())
    }


def joined(records: list[Record]) -> dict[str, int]:
    """Image id -> position of its regions in `found`."""
    return {record.image_id: int(record.regions.classes.min()) // 2 for record in records}


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("139", "139"),
        (" 139 ", "139"),
        ("coco/139", "coco/139"),
        ("000000000139", "coco/139"),
        ("000000000139.jpg", "coco/139"),
        ("COCO_val2014_000000000139", "coco/139"),
        ("coco_train2014_000000000139", "coco/139"),
        ("val2014/COCO_val2014_000000000139.JPG", "coco/139"),
        ("1000092795.jpg", "1000092795"),
        ("1000092795", "1000092795"),
        ("100_abc.jpeg", "100_abc"),
        ("photos/1.jpg", "photos/1"),
        ("a.b", "a.b"),
        ("0139", "0139"),
        ("COCO_val2014_139", "COCO_val2014_139"),
    ],
)
def test_normal_id(published: str, expected: str) -> None:
    assert normal_id(published) == expected
    assert normal_id(expected) == expected


@pytest.mark.parametrize(
    ("image_id", "location", "keys"),
    [
        ("coco/139", "train2017/000000000139.jpg", ["coco/139", "139"]),
        ("coco/139", "x/COCO_train2014_000000000139.jpg", ["coco/139", "139"]),
        ("coco/139", "VG_100K/2345.jpg", ["coco/139", "2345"]),
        ("visual_genome/2345", "VG_100K/2345.jpg", ["visual_genome/2345", "2345"]),
        ("flickr30k/1000092795", "images/1000092795.jpg", ["flickr30k/1000092795", "1000092795"]),
        ("image_text/photos/1.jpg", "s/photos/1.jpg", ["image_text/photos/1", "photos/1", "1"]),
        ("image_text/abcd", "s/0.tar:b/000012.jpg", ["image_text/abcd", "abcd", "000012"]),
        ("image_text/abcd", "s/0.tar:000012.jpg", ["image_text/abcd", "abcd", "000012"]),
    ],
)
def test_keys_of(image_id: str, location: str, keys: list[str]) -> None:
    assert keys_of(image_id, location) == keys


def test_row_table() -> None:
    rng = np.random.default_rng(0)
    keys = [None if i % 7 == 0 else str(i % 500) for i in rng.permutation(2000).tolist()]
    table = RowTable(keys)
    first = {key: i for i, key in reversed(list(enumerate(keys))) if key is not None}
    assert table.num_rows == 2000
    assert table.without_key == [i for i, key in enumerate(keys) if key is None]
    assert table.repeated == [i for i, key in enumerate(keys) if key is not None and first[key] != i]
    assert table.num_unjoined == len(first)
    assert {key: table.join(key, f"x/{key}") for key in map(str, range(500))} == {
        key: first.get(key) for key in map(str, range(500))
    }
    assert table.num_unjoined == 0
    assert table.join("500", "x/500") is None
    assert table.join("7", "x/7") == first["7"]
    with pytest.raises(KeyError):
        table.join("7", "y/7")


def test_empty_row_table() -> None:
    table = RowTable([])
    assert table.join("1", "x/1") is None
    assert (table.num_rows, table.num_unjoined, table.repeated, table.without_key) == (0, 0, [], [])


@pytest.mark.parametrize(
    "ids",
    [
        ("1", "2", "4"),
        ("COCO_train2014_000000000001", "COCO_train2014_000000000002", "COCO_val2014_000000000004"),
        ("000000000001.jpg", "000000000002.jpg", "000000000004.jpg"),
        ("coco/1", "coco/2", "coco/4"),
    ],
)
@pytest.mark.parametrize("form", ["tsv", "npz", "hdf5"])
def test_coco(tmp_path: Path, ids: tuple[str, ...], form: str) -> None:
    """Images 3 and 5 have no regions: they are skipped, but not bad."""
    expected = detections(("1", "2", "4"))
    regions = dict(zip(ids, expected.values(), strict=True)) | {"99": expected["1"]}
    if form == "tsv":
        path = region_tsv(tmp_path / "x.tsv", regions)
    elif form == "npz":
        path = region_npz(tmp_path / "npz", regions)
    elif "/" in ids[0]:
        path = region_hdf5(tmp_path / "x.h5", regions, "flat")
    else:
        path = region_hdf5(tmp_path / "x.h5", regions)
    folder = prepare("coco_captions", tmp_path / "data", coco(tmp_path / "coco"), options={"regions": str(path)})
    records = [
        record
        for split in ("train", "validation")
        for record in open_records(tmp_path / "data", "coco_captions", split)
    ]
    assert [record.image_id for record in records] == ["coco/1", "coco/2", "coco/4"]
    for record in records:
        values = expected[record.image_id.removeprefix("coco/")]
        np.testing.assert_array_equal(record.regions.features, values["features"].astype(np.float16))
    summary = read_summary(folder)
    for split in ("train", "validation"):
        assert summary["skipped"][split]["images"] == {"no regions": 1}
        assert summary["skipped"][split]["bad"] == 0
    assert {key: summary["regions"][key] for key in ("rows", "unjoined")} == {"rows": 4, "unjoined": 1}
    assert summary["options"]["regions"] == path.name
    assert summary["options"]["max_regions"] == 100
    entry = summary["splits"]["train"]
    assert (entry["region_size"], entry["global_size"]) == (3, 0)


def test_images_and_texts_are_those_without_regions(tmp_path: Path) -> None:
    source = coco(tmp_path / "coco")
    path = region_tsv(tmp_path / "x.tsv", detections(("1", "2", "3", "4", "5")))
    prepare("coco_captions", tmp_path / "a", source)
    prepare("coco_captions", tmp_path / "b", source, options={"regions": str(path)})
    for split in ("train", "validation"):
        plain, beside = (open_records(tmp_path / name, "coco_captions", split) for name in "ab")
        for a, b in zip(plain, beside, strict=True):
            assert a.regions is None
            assert len(b.regions) == 2
            assert (a.image, a.height, a.width, a.image_id, a.texts) == (
                b.image,
                b.height,
                b.width,
                b.image_id,
                b.texts,
            )
        assert plain.index.fingerprint != beside.index.fingerprint


def test_the_same_data_set_from_any_form_and_with_any_number_of_threads(tmp_path: Path) -> None:
    source = coco(tmp_path / "coco")
    regions = detections(("1", "2", "3", "4", "5"))
    paths = {
        "tsv": region_tsv(tmp_path / "x.tsv", regions),
        "npz": region_npz(tmp_path / "npz", regions),
        **{
            layout: region_hdf5(tmp_path / f"{layout}.h5", regions, layout)
            for layout in ("groups", "flat", "pos_boxes")
        },
    }
    fingerprints = set()
    for i, (name, path) in enumerate(paths.items()):
        prepare("coco_captions", tmp_path / name, source, options={"regions": str(path)}, num_threads=1 + i)
        fingerprints.add(open_records(tmp_path / name, "coco_captions", "train").index.fingerprint)
    assert len(fingerprints) == 1


def test_missing_images_without_regions_do_not_matter(tmp_path: Path) -> None:
    source = coco(tmp_path / "coco")
    for i in (2, 3):
        (source / "train2017" / f"{i:012d}.jpg").unlink()
    path = region_tsv(tmp_path / "x.tsv", detections(("1", "4")))
    prepare("coco_captions", tmp_path / "data", source, options={"regions": str(path)})
    assert len(open_records(tmp_path / "data", "coco_captions", "train")) == 1
    path = region_tsv(tmp_path / "x.tsv", detections(("1", "2", "4")))
    with pytest.raises(DataError, match=r"1 of 2 images .* 1 image file not found"):
        prepare("coco_captions", tmp_path / "more", source, options={"regions": str(path)})


def test_a_split_without_regions_is_skipped(tmp_path: Path) -> None:
    path = region_tsv(tmp_path / "x.tsv", detections(("4", "5")))
    folder = prepare("coco_captions", tmp_path / "data", coco(tmp_path / "coco"), options={"regions": str(path)})
    summary = read_summary(folder)
    assert list(summary["splits"]) == ["validation"]
    assert "split train skipped: none of its images has regions" in summary["notes"]


def test_nothing_joins(tmp_path: Path) -> None:
    path = region_tsv(tmp_path / "x.tsv", detections(("abc_1", "7")))
    source = coco(tmp_path / "coco")
    with pytest.raises(DataError) as error:
        prepare("coco_captions", tmp_path / "data", source, options={"regions": str(path)})
    assert str(error.value) == (
        f"No image has regions in --regions={path}: an image is 'coco/1' ({source}/train2017/000000000001.jpg), and "
        "the first regions are of 'abc_1'; give these images' regions."
    )
    assert not (tmp_path / "data").exists()


def test_flickr(tmp_path: Path, read_all) -> None:
    path = region_tsv(tmp_path / "x.tsv", found("100_abc.jpg", "102_abc"))
    splits = read_all("flickr8k", flickr(tmp_path / "flickr"), regions=str(path))
    assert {split: joined(records) for split, records in splits.items()} == {
        "train": {"flickr8k/100_abc": 0},
        "test": {"flickr8k/102_abc": 1},
    }


def test_bare_numbers_are_those_of_visual_genome(tmp_path: Path, read_all) -> None:
    """Image 1 is COCO's 9, and image 2 is COCO's 1: the regions of 1 belong to the first image."""
    source = visual_genome(tmp_path / "vg", {1: 9, 2: 1, 3: None})
    path = region_tsv(tmp_path / "x.tsv", found("1", "3", "9", "000000000001"))
    records = read_all("visual_genome", source, regions=str(path), keep_coco_test=True)["train"]
    assert joined(records) == {"coco/9": 0, "coco/1": 3, "visual_genome/3": 1}


def test_streams_that_nothing_joins(tmp_path: Path) -> None:
    source = visual_genome(tmp_path / "vg", {1: 9, 2: 1})
    path = region_tsv(tmp_path / "x.tsv", found("77"))
    with pytest.raises(
        DataError, match=r"No image has regions in .*: an image is 'coco/9' \(.*VG_100K/1\.jpg\), and .* '77'"
    ):
        prepare("visual_genome", tmp_path / "data", source, options={"regions": str(path), "keep_coco_test": True})
    assert [file.name for file in (tmp_path / "data" / "visual_genome").iterdir()] == [".lock"]


def test_a_stream_without_regions_is_skipped(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        tar(tmp_path / "tar" / split / "00.tar", {f"{split}.jpg": encode(), f"{split}.txt": split})
    path = region_tsv(tmp_path / "x.tsv", found("validation"))
    folder = prepare("image_text", tmp_path / "data", tmp_path / "tar", options={"regions": str(path)})
    summary = read_summary(folder)
    assert list(summary["splits"]) == ["validation"]
    assert summary["notes"] == ["split train skipped: none of its images has regions"]
    assert summary["skipped"]["train"]["images"] == {"no regions": 1}


def test_an_empty_split_stays_an_error(tmp_path: Path) -> None:
    """A split is skipped only if all of its images have no regions."""
    for split, text in {"train": "a", "validation": ""}.items():
        tar(tmp_path / "tar" / split / "00.tar", {f"{split}.jpg": encode(), f"{split}.txt": text})
    path = region_tsv(tmp_path / "x.tsv", found("train", "validation"))
    with pytest.raises(DataError, match="No usable image with a text in split 'validation', 1 images found: 1 no text"):
        prepare("image_text", tmp_path / "data", tmp_path / "tar", options={"regions": str(path)})


def test_streams_count_images_without_regions(tmp_path: Path) -> None:
    source = visual_genome(tmp_path / "vg", {1: 9, 2: 1, 3: None})
    path = region_tsv(tmp_path / "x.tsv", found("2", "77"))
    options = {"regions": str(path), "keep_coco_test": True}
    summary = read_summary(prepare("visual_genome", tmp_path / "data", source, options=options))
    assert summary["skipped"]["train"]["images"] == {"no regions": 2}
    assert summary["regions"]["unjoined"] == 1


def test_tar_files(tmp_path: Path, read_all) -> None:
    members = {}
    for key in ("a/0001", "a/0002", "a/0003"):
        members |= {f"{key}.jpg": encode(), f"{key}.txt": key}
    members["a/0003.json"] = json.dumps({"sha256": "beef"})
    tar(tmp_path / "tar" / "00.tar", members)
    path = region_tsv(tmp_path / "x.tsv", found("0002", "beef"))
    assert joined(read_all("image_text", tmp_path / "tar", regions=str(path))["train"]) == {
        "image_text/train/00/a/0002": 0,
        "image_text/beef": 1,
    }


def test_missing_files_of_images_without_regions_are_no_loss(tmp_path: Path, read_all) -> None:
    write_image(tmp_path / "mine" / "1.jpg")
    entries = ({"image": f"{i}.jpg", "texts": ["a"]} for i in range(1, 9))  # only the first file exists
    source = lines(tmp_path / "mine" / "train.jsonl", *entries)
    path = region_tsv(tmp_path / "x.tsv", found("1"))
    assert joined(read_all("image_text", source, regions=str(path))["train"]) == {"image_text/1.jpg": 0}


def test_own_images(tmp_path: Path, read_all) -> None:
    for name in ("photos/1.jpg", "photos/2.jpg", "others/1.jpg"):
        write_image(tmp_path / "mine" / name)
    source = lines(
        tmp_path / "mine" / "train.jsonl",
        *({"image": name, "texts": ["a"]} for name in ("photos/1.jpg", "photos/2.jpg", "others/1.jpg")),
    )
    path = region_npz(tmp_path / "npz", found("photos/1", "2", "others/1"))
    records = read_all("image_text", source, regions=str(path))["train"]
    assert joined(records) == {"image_text/photos/1.jpg": 0, "image_text/photos/2.jpg": 1, "image_text/others/1.jpg": 2}


def test_regions_that_may_be_of_two_images(tmp_path: Path) -> None:
    """Files of easy-VQA are called 0.png in each split."""
    source = easy_vqa(tmp_path / "easy")
    path = region_tsv(tmp_path / "x.tsv", found("0", "1"))
    with pytest.raises(
        DataError, match=r"has regions of '0', which may be those of .*/0' and of another image; call them"
    ):
        prepare("easy_vqa", tmp_path / "data", source, options={"regions": str(path)})
    path = region_tsv(tmp_path / "x.tsv", found("train/0", "test/0"))
    prepare("easy_vqa", tmp_path / "data", source, options={"regions": str(path)})
    assert joined(open_records(tmp_path / "data", "easy_vqa", "train")) == {"easy_vqa/train/0": 0}
    assert joined(open_records(tmp_path / "data", "easy_vqa", "test")) == {"easy_vqa/test/0": 1}


def test_splits_that_share_images(tmp_path: Path, read_all) -> None:
    """VQA's test-dev is a part of its test split."""
    path = region_tsv(tmp_path / "x.tsv", detections(("1", "2", "3", "4", "5")))
    splits = read_all("vqa_v2", vqa_v2(tmp_path / "vqa"), regions=str(path))
    assert {split: len(records) for split, records in splits.items()} == {
        "train": 2,
        "val": 1,
        "test": 2,
        "test-dev": 1,
    }
    both = {record.image_id: record.regions for record in splits["test"]}
    assert both["coco/5"] == splits["test-dev"][0].regions


@pytest.mark.parametrize("name", datasets.names())
def test_all_but_pairs_take_them(name: str) -> None:
    builder = datasets.builder_class(name)
    assert ("regions" in builder.OPTIONS) == (not builder.PAIRED)


def test_pairs_take_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nlvr2 does not take --regions; it takes no flags of its own"):
        prepare("nlvr2", tmp_path / "data", nlvr2(tmp_path / "nlvr2"), options={"regions": "x.tsv"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_regions": 36}, "coco_captions: --max_regions has no effect without --regions; give both or neither"),
        ({"max_regions": 0, "regions": "x.tsv"}, "--max_regions=0 is not between 1 and 10,000"),
        ({"max_regions": 10_001, "regions": "x.tsv"}, "--max_regions=10001 is not between"),
        ({"regions": "drawn"}, "--regions=drawn is not there; give a .tsv"),
        ({"num_regions": 3}, "coco_captions does not take --num_regions"),
    ],
)
def test_options(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare("coco_captions", tmp_path / "data", coco(tmp_path / "coco"), options=options)
    assert not (tmp_path / "data").exists()


def test_asking_for_regions_later(tmp_path: Path) -> None:
    source = coco(tmp_path / "coco")
    path = region_tsv(tmp_path / "x.tsv", detections(("1", "4")))
    folder = prepare("coco_captions", tmp_path / "data", source)
    with pytest.raises(DataError) as error:
        prepare("coco_captions", tmp_path / "data", source, options={"regions": str(path)})
    assert str(error.value) == (
        f"{folder} was prepared without --regions, and --regions={path} asks for them; remove that folder or give "
        "another --data_dir."
    )
    with pytest.raises(DataError, match="was prepared without --regions, and --max_regions=36 asks for them"):
        prepare("coco_captions", tmp_path / "data", source, options={"max_regions": 36})


def test_asking_again(tmp_path: Path) -> None:
    """Without regions, or with a moved file, it is the same data set; with more regions it is a different one."""
    source = coco(tmp_path / "coco")
    path = region_tsv(tmp_path / "x.tsv", detections(("1", "4")))
    folder = prepare("coco_captions", tmp_path / "data", source, options={"regions": str(path), "max_regions": 1})
    path.unlink()
    assert prepare("coco_captions", tmp_path / "data", source) == folder
    assert prepare("coco_captions", tmp_path / "data", options={"regions": "/elsewhere/y.tsv"}) == folder
    assert prepare("coco_captions", tmp_path / "data", options={"regions": "", "max_regions": 1}) == folder
    with pytest.raises(DataError, match="was prepared with --max_regions=1, not 2; remove that folder or give"):
        prepare("coco_captions", tmp_path / "data", source, options={"regions": str(path), "max_regions": 2})
    assert len(open_records(tmp_path / "data", "coco_captions", "train")[0].regions) == 1


def test_options_of_regions_are_not_kept_without_any(tmp_path: Path) -> None:
    summary = read_summary(prepare("coco_captions", tmp_path / "data", coco(tmp_path / "coco")))
    assert not {"regions", "max_regions"} & set(summary["options"])
    assert "regions" not in summary


def test_a_damaged_first_row_costs_only_itself(tmp_path: Path) -> None:
    regions = detections(("1", "2", "3", "4", "5"))
    regions["1"] = detections(("1",), size=7)["1"]
    path = region_tsv(tmp_path / "x.tsv", regions)
    folder = prepare(
        "coco_captions", tmp_path / "data", coco(tmp_path / "coco"), options={"regions": str(path)}, max_bad_share=0.5
    )
    assert read_summary(folder)["skipped"]["train"]["bad"] == 1
    assert open_records(tmp_path / "data", "coco_captions", "train").index.region_size == 3


def test_real_coco(tmp_path: Path) -> None:
    """Regions of every second photograph, with the names and sizes of the publishers."""
    source = real_data("coco")
    plain = prepare("coco_captions", tmp_path / "plain", source, num_threads=2)
    splits = list(read_summary(plain)["splits"])
    all_records = [r for split in splits for r in open_records(tmp_path / "plain", "coco_captions", split)]
    chosen = all_records[::2]
    names = ("{}", "COCO_val2014_{:012d}", "{:012d}.jpg")
    path = tmp_path / "x.tsv"
    with path.open("wb") as file:
        for i, record in enumerate(chosen):
            number = int(record.image_id.removeprefix("coco/"))
            values = detections((str(number),), boxes=36, size=64)[str(number)]
            scale = np.float32([record.width, record.height] * 2) / np.float32([values["img_w"], values["img_h"]] * 2)
            values |= {"img_h": record.height, "img_w": record.width, "boxes": values["boxes"] * scale}
            file.write(lxmert_row(names[i % 3].format(number), **values))
    folder = prepare("coco_captions", tmp_path / "data", source, options={"regions": str(path), "max_regions": 10})
    summary = read_summary(folder)
    skipped = sum(entry["images"].get("no regions", 0) for entry in summary["skipped"].values())
    kept = [r for split in summary["splits"] for r in open_records(tmp_path / "data", "coco_captions", split)]
    assert [record.image_id for record in kept] == [record.image_id for record in chosen]
    # Splits without a chosen photograph are skipped.
    assert skipped <= len(all_records) - len(chosen)
    assert summary["regions"]["unjoined"] == 0
    assert summary["regions"]["rows"] == len(chosen)
    for record in kept:
        number = record.image_id.removeprefix("coco/")
        values = detections((number,), boxes=36, size=64)[number]
        np.testing.assert_array_equal(record.regions.features, values["features"][:10].astype(np.float16))
