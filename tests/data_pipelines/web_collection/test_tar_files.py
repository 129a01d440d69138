"""Tar files of crawls, including malicious names of members."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.images.files import BadImageError
from data_pipelines.web_collection import image_reader, tar_files
from data_pipelines.web_collection.image_reader import ImageReader
from data_pipelines.web_collection.samples import Location
from data_pipelines.web_collection.sources import Part, find_parts, read_part
from tests.data_pipelines.publishers import tar
from tests.data_pipelines.web_collection.crawl import image_bytes, shard


def test_fields_and_bytes(tmp_path: Path) -> None:
    images = [image_bytes(i) for i in range(3)]
    about = {"alt": "an alt", "title": "a title", "caption": "a caption", "texts": ["t1", 2, None], "language": "en"}
    shard(
        tmp_path / "sub" / "0.tar",
        (images[0], about | {"page": "http://p", "url": "http://u"}),
        (images[1], {"captions": ["c1", "c2"], "lang": "de", "url": "http://u"}),
        (images[2], {}),
    )
    folder, parts = find_parts(tmp_path)
    assert (folder, parts) == (tmp_path, [Part("sub/0.tar")])
    found = list(read_part(folder, parts[0]))
    assert [list(f.texts) for f in found] == [["an alt", "a title", "a caption", "t1", 2, None], ["c1", "c2"], []]
    assert [(f.language, f.page) for f in found] == [("en", "http://p"), ("de", "http://u"), (None, "")]
    assert [(f.location.file, f.location.number) for f in found] == [("sub/0.tar", i) for i in range(3)]
    reader = ImageReader(folder, None)
    for i in (2, 0, 1, 1):
        assert reader.read(found[i].location) == images[i]
    reader.close()


def test_members_that_are_no_part_of_a_sample(tmp_path: Path) -> None:
    good = image_bytes(1)
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as file:

        def add(name: str, content: bytes = good, **fields: object) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in fields.items():
                setattr(member, key, value)
            file.addfile(member, io.BytesIO(content))

        add("../0.png")
        add("a/../../1.png")
        add("/etc/2.png")
        add("3.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add("4.png", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")
        add("5.png", b"", type=tarfile.FIFOTYPE)
        add("6.png", b"", type=tarfile.DIRTYPE)
        add(".png")
        add("noimage.json", b'{"alt": "lost"}')
        add("noimage2.txt", b"lost")
        add("7.png", pax_headers={"comment": "x" * 5000})
        add("7.json", b"[1, 2]")
        add("8.JPG")
        add("8.png", b"second image of the sample")
        add("8.json", b"{" * 100_000)
        add("9.png")
        add("9.json", json.dumps({"alt": "x" * 2_000_000}).encode())
        add("9.txt", b"kept text")
        add("9.1.png")
        add("9.1.txt", b"kept \xff text")
        add("a/9.png")
        add("a/9.txt", b"one of a/9")
        add("a/9.json", b'{"texts": ["one of a/9", "two"], "language": ["en"], "page": 3}')
        add("b.png")
        add("b.txt", b"second")
        add("b.json", b'{"texts": "first"}')
    found = list(read_part(tmp_path, Part("0.tar")))
    assert [f.texts for f in found] == [[], [], ["kept text"], ["one of a/9", "two"], ["first", "second"]]
    assert [f.location.number for f in found] == list(range(5))
    reader = ImageReader(tmp_path, None)
    assert [reader.read(f.location) == good for f in found] == [True] * 5
    assert found[3].language == ["en"] and found[3].page == ""


def test_damage(tmp_path: Path) -> None:
    whole = shard(tmp_path / "0.tar", *[(image_bytes(i, 400, 400), {"alt": "x"}) for i in range(3)]).read_bytes()
    members = [found.location for found in read_part(tmp_path, Part("0.tar"))]
    second = members[1].start
    cuts = [second + 700, second, second - 512, second - 512 + 100, members[2].start + members[2].size + 2 * 512]
    garbled = whole[: second - 512] + b"x" * 512 + whole[second:]
    for content in [*(whole[:cut] for cut in cuts), garbled]:
        (tmp_path / "0.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"0.tar is not a whole tar file \(.*\); download it again or remove it"):
            list(read_part(tmp_path, Part("0.tar")))
    for content in (b"", b"<html>" * 1000):
        (tmp_path / "0.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"0.tar is not a whole tar file"):
            find_parts(tmp_path)


def test_large_members_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard(tmp_path / "0.tar", (image_bytes(1), {"alt": "x"}))
    (found,) = read_part(tmp_path, Part("0.tar"))
    monkeypatch.setattr(image_reader, "MAX_BYTES", found.location.size - 1)
    with pytest.raises(BadImageError, match="file over"):
        ImageReader(tmp_path, None).read(found.location)
    monkeypatch.setattr(tar_files, "_MAX_ABOUT_BYTES", 3)
    assert not next(read_part(tmp_path, Part("0.tar"))).texts


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    reader = ImageReader(tmp_path, tmp_path)
    for location, reason in (
        (Location("0.tar", 0, 0, 9), "cannot be read"),
        (Location("0.parquet", 0, 0, 0, "x"), "missing"),
    ):
        with pytest.raises(BadImageError, match=reason):
            reader.read(location)


def test_sources(tmp_path: Path) -> None:
    for name in ("b/1.tar", "a.tar", "b/0.tar", ".hidden/2.tar", ".c.tar"):
        tar(tmp_path / name, {})
    (tmp_path / "a.txt").touch()
    assert [part.file for part in find_parts(tmp_path)[1]] == ["a.tar", "b/0.tar", "b/1.tar"]
    assert find_parts(tmp_path / "b" / "1.tar") == (tmp_path / "b", [Part("1.tar")])
    assert [part.file for part in find_parts(tmp_path / ".hidden")[1]] == ["2.tar"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"No .tar or .parquet file with records in --source=.*empty; give the folder"):
        find_parts(tmp_path / "empty")
    for path in (tmp_path / "nothing", tmp_path / "a.txt"):
        with pytest.raises(DataError, match=r"is neither a folder nor a .tar or .parquet file"):
            find_parts(path)
