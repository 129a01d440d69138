"""Random access to prepared records, in this process and in others."""

import concurrent.futures
import gzip
import json
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.datasets import shapes_scene
from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import Records, RecordTexts, open_records, parse


@pytest.fixture
def copy(shapes_dir: Path, tmp_path: Path) -> Path:
    """A copy of the prepared data that a test may damage; its version folder."""
    shutil.copytree(shapes_dir, tmp_path / "data")
    return tmp_path / "data" / "shapes" / "1.1.0"


def test_records_come_back_in_order(shapes_dir: Path) -> None:
    records = open_records(shapes_dir, "shapes", "train")
    assert len(records) == 40
    for i in (0, 39, 7):
        record = records[i]
        assert record.image_id == f"shapes/0/train/{i}"
        assert record.texts == shapes_scene.captions(shapes_scene.scene(0, "train", i))
        assert record.image.startswith(b"\x89PNG")
        assert (record.height, record.width) == (48, 48)
    assert [record.image_id for record in records] == [f"shapes/0/train/{i}" for i in range(40)]


def test_index(shapes_dir: Path) -> None:
    index = open_records(shapes_dir, "shapes", "train").index
    for array, value in ((index.heights, 48), (index.widths, 48), (index.num_texts, 4)):
        assert array.dtype == np.int32
        assert array.tolist() == [value] * 40
    assert len(index) == 40
    validation = open_records(shapes_dir, "shapes", "validation").index
    assert len(index.fingerprint) == 32
    assert index.fingerprint != validation.fingerprint


@pytest.mark.parametrize("i", [-1, 40, 10**12])
def test_outside_of_the_range(shapes_dir: Path, i: int) -> None:
    with pytest.raises(IndexError):
        open_records(shapes_dir, "shapes", "train")[i]


def test_pickling_takes_no_open_files_along(shapes_dir: Path) -> None:
    records = open_records(shapes_dir, "shapes", "train")
    first = records[0]
    again = pickle.loads(pickle.dumps(records))
    assert again[0] == first
    assert (again.index.heights == records.index.heights).all()
    assert next(again.texts()).image_id == first.image_id
    assert len(pickle.dumps(records)) < 2000


def _first_text(records: Records, i: int) -> str:
    return records[i].texts[0]


def test_works_in_a_spawned_process(shapes_dir: Path) -> None:
    records = open_records(shapes_dir, "shapes", "train")
    expected = records[3].texts[0]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(_first_text, records, 3).result(timeout=300) == expected


def test_works_in_threads(shapes_dir: Path) -> None:
    records = open_records(shapes_dir, "shapes", "train")
    order = np.random.default_rng(0).integers(0, 40, 200).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ids = [record.image_id for record in pool.map(records.__getitem__, order)]
    assert ids == [f"shapes/0/train/{i}" for i in order]


def test_data_set_that_is_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        open_records(tmp_path, "flickr8k", "train")
    assert str(error.value) == (
        f"No prepared data set 'flickr8k' in {tmp_path}: run `python -m data_pipelines.prepare "
        f"flickr8k --data_dir={tmp_path}`, with its --source_dir."
    )


def test_unknown_split(shapes_dir: Path) -> None:
    with pytest.raises(DataError, match="no split 'dev'; it has train, validation"):
        open_records(shapes_dir, "shapes", "dev")


def test_unfinished(copy: Path) -> None:
    (copy / "index.json").unlink()
    with pytest.raises(DataError, match=r"is unfinished: run `python -m data_pipelines.prepare sh"):
        open_records(copy.parents[1], "shapes", "train")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("index.json", b"{", "is damaged; delete .*index.json and run `prepare` again"),
        ("index.json", b"[]", "is damaged; delete"),
        ("index.json", b'{"format": 2}', "is damaged; delete"),
        ("index.json", b'{"format": 7, "splits": {}}', "has format 7, not 2; delete"),
        ("index.json", b'{"format": "1", "splits": {}}', "has format 1, not 2; delete"),
        ("index-train.npz", b"", "is missing or damaged; delete"),
        ("index-train.npz", b"PK\x03\x04 cut", "is missing or damaged; delete"),
        ("index-train.npz", None, "is missing or damaged; delete"),
        ("texts-train.jsonl.gz", None, "texts-train.jsonl.gz is missing; delete .*index.json and run `prepare` again"),
    ],
)
def test_damaged_index(copy: Path, file: str, content: bytes | None, message: str) -> None:
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_records(copy.parents[1], "shapes", "train")
    # The remedy in the message works.
    (copy / "index.json").unlink(missing_ok=True)
    prepare("shapes", copy.parents[1])
    assert len(open_records(copy.parents[1], "shapes", "train")) == 40


def test_index_of_another_length(copy: Path) -> None:
    zeros = np.zeros(3, np.int32)
    np.savez(copy / "index-train.npz", heights=zeros, widths=zeros, num_texts=zeros)
    with pytest.raises(DataError, match="does not hold 40 entries"):
        open_records(copy.parents[1], "shapes", "train")


def test_pickled_objects_in_an_index_are_refused(copy: Path) -> None:
    objects = np.array([{}] * 40)
    np.savez(copy / "index-train.npz", heights=objects, widths=objects, num_texts=objects)
    with pytest.raises(DataError, match="is missing or damaged"):
        open_records(copy.parents[1], "shapes", "train")


def test_texts_are_those_of_the_records(shapes_dir: Path, monkeypatch) -> None:
    """In order, any number of times, and without reading a record."""
    records = open_records(shapes_dir, "shapes", "train")
    expected = [RecordTexts(record.image_id, record.texts, record.labels) for record in records]
    monkeypatch.setattr(Records, "_files", lambda _: pytest.fail("read the records"))
    first, second = records.texts(), records.texts()
    assert [next(first), next(first), next(second)] == [expected[0], expected[1], expected[0]]
    assert list(first) == expected[2:]
    assert list(records.texts()) == expected


def first_line(**changes: object) -> bytes:
    """The first line of the texts, or one with other fields."""
    scene = shapes_scene.scene(0, "train", 0)
    fields = {"image_id": "shapes/0/train/0", "texts": shapes_scene.captions(scene), "labels": []}
    return json.dumps(list({**fields, **changes}.values())).encode() + b"\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda packed: packed[:-1], "is missing or damaged; delete .*index.json and run `prepare` again"),
        (lambda packed: packed[: len(packed) // 2], "is missing or damaged"),
        (lambda packed: packed[:100] + bytes([packed[100] ^ 1]) + packed[101:], "is missing or damaged"),
        (lambda packed: packed[:-8] + b"\0" + packed[-7:], "is missing or damaged"),  # the checksum
        (lambda _: b"no gzip", "is missing or damaged"),
        (lambda _: b"", "has 0 lines for 40 records; delete .*index.json and run `prepare` again"),
        (lambda packed: packed + gzip.compress(first_line()), "has 41 lines for 40 records"),
        (lambda _: gzip.compress(first_line()), "has 1 lines for 40 records"),
        (lambda _: gzip.compress(first_line(texts=["a"] * 3)), "is missing or damaged"),
        (lambda _: gzip.compress(first_line()[:-9]), "is missing or damaged"),
        (lambda _: gzip.compress(b'{"image_id": 1}\n'), "is missing or damaged"),
        (lambda _: gzip.compress(b"null\n"), "is missing or damaged"),
        (lambda _: gzip.compress(first_line(labels=None)), "is missing or damaged"),
        (lambda _: gzip.compress(first_line(labels=["", "{}"])), "is missing or damaged"),
        (lambda _: gzip.compress(first_line(labels=["[]"])), "is missing or damaged"),
    ],
)
def test_damaged_texts(copy: Path, damage, message: str) -> None:
    path = copy / "texts-train.jsonl.gz"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    records = open_records(copy.parents[1], "shapes", "train")
    with pytest.raises(DataError, match=rf"texts-train\.jsonl\.gz {message}"):
        list(records.texts())
    # The remedy in the message works.
    (copy / "index.json").unlink()
    prepare("shapes", copy.parents[1])
    assert path.read_bytes() == whole


def test_texts_that_vanish_after_opening(copy: Path) -> None:
    records = open_records(copy.parents[1], "shapes", "train")
    (copy / "texts-train.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"texts-train\.jsonl\.gz is missing or damaged; delete"):
        next(records.texts())


def test_missing_record_file(copy: Path) -> None:
    next(copy.glob("shapes-train.array_record*")).unlink()
    with pytest.raises(DataError, match=r"shapes-train.array_record-00000-of-00001 is missing"):
        open_records(copy.parents[1], "shapes", "train")


@pytest.mark.parametrize("keep", [0, 100, 20_000])
def test_damaged_record_file(copy: Path, keep: int) -> None:
    path = next(copy.glob("shapes-train.array_record*"))
    path.write_bytes(path.read_bytes()[:keep])
    records = open_records(copy.parents[1], "shapes", "train")
    with pytest.raises(DataError, match=r"Record 39 .* cannot be read .* prepare the data set again"):
        records[39]


def test_newest_version_is_opened(copy: Path) -> None:
    newer = copy.parent / "1.1.10"
    shutil.copytree(copy, newer)
    shutil.copytree(copy, copy.parent / "1.1.9")
    summary = json.loads((newer / "index.json").read_text())
    summary["splits"]["train"]["fingerprint"] = "newer"
    (newer / "index.json").write_text(json.dumps(summary))
    records = open_records(copy.parents[1], "shapes", "train")
    assert records.index.fingerprint == "newer"


def test_parse_refuses_other_bytes() -> None:
    for serialized in (b"", b"junk", b"\x00" * 20):
        with pytest.raises(ValueError, match="not a record"):
            parse(serialized)
