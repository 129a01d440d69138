"""Data in a bucket, on a real server: prepared there, interrupted there, read from there."""

import json
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from etils import epath

from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.progress import Progress
from data_pipelines.regions import open_source
from data_pipelines.storage import destination, paths
from data_pipelines.storage.atomic_files import open_atomically, write_atomically
from data_pipelines.storage.paths import as_path, files_below
from data_pipelines.storage.records import open_records
from data_pipelines.text.answers import read_vocabulary_list
from data_pipelines.text.tokenizer import read_vocabulary
from data_pipelines.text.tokenizer_files import split_vocabulary
from tests.bucket_fixtures import copy_to, forget, gs_bucket, s3_bucket
from tests.data_pipelines import parquet_sets

SHAPES = {"num_train": 40, "num_validation": 5, "num_test": 0}


@pytest.fixture(scope="module")
def gs():
    with gs_bucket() as bucket:
        yield bucket


@pytest.fixture
def bucket(gs, request, tmp_path, monkeypatch):
    """A folder of the test's own in gs://; temporary files are in tmp_path/scratch."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"{gs}/{request.node.name.partition('[')[0]}"


def names(folder) -> list[str]:
    """Names of all files in a folder and below it."""
    return [str(path).removeprefix(f"{folder}/") for path in files_below(as_path(folder))]


def test_an_object_is_whole_or_not_there(bucket):
    path = epath.Path(bucket) / "a.txt"
    write_atomically(path, "é")
    assert path.read_bytes() == "é".encode()
    with pytest.raises(RuntimeError), open_atomically(path.parent / "b") as file:
        file.write(b"half")
        raise RuntimeError
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(destination.upload.__globals__["backend"].fsspec_backend, "fs", _interrupt)
        write_atomically(path, "other")
    assert path.read_bytes() == "é".encode() and names(bucket) == ["a.txt"]


def _interrupt(path):
    raise KeyboardInterrupt


@pytest.mark.parametrize("num_shards", [None, 3])
def test_data_is_prepared_in_a_bucket(bucket, tmp_path, monkeypatch, num_shards, capfd):
    """The same files as on a disk, with one of them in the scratch folder at a time."""
    data_dir, held = f"{bucket}/{num_shards}", []
    put = destination.ToBucket.put

    def counted(self, file):
        held.append(len([*file.parent.iterdir()]))
        put(self, file)

    monkeypatch.setattr(destination.ToBucket, "put", counted)
    there = prepare("shapes", data_dir, options=SHAPES, num_shards=num_shards, progress=Progress())
    here = prepare("shapes", tmp_path / "data", options=SHAPES, num_shards=num_shards)
    assert str(there) == f"{data_dir}/shapes/{here.name}" and names(there) == names(here)
    for name in names(here):
        if name.startswith(("shapes-", "index", "texts")):
            assert (there / name).read_bytes() == (here / name).read_bytes()
    assert max(held) == (1 if num_shards is None else 2) and not [*(tmp_path / "scratch").iterdir()]
    printed = capfd.readouterr().err
    assert "takes each file before it is uploaded: up to 512 MiB" in printed and "uploaded train-00000" in printed
    records, local = open_records(data_dir, "shapes", "train"), open_records(tmp_path / "data", "shapes", "train")
    assert records[5] == local[5] and list(records.texts()) == list(local.texts())
    assert f"in {there}," in repr(records)
    assert prepare("shapes", data_dir, options=SHAPES) == there  # finished: nothing is written again


@pytest.mark.parametrize("killed", [False, True])
def test_an_interrupted_run_leaves_nothing_that_looks_finished(bucket, monkeypatch, killed):
    bucket = f"{bucket}/{killed}"

    def fail_at_the_second(source, target, sent, calls=[]):  # noqa: B006
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        paths.backend.fsspec_backend.fs(target).put_file(str(source), str(target))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(destination, "upload", fail_at_the_second)
        if killed:  # nobody tidies up
            patch.setattr(type(epath.Path(bucket)), "rmtree", lambda self, missing_ok=False: None)
        prepare("shapes", bucket, options=SHAPES)
    forget()
    assert bool(names(bucket)) == killed
    with pytest.raises(DataError, match="unfinished" if killed else "No prepared data set"):
        open_records(bucket, "shapes", "train")
    folder = prepare("shapes", bucket, options=SHAPES)
    assert len(open_records(bucket, "shapes", "train")) == 40 and not [n for n in names(folder) if ".part" in n]


def test_an_index_that_is_missing_is_written_from_the_bucket(bucket):
    folder = prepare("shapes", bucket, options=SHAPES)
    index = (folder / "index.json").read_text()
    (folder / "index.json").unlink()
    assert prepare("shapes", bucket, options=SHAPES) == folder and (folder / "index.json").read_text() == index


@pytest.mark.parametrize(
    ("data_dir", "options", "message"),
    [
        ("gs://nobucket/data", {}, "gs://nobucket cannot be reached .there is no such bucket.; check its name"),
        ("ftp://host/data", {}, "only gs://, s3://, az://, hf:// and paths of a file system"),
        ("hf://user/data", {}, "hf:// is only read here"),
        ("gs://bucket/data", {"beam_runner": "direct"}, "on Beam, workers exchange files there; mount that bucket"),
    ],
)
def test_what_prepare_refuses(gs, data_dir, options, message):
    with pytest.raises(DataError, match=message):
        prepare("shapes", data_dir, **options)


@pytest.mark.parametrize(("scheme", "extra"), [("gs", "gcs"), ("s3", "s3")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, scheme, extra):
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=rf"needs the package .*fs; install it with: pip install .*\[{extra}\]"):
        as_path(f"{scheme}://bucket/a")


def test_vocabularies_and_answers(bucket, tmp_path):
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "##s")
    text = "\n".join(words) + "\n"
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "vocab.txt").write_text(text)
    copy_to(f"{bucket}/plain", tmp_path / "plain")
    assert read_vocabulary(f"{bucket}/plain/vocab.txt") == read_vocabulary(f"{bucket}/plain", True) == words
    assert split_vocabulary(text) == words
    from transformers import BertTokenizerFast

    BertTokenizerFast(str(tmp_path / "plain" / "vocab.txt")).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "vocab.txt").unlink(missing_ok=True)
    copy_to(f"{bucket}/saved", tmp_path / "saved")
    assert read_vocabulary(f"{bucket}/saved") == read_vocabulary(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"gs://.*/none/vocab.txt: no such file; set data.vocabulary"):
        read_vocabulary(f"{bucket}/none/vocab.txt")
    write_atomically(epath.Path(bucket) / "answers.json", "\ufeff" + json.dumps(["red", "blue"]))
    assert read_vocabulary_list(f"{bucket}/answers.json").answers == ("red", "blue")
    with pytest.raises(DataError, match=r"gs://.*/none.txt cannot be read .not found"):
        read_vocabulary_list(f"{bucket}/none.txt")


def own_images(folder: Path) -> dict[str, bytes]:
    """Three images and a list of them in a folder."""
    images = {}
    for i in range(3):
        pixels_HxWx3 = np.random.default_rng(i).integers(0, 256, (8, 9 + i, 3), np.uint8)
        images[f"{i}.png"] = cv2.imencode(".png", pixels_HxWx3)[1].tobytes()
    folder.mkdir()
    for name, content in images.items():
        (folder / name).write_bytes(content)
    lines = [json.dumps({"image": name, "texts": [f"image {name}"]}) for name in images]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return images


def test_sources_in_a_bucket(bucket, tmp_path):
    """Lists beside image files, tar files and Parquet files give the records that they give on a disk."""
    own_images(tmp_path / "list")
    (tmp_path / "tar").mkdir()
    with tarfile.open(tmp_path / "tar" / "0.tar", "w") as tar:
        for i in range(3):
            (tmp_path / f"{i}.txt").write_text(f"text {i}")
            tar.add(tmp_path / "list" / f"{i}.png", f"{i}.png")
            tar.add(tmp_path / f"{i}.txt", f"{i}.txt")
    rows = [{"image": (tmp_path / "list" / f"{i}.png").read_bytes(), "text": f"text {i}"} for i in range(3)]
    parquet_sets.write(tmp_path / "parquet" / "train.parquet", rows)
    for kind in ("list", "tar", "parquet"):
        source = copy_to(f"{bucket}/{kind}", tmp_path / kind)
        prepare("image_text", tmp_path / f"of_{kind}", source)
        prepare("image_text", tmp_path / f"here_{kind}", tmp_path / kind)
        there, here = (open_records(tmp_path / f"{of}_{kind}", "image_text", "train") for of in ("of", "here"))
        assert len(there) == 3 and [*there] == [*here]


def test_regions_in_a_bucket(bucket, tmp_path):
    (tmp_path / "regions" / "a").mkdir(parents=True)
    np.savez(tmp_path / "regions" / "a" / "1.npz", boxes=np.ones((2, 4)), features=np.ones((2, 3), np.float32))
    source = open_source(as_path(copy_to(f"{bucket}/regions", tmp_path / "regions")))
    assert [*source.ids()] == ["a/1"] and source.location(0) == f"{bucket}/regions/a/1.npz"
    here = open_source(tmp_path / "regions")
    assert [*here.ids()] == ["a/1"]
    np.testing.assert_array_equal(source.read(0).boxes, here.read(0).boxes)


def test_data_is_read_and_prepared_in_s3(tmp_path, monkeypatch, shapes_dir):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with s3_bucket() as bucket:
        copy_to(f"{bucket}/copied", shapes_dir)
        index = files_below(shapes_dir, "index.json")[0].relative_to(shapes_dir)
        part = paths.read_range(as_path(f"{bucket}/copied/{index}"), 3, 40)
        assert part == (shapes_dir / index).read_bytes()[3:43]
        prepare("shapes", f"{bucket}/prepared", options=SHAPES, num_shards=2)
        here = open_records(shapes_dir, "shapes", "train")
        for folder in ("copied", "prepared"):
            there = open_records(f"{bucket}/{folder}", "shapes", "train")
            assert there.index.fingerprint == here.index.fingerprint and there[7] == here[7]
