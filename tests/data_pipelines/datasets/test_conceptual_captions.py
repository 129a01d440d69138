"""Conceptual Captions: published lists with images named by any downloader, and output of img2dataset."""

import hashlib
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.datasets.formats.url_images import NAMINGS, ImageFolder
from data_pipelines.errors import DataError
from data_pipelines.images.resize import ResizeRule
from data_pipelines.preparation.run import prepare
from data_pipelines.preparation.summary import describe
from data_pipelines.storage import paths
from data_pipelines.storage.records import read_summary
from tests.data_pipelines.publishers import encode, tar, write_image, write_json

TRAIN, VALIDATION = "Train_GCC-training.tsv", "Validation_GCC-1.1.0-Validation.tsv"


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def url(i: int | str) -> str:
    return f"http://site.com/images/photo-{i}.jpg?width=300"


def image_id(i: int | str) -> str:
    return f"conceptual_captions/{md5(url(i))}"


def write_list(path: Path, *rows: tuple[str, str]) -> Path:
    """A published list: captions and URLs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{caption}\t{its_url}\n" for caption, its_url in rows).encode())
    return path.parent


def numbered(count: int) -> list[tuple[str, str]]:
    return [(f"caption , {i} .", url(i)) for i in range(count)]


def found(records: list[Any]) -> list[tuple[str, tuple[str, ...]]]:
    return [(record.image_id, record.texts) for record in records]


def links(tmp_path: Path, split: str = "train") -> dict[str, Any]:
    return read_summary(tmp_path / "data" / "conceptual_captions" / "1.0.0")["links"][split]


def notes(tmp_path: Path) -> str:
    return "\n".join(read_summary(tmp_path / "data" / "conceptual_captions" / "1.0.0")["notes"])


def test_published_lists_and_what_is_missing(tmp_path: Path, read_all) -> None:
    source = tmp_path / "source"
    write_list(source / TRAIN, *numbered(8))
    write_list(source / VALIDATION, ("  a  red\u00a0car", url("v")), ("not there", url("w")))
    for i in (0, 2, 3, 5, 7):
        write_image(source / "training" / f"{i:09d}.jpg", seed=i)
    write_image(source / "validation" / f"{md5(url('v'))}.png", format="PNG", seed=9)
    splits = read_all("conceptual_captions", source)
    assert set(splits) == {"train", "validation"}
    assert found(splits["train"]) == [(image_id(i), (f"caption , {i} .",)) for i in (0, 2, 3, 5, 7)]
    assert [record.image for record in splits["train"]] == [encode(seed=i) for i in (0, 2, 3, 5, 7)]
    assert found(splits["validation"]) == [(image_id("v"), ("a red car",))]
    folder = tmp_path / "data" / "conceptual_captions" / "1.0.0"
    summary = read_summary(folder)
    assert summary["links"] == {
        "train": {"rows": 8, "found": 5, "missing": 3, "missing_share": 0.375, "repeated": 0},
        "validation": {"rows": 2, "found": 1, "missing": 1, "missing_share": 0.5, "repeated": 0},
    }
    assert summary["skipped"]["train"]["bad"] == 0
    assert describe(folder, summary, ResizeRule(64, 128)).splitlines()[1:5] == [
        "train: 8 rows listed, 5 with an image here, 3 missing (37.5%: dead links, or not downloaded)",
        f"train: images found by row number, counted from 0, in {source}/training",
        "validation: 2 rows listed, 1 with an image here, 1 missing (50.0%: dead links, or not downloaded)",
        f"validation: images found by MD5 of the URL, in {source}/validation",
    ]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("{row}.jpg", "row number"),
        ("{row:08d}.JPEG", "row number"),
        ("{row}_{crc}.png", "row number and CRC-32"),
        ("00/{row}_{crc}", "row number and CRC-32"),
        ("{md5}.jpg", "MD5"),
        ("{sha1}.webp", "SHA-1"),
        ("{crc}", "CRC-32"),
        ("0{row}/{crc}.jpg", "CRC-32"),
        ("photo-{row}.jpg", "last part"),
        ("images_photo-{row}.jpg", "last two parts"),
    ],
)
def test_names_of_images(tmp_path: Path, read_all, name: str, what: str) -> None:
    source = write_list(tmp_path / "source" / TRAIN, *numbered(4))
    for row in (0, 3):
        crc, sha1 = zlib.crc32(url(row).encode()), hashlib.sha1(url(row).encode()).hexdigest()
        written = name.format(row=row, crc=crc, md5=md5(url(row)), sha1=sha1)
        write_image(source / "train" / written, seed=row)
    splits = read_all("conceptual_captions", source)
    assert found(splits["train"]) == [(image_id(i), (f"caption , {i} .",)) for i in (0, 3)]
    assert [record.image for record in splits["train"]] == [encode(seed=0), encode(seed=3)]
    assert f"images found by {what}" in notes(tmp_path)


def test_known_names() -> None:
    stems = [naming.stem(12, "http://static.flickr.com/2723/4385058960_b0f291553e.jpg") for naming in NAMINGS]
    assert stems == [
        "12",
        "13",
        "12_3114746333",
        "13_3114746333",
        "dca9adc2b49e22064c1cb7647d20d667",
        "3bb89933346b4f6d7e4b24f023f21aeb306c2602",
        "3114746333",
        "4385058960_b0f291553e",
        "2723_4385058960_b0f291553e",
    ]


def test_one_rule_holds_for_all_images(tmp_path: Path, read_all) -> None:
    """A file that happens to have the number of another row, or the last part of its URL, is not used."""
    source = write_list(tmp_path / "source" / TRAIN, *numbered(5))
    for i in (0, 2):
        write_image(source / "train" / f"{md5(url(i))}.jpg", seed=i)
    write_image(source / "train" / "1.jpg")
    write_image(source / "train" / "photo-3.jpg")
    assert [record.image_id for record in read_all("conceptual_captions", source)["train"]] == [
        image_id(0),
        image_id(2),
    ]


def test_equal_rules_that_disagree(tmp_path: Path, read_all) -> None:
    """Numbers may be those of the rows or parts of the URLs: a flag decides, unless both mean the same images."""
    rows = [("a", "http://x/1.jpg"), ("b", "http://x/0.jpg")]
    source = write_list(tmp_path / "source" / TRAIN, *rows)
    for i in (0, 1):
        write_image(source / "train" / f"{i}.jpg", seed=i)
    with pytest.raises(DataError) as error:
        read_all("conceptual_captions", source)
    assert str(error.value) == (
        f"The names of the images in {source}/train fit the rows of {source}/{TRAIN} as row number, counted from 0 and "
        f"as last part of the URL alike, and {source}/train/0.jpg is of different rows; give --first_row=0 if they "
        "are row numbers, otherwise name the images by the MD5 of their URLs."
    )
    records = read_all("conceptual_captions", source, first_row="0")["train"]
    assert [(record.texts, record.image) for record in records] == [(("a",), encode(seed=0)), (("b",), encode(seed=1))]
    shutil.rmtree(tmp_path / "data")
    write_list(source / TRAIN, ("a", "http://x/0.jpg"), ("b", "http://x/1.jpg"))
    records = read_all("conceptual_captions", source)["train"]
    assert [(record.texts, record.image) for record in records] == [(("a",), encode(seed=0)), (("b",), encode(seed=1))]


def test_names_that_match_several_urls_are_skipped(tmp_path: Path, read_all) -> None:
    urls = ["http://a/1/x.jpg", "http://a/2/image.jpg", "http://b/4/007.jpg", "http://b/3/image.jpg?y=2"]
    rows = [(f"text {i}", its_url) for i, its_url in enumerate([*urls, urls[0]])]
    source = write_list(tmp_path / "source" / TRAIN, *rows)
    for name in ("x", "image", "007"):
        write_image(source / "train" / f"{name}.jpg")
    records = read_all("conceptual_captions", source)["train"]
    assert [record.texts for record in records] == [("text 0", "text 4"), ("text 2",)]
    assert "train: 1 images skipped, because their names match several URLs" in notes(tmp_path)
    assert links(tmp_path) == {"rows": 5, "found": 3, "missing": 2, "missing_share": 0.4, "repeated": 1}


def test_numbers_that_are_not_those_of_the_rows(tmp_path: Path, read_all) -> None:
    source = write_list(tmp_path / "source" / TRAIN, *numbered(4))
    for i in (0, 1, 4):
        write_image(source / "train" / f"{i}.jpg")
    with pytest.raises(DataError, match=r"image number 4, but .*training.tsv has only 4 rows, counted from 0, so"):
        read_all("conceptual_captions", source)
    (source / "train" / "0.jpg").rename(source / "train" / "5.jpg")
    with pytest.raises(DataError, match=r"image number 5, but .*training.tsv has only 4 rows, counted from 1, so"):
        read_all("conceptual_captions", source)
    (source / "train" / "4.jpg").unlink()
    write_image(source / "train" / "00001" / "0001.jpg")
    with pytest.raises(DataError, match=r"1.jpg has the number of another image in .*train, so the numbers"):
        read_all("conceptual_captions", source)


@pytest.mark.parametrize(
    ("images", "options", "first"),
    [
        ((0, 2), {}, 0),
        ((1, 4), {}, 1),
        ((1, 2), {"first_row": "0"}, 0),
        ((1, 2), {"first_row": "1"}, 1),
        ((1, 4), {"first_row": "1"}, 1),
    ],
)
def test_number_of_the_first_row(tmp_path: Path, read_all, images: tuple, options: dict, first: int) -> None:
    """0.jpg, or a file with the number of rows as its name, decides; otherwise a flag does."""
    source = write_list(tmp_path / "source" / TRAIN, *numbered(4))
    for i in images:
        write_image(source / "train" / f"{i}.jpg", seed=i)
    records = read_all("conceptual_captions", source, **options)["train"]
    assert found(records) == [(image_id(i - first), (f"caption , {i - first} .",)) for i in images]
    assert [record.image for record in records] == [encode(seed=i) for i in images]
    assert f"images found by row number, counted from {first}, in" in notes(tmp_path)


def test_a_first_row_that_cannot_be_detected(tmp_path: Path, read_all) -> None:
    source = write_list(tmp_path / "source" / TRAIN, *numbered(4))
    for i in (1, 3):
        write_image(source / "train" / f"{i}.jpg")
    with pytest.raises(DataError) as error:
        read_all("conceptual_captions", source)
    assert str(error.value) == (
        f"{source}/train has images numbered 1 to 3, which fit the 4 rows of {source}/{TRAIN} counted from 0 and from "
        "1 alike; give --first_row=0 or --first_row=1, the number that the downloader gave to the first row."
    )
    (source / "train" / "3.jpg").rename(source / "train" / "0.jpg")
    with pytest.raises(DataError, match=r"has an image number 0, so the rows were not counted from 1; leave --first"):
        read_all("conceptual_captions", source, first_row="1")
    (source / "train" / "0.jpg").rename(source / "train" / "4.jpg")
    with pytest.raises(DataError, match=r"has an image number 4, but .* has only 4 rows, counted from 0, so"):
        read_all("conceptual_captions", source, first_row="0")
    assert not (tmp_path / "data").exists()


def test_numbers_from_1_beside_a_hash(tmp_path: Path, read_all) -> None:
    source = write_list(tmp_path / "source" / TRAIN, *numbered(4))
    for i in (1, 2):
        write_image(source / "train" / f"{i + 1}_{zlib.crc32(url(i).encode())}.jpg", seed=i)
    assert found(read_all("conceptual_captions", source)["train"]) == [
        (image_id(i), (f"caption , {i} .",)) for i in (1, 2)
    ]


def test_digits_of_a_hash_are_no_number(tmp_path: Path) -> None:
    digits = "0" + "1" * 31
    write_image(tmp_path / f"{digits}.jpg")
    write_image(tmp_path / "0012.jpg")
    images = ImageFolder(tmp_path)
    assert images.find(digits) == f"{tmp_path}/{digits}.jpg"
    assert images.find("12") == f"{tmp_path}/0012.jpg"
    assert images.find("0012") is images.find("1" * 31) is None
    assert images.max_number == 12


@pytest.mark.parametrize("backwards", [False, True])
def test_order_of_a_listing_does_not_matter(tmp_path: Path, monkeypatch, backwards: bool) -> None:
    for name in ("b/x.jpg", "a/x.png", "a/x.jpg"):
        write_image(tmp_path / name)
    scandir = os.scandir

    class Sorted:
        def __init__(self, path: str) -> None:
            self.path = path

        def __enter__(self):
            return iter(sorted(scandir(self.path), key=lambda entry: entry.name, reverse=backwards))

        def __exit__(self, *_) -> None:
            pass

    monkeypatch.setattr(paths.os, "scandir", Sorted)
    assert ImageFolder(tmp_path).find("x") == f"{tmp_path}/a/x.jpg"


def test_repeated_urls(tmp_path: Path, read_all) -> None:
    """One record with each caption once, at the position of the first row; any row may have the image."""
    rows = [("one", url(0)), ("two", url(1)), ("three", url(0)), ("one", url(0)), ("four", url(2)), ("five", url(2))]
    source = write_list(tmp_path / "source" / TRAIN, *rows)
    for i in (1, 2, 3):
        write_image(source / "train" / f"{i}.jpg", seed=i)
    records = read_all("conceptual_captions", source, first_row="0")["train"]
    assert found(records) == [(image_id(0), ("one", "three")), (image_id(1), ("two",))]
    assert records[0].image == encode(seed=2)
    assert links(tmp_path) == {"rows": 6, "found": 4, "missing": 2, "missing_share": 2 / 6, "repeated": 3}
    assert read_summary(tmp_path / "data" / "conceptual_captions" / "1.0.0")["skipped"]["train"]["images"] == {}
    assert "train: rows that repeat an earlier URL, whose image has the captions of all: 3" in notes(tmp_path)


def test_image_of_both_splits_is_trained_on_only(tmp_path: Path) -> None:
    source = write_list(tmp_path / "source" / TRAIN, *numbered(2))
    write_list(source / VALIDATION, *numbered(3)[1:])
    for i in range(3):
        write_image(source / "images" / f"{md5(url(i))}.jpg", seed=i)
    folder = prepare("conceptual_captions", tmp_path / "data", source)
    summary = read_summary(folder)
    assert {split: entry["images"] for split, entry in summary["splits"].items()} == {"train": 2, "validation": 1}
    assert summary["skipped"]["validation"]["images"] == {"image occurs twice": 1}


def test_damaged_images_count_and_missing_ones_do_not(tmp_path: Path) -> None:
    source = write_list(tmp_path / "source" / TRAIN, *numbered(100))
    for i in range(10):
        write_image(source / "train" / f"{i}.jpg", seed=i)
    folder = prepare("conceptual_captions", tmp_path / "data", source, max_bad_share=0)
    assert read_summary(folder)["links"]["train"]["missing"] == 90
    (source / "train" / "5.jpg").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"1 of 10 images \(10.0%\) cannot be used, more than --max_bad_share=0.05"):
        prepare("conceptual_captions", tmp_path / "other", source, max_bad_share=0.05)


def test_nothing_is_found(tmp_path: Path, read_all) -> None:
    source = write_list(tmp_path / "source" / TRAIN, *numbered(3))
    write_image(source / "train" / "abc.jpg")
    with pytest.raises(DataError) as error:
        read_all("conceptual_captions", source)
    message = str(error.value)
    assert message.startswith(
        f"None of the 1 images in {source}/train is one of the 3 of {source}/{TRAIN}: for {url(0)}"
    )
    assert (
        f"0.jpg (row number, counted from 0), 1.jpg (row number, counted from 1), 0_{zlib.crc32(url(0).encode())}.jpg"
        in message
    )
    assert f"{md5(url(0))}.jpg (MD5 of the URL)" in message
    assert "photo-0.jpg (last part of the URL)" in message
    assert not (tmp_path / "data").exists()


def test_layout(tmp_path: Path, read_all) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(
        DataError, match=r"No images of conceptual_captions in .*source: looked for tar files and the fo"
    ):
        read_all("conceptual_captions", source)
    (source / "train").mkdir()
    (source / "train" / "README.md").touch()
    with pytest.raises(
        DataError, match=r"train holds no image of conceptual_captions; it should hold img2dataset's tar "
    ):
        read_all("conceptual_captions", source)
    write_image(source / "train" / "0.jpg")
    with pytest.raises(
        DataError, match=r"no list tells their captions; put the published list into .*source, from http"
    ):
        read_all("conceptual_captions", source)
    (source / TRAIN).write_text("\n")
    with pytest.raises(DataError, match=r"training.tsv lists no image; download it again"):
        read_all("conceptual_captions", source)


def test_split_without_images_is_skipped(tmp_path: Path, read_all) -> None:
    source = write_list(tmp_path / "source" / "Train-GCC-training.tsv", *numbered(3))
    write_list(source / VALIDATION, *numbered(2))
    write_image(source / "images" / "train" / "0.jpg")
    assert list(read_all("conceptual_captions", source)) == ["train"]
    assert "validation: skipped, because there is no folder of its images (validation, val, images/" in notes(tmp_path)


def test_numbers_of_two_lists_in_one_folder(tmp_path: Path, read_all) -> None:
    """They could belong to either list, so only names from the URLs are used."""
    source = write_list(tmp_path / "source" / TRAIN, *numbered(3))
    write_list(source / VALIDATION, *[("text", url("v"))])
    write_image(source / "images" / "0.jpg")
    with pytest.raises(DataError, match=r"for http://site.com/images/photo-0.jpg.* looked for 0_\d+.jpg"):
        read_all("conceptual_captions", source)
    (source / VALIDATION).unlink()
    assert found(read_all("conceptual_captions", source)["train"]) == [(image_id(0), ("caption , 0 .",))]


def test_lines_of_a_list(tmp_path: Path, read_all) -> None:
    """With a header for img2dataset, Windows line ends and blank lines: none of them is a row."""
    source = tmp_path / "source"
    write_image(source / "cc3m" / "2.jpg")
    (source / "cc3m.tsv").write_bytes(f"\ufeffcaption\turl\r\na\t{url(0)}\r\n\r\nGr\u00f6\u00dfe\t{url(1)}".encode())
    assert found(read_all("conceptual_captions", source)["train"]) == [(image_id(1), ("Gr\u00f6\u00dfe",))]
    assert links(tmp_path)["rows"] == 2


@pytest.mark.parametrize("line", ["a caption", f"{url(1)}\ta caption", f"a\t{url(1)}\tb", "a caption\t"])
def test_bad_lines(tmp_path: Path, read_all, line: str) -> None:
    source = write_list(tmp_path / "source" / TRAIN, *numbered(1))
    with (source / TRAIN).open("a") as file:
        file.write(f"{line}\n")
    write_image(source / "train" / "0.jpg")
    with pytest.raises(DataError, match=r"training.tsv, line 2: not a caption, a tab and a URL; correct that line"):
        read_all("conceptual_captions", source)


def sample(key: str, seed: int, about: dict[str, Any] | None = None, **more: bytes | str) -> dict[str, bytes | str]:
    """Members of one image with the names of img2dataset."""
    members: dict[str, bytes | str] = {f"{key}.jpg": encode(seed=seed)}
    if about is not None:
        members[f"{key}.json"] = json.dumps(about)
    return members | {f"{key}.{suffix}": content for suffix, content in more.items()}


def about(i: int, caption: str | None = None, status: str = "success") -> dict[str, Any]:
    return {"url": url(i), "caption": caption or f"caption {i}", "status": status, "key": f"{i:09d}"}


def write_samples(folder: Path, as_tar: bool, shards: list[dict[str, bytes | str]]) -> Path:
    for number, members in enumerate(shards):
        if as_tar:
            tar(folder / f"{number:05d}.tar", members)
            continue
        for name, content in members.items():
            path = folder / f"{number:05d}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def img2dataset(folder: Path, as_tar: bool) -> Path:
    """Four rows with an image, two of them with the same URL; two failed rows, one of them without an image."""
    first = sample("000000000", 0, about(0), txt="caption 0") | sample(
        "000000002", 2, about(2, status="failed_to_resize")
    )
    second = sample("000010001", 3, about(3)) | sample("000010004", 4, about(0, "again 0"))
    failed = json.dumps(about(5, status="failed_to_download"))
    return write_samples(
        folder, as_tar, [first, second | {"000010005.json": failed} | sample("000010007", 6, about(6))]
    )


@pytest.mark.parametrize("as_tar", [False, True])
@pytest.mark.parametrize("folder", ["", "train"])
def test_img2dataset(tmp_path: Path, read_all, as_tar: bool, folder: str) -> None:
    source = tmp_path / "source"
    img2dataset(source / folder, as_tar)
    records = read_all("conceptual_captions", source)["train"]
    assert found(records) == [
        (image_id(0), ("caption 0", "again 0")),
        (image_id(3), ("caption 3",)),
        (image_id(6), ("caption 6",)),
    ]
    assert [record.image for record in records] == [encode(seed=i) for i in (0, 3, 6)]
    assert links(tmp_path) == {"rows": 6, "found": 4, "missing": 2, "missing_share": 2 / 6, "repeated": 1}
    kind = "tar files" if as_tar else "folders"
    assert f"train: images and captions of img2dataset's {kind}, in {source / folder}" in notes(tmp_path)


@pytest.mark.parametrize("as_tar", [False, True])
@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        ([{"count": 10, "successes": 2}, {"count": 6, "successes": 3}], (16, 12)),
        ([{"count": 10, "successes": 2}], (6, 2)),
        ([{"count": 10}, {"count": None}], (6, 2)),
        ([{"count": 1}, {"count": 2}], (6, 2)),
    ],
)
def test_statistics_of_img2dataset(tmp_path: Path, read_all, as_tar: bool, stats: list, expected: tuple) -> None:
    """They are used if each shard has them."""
    source = tmp_path / "source"
    img2dataset(source / "train", as_tar)
    for number, content in enumerate(stats):
        write_json(source / "train" / f"{number:05d}_stats.json", content)
    read_all("conceptual_captions", source)
    assert (links(tmp_path)["rows"], links(tmp_path)["missing"]) == expected


@pytest.mark.parametrize("as_tar", [False, True])
def test_img2dataset_with_the_published_list(tmp_path: Path, read_all, as_tar: bool) -> None:
    """The list has priority over the statistics."""
    source = write_list(tmp_path / "source" / TRAIN, *numbered(5), ("once more", url(3)), ("and again", url(3)))
    img2dataset(source / "train", as_tar)
    for number in (0, 1):
        write_json(source / "train" / f"{number:05d}_stats.json", {"count": 50})
    records = read_all("conceptual_captions", source)["train"]
    assert [record.image_id for record in records] == [image_id(0), image_id(3), image_id(6)]
    assert links(tmp_path) == {"rows": 7, "found": 4, "missing": 3, "missing_share": 3 / 7, "repeated": 2}
    assert "train: 1 images whose URLs the list does not have" in notes(tmp_path)


def test_img2dataset_with_another_list(tmp_path: Path, read_all) -> None:
    source = write_list(tmp_path / "source" / TRAIN, ("text", url("other")))
    img2dataset(source / "train", True)
    with pytest.raises(DataError, match=r"training.tsv lists none of the URLs of the 3 images that img2dataset wrote"):
        read_all("conceptual_captions", source)


@pytest.mark.parametrize("with_list", [False, True])
def test_shards_without_urls(tmp_path: Path, read_all, with_list: bool) -> None:
    source = tmp_path / "source"
    write_samples(source / "validation", True, [sample("a/7", 0, txt="one"), sample("7", 1, json="{", txt="two")])
    if with_list:
        write_list(source / VALIDATION, *numbered(5))
    records = read_all("conceptual_captions", source)["validation"]
    addresses = ("validation/00000/a/7", "validation/00001/7")
    assert found(records) == [
        (f"conceptual_captions/{md5(address)}", (text,))
        for address, text in zip(addresses, ("one", "two"), strict=True)
    ]
    rows = 5 if with_list else None
    assert (links(tmp_path, "validation")["rows"], links(tmp_path, "validation")["found"]) == (rows, 2)
    assert ("how many are missing is not known" in notes(tmp_path)) != with_list


def test_folders_of_img2dataset_with_a_damaged_json(tmp_path: Path, read_all) -> None:
    first = sample("0", 0, about(0)) | sample("1", 1, txt="by text", json="{") | sample("2", 2, txt="none")
    source = write_samples(tmp_path / "source", False, [first])
    records = read_all("conceptual_captions", source)["train"]
    assert found(records) == [
        (image_id(0), ("caption 0",)),
        (f"conceptual_captions/{md5('train/00000/1')}", ("by text",)),
        (f"conceptual_captions/{md5('train/00000/2')}", ("none",)),
    ]


@pytest.mark.parametrize("as_tar", [False, True])
def test_what_img2dataset_made_of_no_caption(tmp_path: Path, read_all, as_tar: bool) -> None:
    """NaN, "nan" in the .txt, and bytes that are not UTF-8 are no captions; other files are counted."""
    first = sample("0.5", 0, {**about(0), "caption": float("nan")}, txt="nan") | sample("1", 1, about(1), npy="")
    first |= sample("2", 2, {"url": url(2)}, txt="caf\xe9".encode("cp1252"))
    source = write_samples(tmp_path / "source", as_tar, [first | sample("3.5", 3, about(1, "again"))])
    assert found(read_all("conceptual_captions", source)["train"]) == [(image_id(1), ("caption 1", "again"))]
    skipped = read_summary(tmp_path / "data" / "conceptual_captions" / "1.0.0")["skipped"]["train"]
    assert skipped["texts"] == {"NaN instead of a text": 1, "text is not UTF-8": 1}
    assert skipped["images"] == {"no text": 2}
    assert skipped["unused"] == {".npy": 1}
    assert [line.rpartition("/")[2].rpartition(":")[0].rpartition(":")[2] for line in skipped["listed_texts"]] == [
        "0.5.jpg",
        "2.jpg",
    ]


def test_a_placeholder_of_dead_links(tmp_path: Path, read_all) -> None:
    source = write_list(tmp_path / "source" / TRAIN, *numbered(12))
    for i in range(12):
        write_image(source / "train" / f"{i}.jpg", seed=i if i < 3 else 99)
    records = read_all("conceptual_captions", source, max_identical=2)["train"]
    assert [record.image_id for record in records] == [image_id(i) for i in range(5)]
    skipped = read_summary(tmp_path / "data" / "conceptual_captions" / "1.0.0")["skipped"]["train"]
    assert skipped["images"] == {"same bytes as 2 earlier images": 7}
    assert (skipped["identical"], skipped["identical_place"]) == (8, f"{source}/train/4.jpg")


@pytest.mark.parametrize(("encoding", "line"), [("cp1252", 2), ("utf-16", 1)])
def test_a_list_that_is_not_utf_8(tmp_path: Path, read_all, encoding: str, line: int) -> None:
    source = tmp_path / "source"
    write_image(source / "train" / "0.jpg")
    (source / TRAIN).write_bytes(f"a\t{url(0)}\nGr\u00f6\u00dfe\t{url(1)}\n".encode(encoding))
    with pytest.raises(DataError, match=f"training.tsv, line {line}: not UTF-8 .*; save the file as UTF-8"):
        read_all("conceptual_captions", source)


def test_img2dataset_in_one_folder_for_two_lists(tmp_path: Path, read_all) -> None:
    source = write_list(tmp_path / "source" / TRAIN, *numbered(3))
    write_list(source / VALIDATION, *numbered(3))
    img2dataset(source / "images", True)
    with pytest.raises(
        DataError, match=r"images holds what img2dataset wrote, which does not tell the splits apart; mo"
    ):
        read_all("conceptual_captions", source)


def test_text_that_is_too_large(tmp_path: Path, read_all) -> None:
    source = write_samples(tmp_path / "source", True, [sample("0", 0, about(0), txt="x" * (1 << 20) + "y")])
    assert found(read_all("conceptual_captions", source)["train"]) == [(image_id(0), ("caption 0",))]


def test_only_failures(tmp_path: Path, read_all) -> None:
    members = sample("0", 0, about(0, status="failed_to_download"))
    source = write_samples(tmp_path / "source", True, [members])
    with pytest.raises(
        DataError, match=r"source holds no image of conceptual_captions; it should hold img2dataset's ta"
    ):
        read_all("conceptual_captions", source)


def test_cut_tar_file(tmp_path: Path, read_all) -> None:
    folder = img2dataset(tmp_path / "source" / "train", True)
    path = folder / "00001.tar"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match=r"00001.tar is not a whole tar file .*; download it again"):
        read_all("conceptual_captions", tmp_path / "source")
