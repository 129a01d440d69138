"""Writing a split: files by size, names at the end, and constant memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.preparation.run import prepare
from data_pipelines.storage import shards
from data_pipelines.storage.records import open_records
from tests.data_pipelines.publishers import encode


def test_equal_files() -> None:
    assert shards.cut_evenly(10, 3) == [3, 3, 4]
    assert shards.cut_evenly(3, 3) == [1, 1, 1]
    assert shards.cut_evenly(2, 5) == [1, 1]  # no file is empty
    assert shards.cut_evenly(7, 1) == [7]
    for number in range(1, 40):
        for files in range(1, 12):
            lengths = shards.cut_evenly(number, files)
            assert sum(lengths) == number and len(lengths) == min(files, number)
            assert max(lengths) - min(lengths) <= 1


def test_where_a_file_ends_by_size() -> None:
    rule = shards.SizeRule(100)
    sizes = [30, 69, 1, 100, 500, 0, 99, 1, 5]
    assert [rule.begins(size) for size in sizes] == [True, False, False, True, True, True, False, False, True]


@pytest.mark.parametrize("max_shard_bytes", [700, 4000, 1 << 20])
@pytest.mark.parametrize("num_shards", [1, 2, 3, 7, 50])
def test_number_of_files(tmp_path: Path, monkeypatch, max_shard_bytes: int, num_shards: int) -> None:
    """The files do not depend on the first division of the records, and no temporary file is left."""
    monkeypatch.setattr(shards.write_split, "__defaults__", (max_shard_bytes,))
    options = {"num_train": 20, "num_validation": 0, "num_test": 0}
    folder = prepare("shapes", tmp_path, options=options, num_shards=num_shards)
    number = min(num_shards, 20)
    names = [f"shapes-train.array_record-{i:05d}-of-{number:05d}" for i in range(number)]
    assert sorted(path.name for path in folder.iterdir() if "train.array" in path.name) == names
    assert not list(folder.glob("*part*"))
    records = open_records(tmp_path, "shapes", "train")
    assert [record.image_id for record in records] == [f"shapes/0/train/{i}" for i in range(20)]
    monkeypatch.setattr(shards.write_split, "__defaults__", (1500,))
    again = prepare("shapes", tmp_path / "again", options=options, num_shards=num_shards)
    assert [(folder / name).read_bytes() for name in names] == [(again / name).read_bytes() for name in names]


def test_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    """The order of the fields in a serialized example does not depend on the hash table of the process."""
    options = {"num_train": 3, "num_validation": 0, "num_test": 0, "regions": "drawn"}
    folder = prepare("shapes", tmp_path / "0", options=options)
    code = (
        "import ast, sys; from data_pipelines.preparation.run import prepare\n"
        "prepare('shapes', sys.argv[1], options=ast.literal_eval(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "1", repr(options)], check=True, timeout=300)
    other = tmp_path / "1" / "shapes" / folder.name
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


@pytest.mark.slow
def test_a_split_larger_than_the_memory_it_may_use(tmp_path: Path) -> None:
    """1.3 GiB of images: the writer of TFDS would need TensorFlow, and more than a GiB of memory."""

    padding = bytes(8 << 20)  # bytes after the end of a JPEG are legal
    source = tmp_path / "source"
    source.mkdir()
    lines = []
    for i in range(160):
        (source / f"{i}.jpg").write_bytes(encode(seed=i) + padding)
        lines.append(json.dumps({"image": f"{i}.jpg", "texts": [f"text {i}"]}))
    (source / "train.jsonl").write_text("\n".join(lines))
    code = (
        "import resource, sys; from data_pipelines.preparation.run import prepare\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "prepare('image_text', sys.argv[1], sys.argv[2], num_threads=2)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "data", source],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert float(done.stdout) < 400, done  # MiB
    records = open_records(tmp_path / "data", "image_text", "train")
    assert [records[i].image_id for i in (0, 80, 159)] == [f"image_text/{i}.jpg" for i in (0, 80, 159)]
    assert len(list((tmp_path / "data" / "image_text" / "1.1.0").glob("*.array_record-*"))) == 3


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shapes" / "notes").mkdir(parents=True)
    options = {"num_train": 2, "num_validation": 0, "num_test": 0}
    prepare("shapes", tmp_path, options=options)
    assert (tmp_path / "shapes" / "notes").exists()
    assert len(open_records(tmp_path, "shapes", "train")) == 2
