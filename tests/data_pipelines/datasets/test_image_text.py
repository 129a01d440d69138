"""Users' own images: JSON lines and WebDataset tar files."""

import collections
import io
import json
import tarfile
from pathlib import Path

import pytest

from data_pipelines.datasets import image_text
from data_pipelines.datasets.formats.webdataset import read_shards
from data_pipelines.errors import DataError
from data_pipelines.images.resize import ResizeRule
from data_pipelines.preparation.run import prepare
from data_pipelines.preparation.summary import describe
from data_pipelines.storage.records import open_records, read_summary
from tests.data_pipelines.publishers import encode, lines, tar, write_image


def test_json_lines(tmp_path: Path, read_all) -> None:
    source = tmp_path / "source"
    for i in range(4):
        write_image(source / "a" / f"{i}.jpg", seed=i)
    lines(
        source / "train.jsonl",
        {"image": "a/0.jpg", "texts": ["one", "two"]},
        "",
        {"image": "a/1.jpg", "texts": ["Größe"], "more": 3},
        {"image": "./a/../a/0.jpg", "texts": ["three"]},
    )
    lines(source / "my_test.jsonl", "\ufeff" + '{"image": "a/2.jpg", "texts": ["x"]}')
    splits = read_all("image_text", source)
    assert {s: [(r.image_id, r.texts) for r in records] for s, records in splits.items()} == {
        "train": [
            ("image_text/a/0.jpg", ("one", "two", "three")),
            ("image_text/a/1.jpg", ("Größe",)),
        ],
        "my_test": [("image_text/a/2.jpg", ("x",))],
    }


def test_lines_of_one_image_near_and_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image is one candidate at the position of its first line; neighbouring lines need no memory."""
    write_image(tmp_path / "a.jpg")
    order = "aabcbadcee"
    lines(tmp_path / "train.jsonl", *({"image": f"{x}.jpg", "texts": [f"{x}{i}"]} for i, x in enumerate(order)))
    held = []
    streamed = image_text._candidates
    monkeypatch.setattr(image_text, "_candidates", lambda *given: held.append(dict(given[2])) or streamed(*given))
    candidates = image_text.ImageText(data_dir=tmp_path / "data", source_dir=tmp_path).candidates()["train"]
    assert candidates.total == 5
    assert candidates.missing == [str(tmp_path / f"{x}.jpg") for x in "bcde"]
    assert sorted(held[0]) == ["a.jpg", "b.jpg", "c.jpg"]  # not d and e
    assert not isinstance(candidates.items, list)
    items = list(candidates.items)
    assert [(item.image_id, item.texts) for item in items] == [
        ("image_text/a.jpg", ["a0", "a1", "a5"]),
        ("image_text/b.jpg", ["b2", "b4"]),
        ("image_text/c.jpg", ["c3", "c7"]),
        ("image_text/d.jpg", ["d6"]),
        ("image_text/e.jpg", ["e8", "e9"]),
    ]
    assert [item.read is not None for item in items] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not a JSON object"),
        ("[]", "line 2: not a JSON object"),
        ('{"image": "a.jpg"}', "line 2: not a JSON object"),
        ('{"image": 3, "texts": []}', "line 2: image must be a path"),
        ('{"image": "", "texts": []}', "line 2: image must be a path"),
        ('{"image": "a.jpg", "texts": "x"}', "line 2: texts must be a list"),
        ('{"image": "../a.jpg", "texts": []}', "line 2: image '../a.jpg' is outside"),
        ('{"image": "b/../../a.jpg", "texts": []}', "is outside of the folder"),
        ('{"image": "/etc/a.jpg", "texts": []}', "image '/etc/a.jpg' is outside"),
        ('{"image": "a\\u0000.jpg", "texts": []}', "image must be a path"),
    ],
)
def test_bad_lines(tmp_path: Path, read_all, line: str, message: str) -> None:
    source = tmp_path / "source"
    write_image(source / "a.jpg")
    lines(source / "train.jsonl", {"image": "a.jpg", "texts": ["x"]}, line)
    with pytest.raises(DataError, match=f"train.jsonl, .*{message}"):
        read_all("image_text", source)
    assert not (tmp_path / "data").exists()


def test_layout(tmp_path: Path, read_all) -> None:
    with pytest.raises(DataError, match=r"has neither .jsonl nor .tar files; it should hold SPLIT"):
        read_all("image_text", tmp_path)
    tar(tmp_path / "0.tar", {})
    lines(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match=r"has both .jsonl and .tar files"):
        read_all("image_text", tmp_path)
    (tmp_path / "train.jsonl").unlink()
    tar(tmp_path / "train" / "0.tar", {})
    with pytest.raises(DataError, match="both directly and in train/; move them"):
        read_all("image_text", tmp_path)


@pytest.mark.parametrize("name", ["all", "0", "my-split", "a.b"])
def test_names_that_cannot_be_splits(tmp_path: Path, read_all, name: str) -> None:
    lines(tmp_path / f"{name}.jsonl", {"image": "a.jpg", "texts": ["x"]})
    with pytest.raises(DataError, match=f"{name!r} in .* cannot be the name of a split; rename it"):
        read_all("image_text", tmp_path)


def test_nothing_usable(tmp_path: Path, read_all) -> None:
    write_image(tmp_path / "source" / "a.jpg")
    lines(tmp_path / "source" / "train.jsonl", {"image": "a.jpg", "texts": []})
    with pytest.raises(DataError, match="No usable image with a text in split 'train'"):
        read_all("image_text", tmp_path / "source")
    lines(tmp_path / "source" / "train.jsonl", {"image": "b" * 999, "texts": ["a"]})
    with pytest.raises(DataError, match=r"1 of 1 images .* image file not found"):
        read_all("image_text", tmp_path / "source")


def sample(key: str, seed: int, **members: bytes | str) -> dict[str, bytes | str]:
    return {f"{key}.jpg": encode(seed=seed), **{f"{key}.{k}": v for k, v in members.items()}}


def test_webdataset(tmp_path: Path, read_all) -> None:
    source = tmp_path / "source"
    about = json.dumps({"caption": "not this", "sha256": "abc123"})
    tar(
        source / "train" / "00001.tar",
        sample("000010", 3, txt="later"),
    )
    tar(
        source / "train" / "00000.tar",
        {
            **sample("000000", 0, json=about, txt=" first\n"),
            **sample("000001", 1, json=json.dumps({"caption": "second", "sha256": None})),
            **sample("000002", 2, json="{", txt="third"),
            "000003.txt": "text without an image",
        },
    )
    tar(source / "val" / "0.tar", sample("x/1", 4, json=json.dumps({"texts": ["a", "b"]})))
    splits = read_all("image_text", source)
    assert {s: [(r.image_id, r.texts) for r in records] for s, records in splits.items()} == {
        "train": [
            ("image_text/abc123", ("first",)),
            ("image_text/train/00000/000001", ("second",)),
            ("image_text/train/00000/000002", ("third",)),
            ("image_text/train/00001/000010", ("later",)),
        ],
        "val": [("image_text/val/0/x/1", ("a", "b"))],
    }
    assert splits["train"][3].image == encode(seed=3)


def test_tar_files_without_folders_are_one_split(tmp_path: Path, read_all) -> None:
    tar(tmp_path / "source" / "0.tar", sample("1", 0, txt="one"))
    assert list(read_all("image_text", tmp_path / "source")) == ["train"]


def test_unsafe_members_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as file:
        for name, kind in [
            ("/etc/1.jpg", tarfile.REGTYPE),
            ("../2.jpg", tarfile.REGTYPE),
            ("a/../../3.jpg", tarfile.REGTYPE),
            ("4.jpg", tarfile.SYMTYPE),
            ("5.jpg", tarfile.DIRTYPE),
            ("6.jpg", tarfile.FIFOTYPE),
            (".jpg", tarfile.REGTYPE),
            ("good.jpg", tarfile.REGTYPE),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, content = kind, "/etc/passwd", encode()
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            file.addfile(member, io.BytesIO(content) if member.size else None)
    assert [c.location for c in read_shards("train", [path])] == [f"{path}:good.jpg"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [1000, -10_500])
def test_cut_tar_file(tmp_path: Path, read_all, keep: int) -> None:
    path = tar(tmp_path / "source" / "0.tar", sample("1", 0, txt="one") | sample("2", 1, txt="two"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"0.tar is not a whole tar file .*; download it again"):
        read_all("image_text", tmp_path / "source")


def test_not_a_tar_file(tmp_path: Path, read_all) -> None:
    (tmp_path / "0.tar").write_bytes(b"<html>" * 500)
    with pytest.raises(DataError, match=r"0.tar is not a whole tar file"):
        read_all("image_text", tmp_path)


def test_bad_member_is_counted(tmp_path: Path) -> None:
    members = {"1.jpg": encode()[:50], "1.txt": "one"} | {
        "2.jpg": encode(seed=1),
        "2.txt": b"\xc3\xbf\0two",
    }
    tar(tmp_path / "source" / "0.tar", members)
    folder = prepare("image_text", tmp_path / "data", tmp_path / "source", max_bad_share=0.5)
    skipped = read_summary(folder)["skipped"]["train"]
    assert skipped["bad"] == 1
    assert skipped["listed"][0].startswith(f"{tmp_path}/source/0.tar:1.jpg: ")
    assert open_records(tmp_path / "data", "image_text", "train")[0].texts == ("\xff two",)


def skipped_of(tmp_path: Path, split: str = "train") -> dict:
    return read_summary(tmp_path / "data" / "image_text" / "1.1.0")["skipped"][split]


def test_captions_that_are_none(tmp_path: Path, read_all) -> None:
    """NaN, "nan" as a string, numbers, and bytes that are not UTF-8 are skipped, counted and listed."""
    members = (
        sample("0", 0, txt="\ufeffGr\u00f6\u00dfe")
        | sample("1", 1, txt="nan", json='{"caption": NaN}')
        | sample("2", 2, txt="nan", json='{"caption": "nan"}')
        | sample("3", 3, json='{"caption": NaN}')
        | sample("4", 4, txt="Gr\u00f6\u00dfe".encode("cp1252"))
        | sample("5", 5, txt="Gr\u00f6\u00dfe".encode("utf-16"))
        | sample("6", 6, json='{"texts": [NaN, null, "six"]}')
        | sample("7", 7, json=b'{"caption": "caf\xe9"}')
        | sample("8", 8, txt="a dog".encode("utf-16-le"))
        | sample("9", 9, txt="\u0434\u043e\u043c".encode("utf-16-be"))
        | sample("10", 10, json='{"caption": 5}')
        | sample("11", 11, json='{"texts": [{"a": "b"}]}')
    )
    path = tar(tmp_path / "source" / "0.tar", members)
    records = read_all("image_text", tmp_path / "source")["train"]
    assert [record.texts for record in records] == [("Gr\u00f6\u00dfe",), ("nan",), ("six",)]
    skipped = skipped_of(tmp_path)
    assert skipped["texts"] == {
        "NaN instead of a text": 3,
        "text is not UTF-8": 4,
        "a number or another value instead of a text": 2,
        "damaged .json": 1,
    }
    assert skipped["empty_texts"] == 1
    assert skipped["images"] == {"no text": 9}
    assert skipped["listed_texts"][:3] == [
        f"{path}:1.jpg: NaN instead of a text",
        f"{path}:3.jpg: NaN instead of a text",
        f"{path}:4.jpg: text is not UTF-8",
    ]
    folder = tmp_path / "data" / "image_text" / "1.1.0"
    printed = describe(folder, read_summary(folder), ResizeRule(64, 128)).splitlines()
    counts = "3 NaN instead of a text, 4 text is not UTF-8, 1 damaged .json, 2 a number or another value instead of"
    assert f"texts skipped in train: {counts} a text" in printed
    assert printed[-1] == "  ... and 5 more"


def test_json_lines_that_are_not_utf_8(tmp_path: Path, read_all) -> None:
    (tmp_path / "train.jsonl").write_bytes('{"image": "a.jpg", "texts": ["Gr\u00f6\u00dfe"]}\n'.encode("cp1252"))
    with pytest.raises(DataError, match=r"train.jsonl, line 1: not UTF-8 \(.*\); save the file as UTF-8"):
        read_all("image_text", tmp_path)


def test_json_lines_with_nan(tmp_path: Path, read_all) -> None:
    write_image(tmp_path / "source" / "a.jpg")
    lines(tmp_path / "source" / "train.jsonl", '{"image": "a.jpg", "texts": [NaN, "a"]}')
    assert read_all("image_text", tmp_path / "source")["train"][0].texts == ("a",)
    assert skipped_of(tmp_path)["texts"] == {"NaN instead of a text": 1}


def test_names_with_several_full_stops(tmp_path: Path, read_all) -> None:
    """If a key has one image, it is the image of the sample; if it has several, each is a separate sample."""
    members = {
        "000.seg.png": encode(seed=90),
        "000.jpg": encode(seed=0),
        "000.txt": "plain",
        "007.input.png": encode(seed=1),
        "007.outputs.txt": "one image",
        "008.Input.JPG": encode(seed=2),
        "008.json": '{"caption": "one image, plain text"}',
        "22.01.png": encode(seed=3),
        "22.01.txt": "first",
        "22.02.png": encode(seed=4),
        "22.02.txt": "second",
        "23.a.png": encode(seed=5),
        "23.b.png": encode(seed=6),
        "23.txt": "whose?",
        "24.cls": "3",
        "24.mp3": b"",
        "._25.png": b"",
        "26": b"",
    }
    path = tar(tmp_path / "source" / "0.tar", members)
    records = read_all("image_text", tmp_path / "source")["train"]
    assert [(r.image_id.removeprefix("image_text/train/0/"), r.texts[0], r.image) for r in records] == [
        ("000", "plain", encode(seed=0)),
        ("007.input", "one image", encode(seed=1)),
        ("008.Input", "one image, plain text", encode(seed=2)),
        ("22.01", "first", encode(seed=3)),
        ("22.02", "second", encode(seed=4)),
    ]
    skipped = skipped_of(tmp_path)
    assert skipped["images"] == {"no text": 2}
    assert skipped["unused"] == {
        ".seg.png": 1,
        "samples without an image": 1,
        ".cls": 1,
        ".mp3": 1,
        "members whose names start with a full stop or have none": 2,
    }
    locations = [sample.location for sample in read_shards("train", [path])]
    assert locations[1:5] == [f"{path}:{name}" for name in ("007.input.png", "008.Input.JPG", "22.01.png", "22.02.png")]


def test_the_text_with_the_name_of_the_image(tmp_path: Path, read_all) -> None:
    """22.00 and 23.00 have no image: their texts are not those of the images after them."""
    members = {"22.00.txt": "of 22.00", "22.01.png": encode(seed=1), "22.01.txt": "of 22.01"}
    tar(tmp_path / "source" / "0.tar", members | {"23.00.txt": "of 23.00", "23.01.png": encode(seed=2)})
    records = read_all("image_text", tmp_path / "source")["train"]
    assert [(r.image_id, r.texts) for r in records] == [("image_text/train/0/22.01", ("of 22.01",))]
    assert skipped_of(tmp_path)["unused"] == {".txt": 2}
    assert skipped_of(tmp_path)["images"] == {"no text": 1}


def test_several_full_stops_in_any_order(tmp_path: Path, read_all) -> None:
    """Samples with the same key that are not consecutive are different samples, too."""
    names = ("a 1.5", "b 1.5", "a 1.7", "c.1", "c.2", "b 1.7")
    members: dict[str, bytes | str] = {}
    for seed, name in enumerate(names):
        members |= sample(name, seed, txt=f"of {name}")
    tar(tmp_path / "source" / "0.tar", members)
    records = read_all("image_text", tmp_path / "source")["train"]
    assert [(r.image_id, r.texts, r.image) for r in records] == [
        (f"image_text/train/0/{name}", (f"of {name}",), encode(seed=seed)) for seed, name in enumerate(names)
    ]


def test_kinds_of_members_that_are_not_used_are_bounded(tmp_path: Path) -> None:
    unused: collections.Counter[str] = collections.Counter()
    path = tar(tmp_path / "0.tar", {f"0.{i}.{chr(97 + i % 26)}{i}": b"" for i in range(300)})
    assert not list(read_shards("train", [path], unused))
    assert len(unused) <= 51 and unused.total() == 300 and unused["others"] == 250


def test_the_error_for_nothing_usable_names_what_was_found(tmp_path: Path, read_all) -> None:
    tar(tmp_path / "source" / "0.tar", {"1.json": '{"caption": "a"}', "2.mp3": b""})
    with pytest.raises(DataError) as error:
        read_all("image_text", tmp_path / "source")
    assert str(error.value) == (
        "No usable image with a text in split 'train', 0 images found: 1 samples without an image not used, 1 .mp3 not "
        "used; check the source files."
    )
    members = sample("1", 1, txt="") | sample("2", 2) | sample("3", 3, txt=b"\xe9")
    path = tar(tmp_path / "source" / "0.tar", members)
    with pytest.raises(DataError) as error:
        read_all("image_text", tmp_path / "source")
    assert str(error.value) == (
        f"No usable image with a text in split 'train', 3 images found: 3 no text (first: {path}:1.jpg), 1 text is not "
        "UTF-8, 1 empty texts; give at least one image a text in UTF-8."
    )


def test_identical_images(tmp_path: Path) -> None:
    """The first ten over all splits are kept; a flag gives another number, or all."""
    for split, count in (("train", 9), ("validation", 5)):
        entries = []
        for i in range(count):
            write_image(tmp_path / "source" / split / f"{i}.jpg", seed=0 if i != 3 else 7)
            entries.append({"image": f"{split}/{i}.jpg", "texts": [f"text {i}"]})
        lines(tmp_path / "source" / f"{split}.jsonl", *entries)
    found = {}
    for limit in (None, 3, 0):
        data = tmp_path / f"data{limit}"
        folder = prepare(
            "image_text", data, tmp_path / "source", options={} if limit is None else {"max_identical": limit}
        )
        summary = read_summary(folder)
        found[limit] = (
            [entry["images"] for entry in summary["splits"].values()],
            [skipped["identical"] for skipped in summary["skipped"].values()],
            summary["skipped"]["validation"]["images"],
        )
    assert found == {
        None: ([9, 3], [7, 5], {"same bytes as 10 earlier images": 2}),
        3: ([4, 1], [7, 5], {"same bytes as 3 earlier images": 4}),
        0: ([9, 5], [7, 5], {}),
    }
    printed = describe(folder, summary, ResizeRule(64, 128)).splitlines()
    location = tmp_path / "source" / "train" / "1.jpg"
    assert f"images of train that have the same bytes as an earlier one: 7 (first: {location})" in printed
    with pytest.raises(DataError, match=r"was prepared with --max_identical=3, not 10; remove that folder"):
        prepare("image_text", tmp_path / "data3", tmp_path / "source", options={"max_identical": 10})
    with pytest.raises(DataError, match="--max_identical=-1 is negative; give 0 to keep all images"):
        prepare("image_text", tmp_path / "other", tmp_path / "source", options={"max_identical": -1})


def test_data_set_of_a_release_without_an_option(tmp_path: Path) -> None:
    write_image(tmp_path / "source" / "a.jpg")
    lines(tmp_path / "source" / "train.jsonl", {"image": "a.jpg", "texts": ["a"]})
    index = prepare("image_text", tmp_path / "data", tmp_path / "source") / "index.json"
    summary = json.loads(index.read_text())
    del summary["options"]["max_identical"]
    index.write_text(json.dumps(summary))
    prepare("image_text", tmp_path / "data")
    with pytest.raises(DataError, match="was prepared by a release without --max_identical, not 10; remove that"):
        prepare("image_text", tmp_path / "data", options={"max_identical": 10})


def test_memory_does_not_grow_with_a_tar_file(tmp_path: Path) -> None:
    """Only a few samples are in memory at a time, for any size of the file."""
    import gc

    path = tar(tmp_path / "0.tar", {f"{i}.jpg": bytes(100_000) for i in range(50)})
    alive = []
    for candidate in read_shards("train", [path]):
        del candidate
        alive.append(sum(isinstance(o, tarfile.TarInfo) for o in gc.get_objects()))
    assert len(alive) == 50
    assert max(alive) <= 5
