"""Users' own images: JSON lines and WebDataset tar files."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from data_pipelines.datasets import image_text
from data_pipelines.datasets.webdataset import read_shards
from data_pipelines.errors import DataError
from data_pipelines.preparing import prepare
from data_pipelines.records import open_records, read_summary
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
    """Each image is one candidate at the place of its first line; neighbours need no memory of their texts."""
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


def sample(key: str, seed: int, **members: str) -> dict[str, bytes | str]:
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
    assert [c.place for c in read_shards("train", [path])] == [f"{path}:good.jpg"]
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
        "2.txt": b"\xff\0two",
    }
    tar(tmp_path / "source" / "0.tar", members)
    folder = prepare("image_text", tmp_path / "data", tmp_path / "source", max_bad_share=0.5)
    skipped = read_summary(folder)["skipped"]["train"]
    assert skipped["bad"] == 1
    assert skipped["listed"][0].startswith(f"{tmp_path}/source/0.tar:1.jpg: ")
    assert open_records(tmp_path / "data", "image_text", "train")[0].texts == ("\ufffd two",)


def test_memory_does_not_grow_with_a_tar_file(tmp_path: Path) -> None:
    """Only a few samples are alive at once, whatever the size of the file."""
    import gc

    path = tar(tmp_path / "0.tar", {f"{i}.jpg": bytes(100_000) for i in range(50)})
    alive = []
    for candidate in read_shards("train", [path]):
        del candidate
        alive.append(sum(isinstance(o, tarfile.TarInfo) for o in gc.get_objects()))
    assert len(alive) == 50
    assert max(alive) <= 5
