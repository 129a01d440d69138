"""Records with and without labels and second images on disk."""

import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.errors import DataError
from data_pipelines.storage import index_writer
from data_pipelines.storage.index_writer import write_index
from data_pipelines.storage.records import RecordImage, RecordTexts, open_records, parse

# Fingerprint of `plain` below from before records could have labels and second images.
FINGERPRINT = "4fd816a8577685362ef9a63702ecbfcc"
SECOND = {"second_image": [b"right"], "second_height": [5], "second_width": [6]}


def serialize(**fields: list) -> bytes:
    example = tf_example_pb2.Example()
    for name, values in fields.items():
        feature = example.features.feature[name]
        (feature.int64_list if isinstance(values[0], int) else feature.bytes_list).value.extend(values)
    return example.SerializeToString()


def plain(i: int, **more: list) -> bytes:
    fields = {"image": [b"image %d" % i], "height": [10 + i], "width": [20], "image_id": [b"x/%d" % i]}
    return serialize(**fields, texts=["a Größe".encode()] * (i + 1), **more)


def write(data_dir: Path, *serialized: bytes) -> Path:
    """A prepared data set x with a split train."""
    folder = data_dir / "x" / "1.0.0"
    folder.mkdir(parents=True)
    writer = ArrayRecordWriter(str(folder / "shard"), "group_size:1,uncompressed")
    for content in serialized:
        writer.write(content)
    writer.close()
    write_index(folder, {"train": [("shard", len(serialized))]}, {"name": "x"})
    return folder


def test_records_without_the_optional_fields(tmp_path: Path) -> None:
    folder = write(tmp_path, *map(plain, range(3)))
    records = open_records(tmp_path, "x", "train")
    assert records.index.fingerprint == FINGERPRINT
    assert records.index.second_heights is records.index.second_widths is None
    assert records[1].labels == ()
    assert records[1].second is None
    assert records[1].texts == ("a Größe", "a Größe")
    with np.load(folder / "index-train.npz") as arrays:
        assert sorted(arrays) == ["heights", "num_texts", "widths"]


def test_records_with_them(tmp_path: Path) -> None:
    write(tmp_path, plain(0, labels=[b'{"label": true}'], **SECOND))
    records = open_records(tmp_path, "x", "train")
    assert records[0].labels == ('{"label": true}',)
    assert records[0].second == RecordImage(b"right", 5, 6)
    assert records.index.second_heights.tolist() == [5]
    assert records.index.second_widths.tolist() == [6]


def test_texts_beside_the_index(tmp_path: Path, monkeypatch) -> None:
    """One line per record for any text; labels are unchanged; the bytes are always the same."""
    hard = ['"quoted" \\ Größe \u2028 \x85 \x1c 犬', "", "a\nb\r"]
    labels = [b'{"x":1}', b'{ "x" : "\xc3\xb6" }', b'{"x": "\\u00f6\\n"}']
    contents = [plain(0), plain(1), plain(2, labels=labels, **SECOND)]
    last = tf_example_pb2.Example.FromString(contents[2])
    last.features.feature["texts"].bytes_list.value[:] = [text.encode() for text in hard]
    folder = write(tmp_path / "single", *contents[:2])
    assert list(open_records(tmp_path / "single", "x", "train").texts()) == [
        RecordTexts("x/0", ("a Größe",), ()),
        RecordTexts("x/1", ("a Größe", "a Größe"), ()),
    ]
    packed = (folder / "texts-train.jsonl.gz").read_bytes()
    assert gzip.decompress(packed).count(b"\n") == 2
    assert (packed[3], packed[4:8]) == (0, bytes(4))  # no file name and no time
    write(tmp_path / "pair", last.SerializeToString())
    records = open_records(tmp_path / "pair", "x", "train")
    parsed, loads = [], json.loads
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(loads(text)) or parsed[-1])
    (found,) = records.texts()
    assert found == RecordTexts("x/2", tuple(hard), tuple(label.decode() for label in labels))
    assert list(found.parsed) == parsed[1:] == [{"x": 1}, {"x": "ö"}, {"x": "ö\n"}]  # once, after the line
    assert list(records.texts()) == [RecordTexts(r.image_id, r.texts, r.labels) for r in records]


def test_texts_take_little_memory(tmp_path: Path, monkeypatch) -> None:
    """6 MB of texts in 60 records are written and read with only a few of them in memory."""
    monkeypatch.setattr(index_writer, "_CHUNK_BYTES", 1)
    text = json.dumps(np.random.default_rng(0).integers(10**9, size=10_000).tolist()).encode()[:100_000]
    fields = {"image": [b""], "height": [1], "width": [1], "image_id": [b"x"]}
    folder = write(tmp_path, *(serialize(**fields, texts=[b"%d" % i, text]) for i in range(60)))
    tracemalloc.start()
    try:
        write_index(folder, {"train": [("shard", 60)]}, {"name": "x"})
        writing = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert sum(len(record.texts[1]) for record in open_records(tmp_path, "x", "train").texts()) == 6_000_000
        reading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(writing, reading) < 2.5e6


@pytest.mark.parametrize("before", [False, True])
def test_texts_are_whole_or_not_there(tmp_path: Path, before: bool) -> None:
    """After an interruption between records, no new file has the name, and an old file stays."""
    folder = write(tmp_path, *map(plain, range(3)))
    path = folder / "texts-train.jsonl.gz"
    if not before:
        path.unlink()
    kept = {file: file.read_bytes() for file in folder.iterdir()}
    (folder / ".texts-train.jsonl.gz.killed").write_bytes(b"of a writer that had no time to clean up")
    seen = []

    def stop() -> None:
        seen.append([file.name for file in folder.glob(".*")])
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_index(folder, {"train": [("shard", 3)]}, {"name": "x"}, stop)
    assert len(seen[0]) == 1 and "killed" not in seen[0][0]
    assert {file: file.read_bytes() for file in folder.iterdir()} == kept


def test_each_field_changes_the_fingerprint(tmp_path: Path) -> None:
    contents = [
        {},
        {"labels": [b"{}"]},
        {"labels": [b"[]"]},
        SECOND,
        {**SECOND, "second_image": [b"other"]},
        {**SECOND, "second_width": [7]},
        {"labels": [b"{}"], **SECOND},
    ]
    fingerprints = set()
    for i, more in enumerate(contents):
        write(tmp_path / str(i), plain(0, **more))
        fingerprints.add(open_records(tmp_path / str(i), "x", "train").index.fingerprint)
    assert len(fingerprints) == len(contents)


def test_labels_that_do_not_fit_the_texts() -> None:
    with pytest.raises(ValueError, match="not a record"):
        parse(plain(1, labels=[b"{}"]))


def test_pairs_among_single_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 1 pairs among 2 records of a split; remove it and prepare"):
        write(tmp_path, plain(0), plain(1, **SECOND))


@pytest.mark.parametrize("damage", ["one array", "another length"])
def test_damaged_index_of_pairs(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path, plain(0, **SECOND)) / "index-train.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    if damage == "one array":
        del arrays["second_widths"]
    else:
        arrays["second_widths"] = np.zeros(3, np.int32)
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=r"index-train.npz (is missing or damaged|does not hold 1 entries)"):
        open_records(tmp_path, "x", "train")
