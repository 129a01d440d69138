"""Writing tar files."""

import hashlib
import tarfile
from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import open_records
from data_pipelines.web_collection.image_reader import ImageReader
from data_pipelines.web_collection.samples import WebImage
from data_pipelines.web_collection.shards import shard_name, write_shard
from data_pipelines.web_collection.sources import Part, read_part
from tests.data_pipelines.web_collection.crawl import image_bytes, shard

IMAGES = [image_bytes(0), image_bytes(1, 44, 52, "JPEG")]
TEXTS = ["a dog  runs", "Größe \ud800 x"]


@pytest.fixture
def chosen(tmp_path: Path) -> list[WebImage]:
    shard(tmp_path / "crawl" / "0.tar", *[(encoded, {}) for encoded in IMAGES])
    return [
        WebImage(
            hashlib.sha256(encoded).hexdigest(), found.location, kind, height, width, 0, (text,), "en", "http://p", 0.75
        )
        for encoded, found, kind, height, width, text in zip(
            IMAGES,
            read_part(tmp_path / "crawl", Part("0.tar")),
            ("PNG", "JPEG"),
            (40, 44),
            (48, 52),
            TEXTS,
            strict=True,
        )
    ]


def test_image_text_reads_them(tmp_path: Path, chosen: list[WebImage]) -> None:
    (tmp_path / "out" / "train").mkdir(parents=True)
    path = tmp_path / "out" / "train" / shard_name("train", 3, 12)
    assert path.name == "train-00003-of-00012.tar"
    write_shard(path, list(enumerate(chosen, 7)), ImageReader(tmp_path / "crawl", None))
    (tmp_path / "out" / "funnel.json").write_text("{}")
    prepare("image_text", tmp_path / "data", tmp_path / "out", num_threads=1)
    records = open_records(tmp_path / "data", "image_text", "train")
    assert [record.image for record in records] == IMAGES
    assert [record.image_id for record in records] == [f"image_text/{image.sha256}" for image in chosen]
    assert [record.texts for record in records] == [("a dog runs",), ("Größe ? x",)]


def test_bytes_depend_on_the_images_alone(tmp_path: Path, chosen: list[WebImage]) -> None:
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, list(enumerate(chosen, 7)), ImageReader(tmp_path / "crawl", None))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == ["000000007.png", "000000007.json", "000000008.jpg", "000000008.json"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}


def test_an_image_that_changed(tmp_path: Path, chosen: list[WebImage]) -> None:
    shard(tmp_path / "crawl" / "0.tar", *[(encoded, {}) for encoded in (image_bytes(5), IMAGES[1])])
    with pytest.raises(
        DataError, match=r"0.tar:0 changed while it was collected; leave the source alone and run again"
    ):
        write_shard(tmp_path / "a.tar", list(enumerate(chosen)), ImageReader(tmp_path / "crawl", None))
    assert not (tmp_path / "a.tar").exists() and not list(tmp_path.glob(".a.tar*"))
