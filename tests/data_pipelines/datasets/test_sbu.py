"""SBU captioned photographs: both formats of the published list, and the validation split."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.datasets import builder_class
from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import open_records, read_summary
from tests.data_pipelines.publishers import encode, tar, write_image, write_json

JSON = "sbu-captions-all.json"
URLS, CAPTIONS = "SBU_captioned_photo_dataset_urls.txt", "SBU_captioned_photo_dataset_captions.txt"


def name(i: int) -> str:
    return f"43850589{i:02d}_b0f291553e.jpg"


def url(i: int) -> str:
    return f"http://static.flickr.com/27{i % 7}/{name(i)}"


def digest(i: int) -> str:
    return hashlib.md5(url(i).encode()).hexdigest()


def content(*numbers: int) -> dict[str, list[Any]]:
    captions = [f"Chair {i} in  my room\n" for i in numbers]
    return {"image_urls": [url(i) for i in numbers], "user_ids": ["47889917@N08"] * len(numbers), "captions": captions}


def write_images(folder: Path, *numbers: int) -> None:
    for i in numbers:
        write_image(folder / name(i), seed=i)


def ids(splits: dict[str, list[Any]], split: str = "train") -> list[str]:
    return [record.image_id for record in splits[split]]


def test_json(tmp_path: Path, read_all) -> None:
    source = tmp_path / "source"
    listed = content(3, 1, 2, 4)
    listed["captions"][3] = None
    write_json(source / JSON, listed)
    write_images(source / "images", 2, 3, 4)
    splits = read_all("sbu", source, sbu_validation=0)
    assert list(splits) == ["train"]
    assert [(r.image_id, r.texts, r.image) for r in splits["train"]] == [
        (f"sbu/{digest(3)}", ("Chair 3 in my room",), encode(seed=3)),
        (f"sbu/{digest(2)}", ("Chair 2 in my room",), encode(seed=2)),
    ]
    summary = read_summary(tmp_path / "data" / "sbu" / "1.0.0")
    assert summary["links"] == {
        "train": {"rows": 4, "found": 3, "missing": 1, "missing_share": 0.25, "repeated": 0},
    }
    assert summary["skipped"]["train"]["images"] == {"no text": 1}
    assert summary["notes"] == [
        "train: 4 rows listed, 3 with an image here, 1 missing (25.0%: dead links, or not downloaded)",
        f"train: images found by last part of the URL, in {source}/images",
    ]


@pytest.mark.parametrize("folder", ["", "dataset"])
def test_two_text_files(tmp_path: Path, read_all, folder: str) -> None:
    source = tmp_path / "source"
    write_images(source / "dataset", 1, 2)
    (source / folder / URLS).write_bytes(f"{url(0)}\r\n{url(1)}\r\n{url(2)}\r\n".encode())
    (source / folder / CAPTIONS).write_text("zero\n \u00fcber \x85 eins\ntwo")
    records = read_all("sbu", source, sbu_validation=0)["train"]
    assert [(r.image_id, r.texts) for r in records] == [
        (f"sbu/{digest(1)}", ("\u00fcber eins",)),
        (f"sbu/{digest(2)}", ("two",)),
    ]


@pytest.mark.parametrize(
    ("urls", "captions", "message"),
    [
        ("http://a/1.jpg\n", "a\nb\n", f"{URLS}: it and {CAPTIONS} are not equally long, from row 2; download again"),
        ("http://a/1.jpg\nhttp://a/2.jpg\n", "a\n", "are not equally long, from row 2"),
        ("http://a/1.jpg\n<html>\n", "a\nb\n", f"{URLS}: row 2 is not a URL; download it again"),
        ("", "", f"{URLS} lists no image; download it again"),
    ],
)
def test_text_files_that_do_not_fit(tmp_path: Path, read_all, urls: str, captions: str, message: str) -> None:
    (tmp_path / URLS).write_text(urls)
    (tmp_path / CAPTIONS).write_text(captions)
    write_image(tmp_path / "images" / "1.jpg")
    with pytest.raises(DataError, match=message):
        read_all("sbu", tmp_path)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_lists_that_are_not_utf_8(tmp_path: Path, read_all, encoding: str) -> None:
    write_image(tmp_path / "images" / "1.jpg")
    (tmp_path / URLS).write_text("http://a/0.jpg\nhttp://a/1.jpg\n")
    (tmp_path / CAPTIONS).write_bytes("Gr\u00f6\u00dfe\ntwo\n".encode(encoding))
    with pytest.raises(DataError, match=f"{CAPTIONS}, line 1: not UTF-8 .*; save the file as UTF-8"):
        read_all("sbu", tmp_path)
    (tmp_path / CAPTIONS).unlink()
    (tmp_path / JSON).write_bytes(
        '{"image_urls": ["http://a/1.jpg"], "captions": ["Gr\u00f6\u00dfe"]}'.encode("cp1252")
    )
    with pytest.raises(DataError, match=f"{JSON} is not UTF-8, near .*; save it as UTF-8"):
        read_all("sbu", tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_with_a_byte_order_mark_or_in_utf_16(tmp_path: Path, read_all, encoding: str) -> None:
    content = '{"image_urls": ["http://a/1.jpg"], "captions": ["Gr\u00f6\u00dfe"]}'
    write_image(tmp_path / "images" / "1.jpg")
    (tmp_path / JSON).write_bytes(content.encode(encoding))
    with pytest.raises(DataError, match=f"{JSON} is not UTF-8; save it as UTF-8"):
        read_all("sbu", tmp_path, sbu_validation=0, first_row="1")
    (tmp_path / JSON).write_bytes(content.encode("utf-8-sig"))
    (record,) = read_all("sbu", tmp_path, sbu_validation=0, first_row="1")["train"]
    assert record.texts == ("Gr\u00f6\u00dfe",)


def test_urls_without_captions(tmp_path: Path, read_all) -> None:
    (tmp_path / URLS).write_text("http://a/1.jpg\n")
    write_image(tmp_path / "images" / "1.jpg")
    with pytest.raises(DataError, match=f"{URLS} has no captions beside it; put {CAPTIONS} there, from https"):
        read_all("sbu", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(content(1, 2))[:-80], "is not whole JSON .*; download it again"),
        ('{"image_urls": ["http://a"], "captions": []}', "image_urls and captions are not equally long, from row 1"),
        ('{"image_urls": [3], "captions": ["a"]}', "row 1 is not a URL"),
        ('{"image_urls": ["http://a"], "captions": [NaN]}', f"{JSON} has NaN, which is no JSON, near .*; write null"),
        ('{"urls": []}', f"{JSON} lists no image; download it again"),
    ],
)
def test_damaged_json(tmp_path: Path, read_all, text: str, message: str) -> None:
    (tmp_path / JSON).write_text(text)
    write_images(tmp_path / "sbu_images", 1)
    with pytest.raises(DataError, match=message):
        read_all("sbu", tmp_path)


def test_layout(tmp_path: Path, read_all) -> None:
    write_json(tmp_path / JSON, content(1, 2))
    with pytest.raises(DataError, match=r"No images of sbu in .*: looked for tar files and the folders images, sbu_im"):
        read_all("sbu", tmp_path)
    write_image(tmp_path / "images" / "unknown.jpg")
    with pytest.raises(DataError, match=rf"None of the 1 images in .*: for {url(1)} it looked for 0.jpg .* {name(1)}"):
        read_all("sbu", tmp_path)


def test_validation_is_chosen_by_hash(tmp_path: Path) -> None:
    """The existing images with the smallest hashes, independently of the order of the list."""
    there = [i for i in range(20) if i % 4]
    expected = {f"sbu/{digest(i)}" for i in sorted(there, key=digest)[:6]}
    for order in (1, -1):
        source, data = tmp_path / f"source{order}", tmp_path / f"data{order}"
        write_json(source / JSON, content(*range(20)[::order]))
        write_images(source / "images", *there)
        folder = prepare("sbu", data, source, options={"sbu_validation": 6})
        candidates = builder_class("sbu")(data_dir=data, source_dir=source, options={"sbu_validation": 6}).candidates()
        assert {split: its.total for split, its in candidates.items()} == {"train": 9, "validation": 6}
        splits = {split: list(open_records(data, "sbu", split)) for split in ("train", "validation")}
        assert set(ids(splits, "validation")) == expected
        in_order = [f"sbu/{digest(i)}" for i in range(20)[::order] if i in there]
        assert ids(splits) == [i for i in in_order if i not in expected]
        assert ids(splits, "validation") == [i for i in in_order if i in expected]
        summary = read_summary(folder)
        assert summary["options"]["sbu_validation"] == 6
        assert "validation: 6 of the images found, taken from train by the hashes of their URLs" in summary["notes"]
    with pytest.raises(DataError, match="was prepared with --sbu_validation=6, not 7"):
        prepare("sbu", data, source, options={"sbu_validation": 7})


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (-1, "--sbu_validation=-1 is negative; give 0 for no such split"),
        (3, "--sbu_validation=3 leaves nothing to train on: there are only 3 images; give a smaller number"),
        (None, "--sbu_validation=1000 leaves nothing to train on"),
    ],
)
def test_number_of_validation_images(tmp_path: Path, read_all, number: int | None, message: str) -> None:
    write_json(tmp_path / JSON, content(1, 2, 3))
    write_images(tmp_path / "images", 1, 2, 3)
    with pytest.raises(DataError, match=message):
        read_all("sbu", tmp_path, **({} if number is None else {"sbu_validation": number}))


@pytest.mark.parametrize("folder", ["", "sbucaptions"])
def test_shards(tmp_path: Path, read_all, folder: str) -> None:
    source = tmp_path / "source"
    members: dict[str, bytes | str] = {}
    for i in range(5):
        about = {"url": url(i % 4), "caption": f"caption {i}", "status": "success"}
        members |= {f"{i:09d}.jpg": encode(seed=i), f"{i:09d}.json": json.dumps(about)}
    tar(source / folder / "00000.tar", members)
    write_json(source / folder / "00000_stats.json", {"count": 8, "successes": 5})
    splits = read_all("sbu", source, sbu_validation=1)
    first = min(range(4), key=digest)
    assert ids(splits, "validation") == [f"sbu/{digest(first)}"]
    assert ids(splits) == [f"sbu/{digest(i)}" for i in range(4) if i != first]
    texts = {record.image_id: record.texts for records in splits.values() for record in records}
    assert texts[f"sbu/{digest(0)}"] == ("caption 0", "caption 4")
    links = read_summary(tmp_path / "data" / "sbu" / "1.0.0")["links"]["train"]
    assert links == {"rows": 8, "found": 5, "missing": 3, "missing_share": 0.375, "repeated": 1}
