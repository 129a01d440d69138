"""Preparing: atomic, only once, with the requested options, and without the network."""

import fcntl
import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from data_pipelines.datasets import shapes
from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.storage import shards
from data_pipelines.storage.records import find_folder, open_records, read_summary
from tests.data_pipelines.publishers import coco

SMALL = {"num_train": 6, "num_validation": 0, "num_test": 0}


def test_second_time_reads_nothing(tmp_path: Path, monkeypatch) -> None:
    source = coco(tmp_path / "coco")
    folder = prepare("coco_captions", tmp_path / "data", source)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    for path in source.glob("*/*"):
        path.unlink()
    assert prepare("coco_captions", tmp_path / "data", source) == folder
    assert prepare("coco_captions", tmp_path / "data") == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_folder_without_index_only_needs_the_index(tmp_path: Path, monkeypatch) -> None:
    folder = prepare("shapes", tmp_path, options=SMALL)
    expected = (folder / "index.json").read_bytes()
    (folder / "index.json").unlink()
    monkeypatch.setattr(shapes.Shapes, "download_and_prepare", lambda *a, **k: 1 / 0)
    prepare("shapes", tmp_path)
    assert (folder / "index.json").read_bytes() == expected


def test_index_of_an_earlier_release_is_written_anew(tmp_path: Path, monkeypatch) -> None:
    """Format 1 had no files of texts. The source is missing, and the records are not changed."""
    source = coco(tmp_path / "coco")
    folder = prepare("coco_captions", tmp_path / "data", source)
    expected = {path: path.read_bytes() for path in folder.iterdir()}
    made = {path: path.stat().st_mtime_ns for path in folder.glob("*array_record*")}
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "format": 1}))
    for path in folder.glob("texts-*"):
        path.unlink()
    with pytest.raises(DataError) as error:
        open_records(tmp_path / "data", "coco_captions", "train")
    assert str(error.value) == (
        f"{folder / 'index.json'} has format 1, not 2; run `prepare` again, which writes the index anew and keeps the "
        "records."
    )
    shutil.rmtree(source)
    assert prepare("coco_captions", tmp_path / "data") == folder
    assert {path: path.read_bytes() for path in folder.iterdir()} == expected
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_same_content_same_fingerprint_and_files(tmp_path: Path) -> None:
    for name, options in (("a", SMALL), ("b", SMALL), ("c", {**SMALL, "seed": 1})):
        prepare("shapes", tmp_path / name, options=options, num_threads=1 + (name == "b"))
    a, b, c = (open_records(tmp_path / name, "shapes", "train") for name in "abc")
    assert a.index.fingerprint == b.index.fingerprint != c.index.fingerprint
    assert list(a) == list(b)
    packed = [(tmp_path / name / "shapes" / "1.1.0" / "texts-train.jsonl.gz").read_bytes() for name in "abc"]
    assert packed[0] == packed[1] != packed[2]


def test_several_files_keep_the_order(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shards.write_split, "__defaults__", (3000,))
    folder = prepare("shapes", tmp_path, options={**SMALL, "num_train": 20})
    assert len(list(folder.glob("*.array_record-*"))) > 3
    assert not list(folder.glob("*.part"))
    records = open_records(tmp_path, "shapes", "train")
    assert [record.image_id for record in records] == [f"shapes/0/train/{i}" for i in range(20)]


def test_plain_tfds_reads_it(tmp_path: Path) -> None:
    folder = prepare("shapes", tmp_path, options=SMALL)
    source = tfds.builder_from_directory(folder).as_data_source("train")
    assert len(source) == 6
    assert source[5]["image"].shape == (48, 48, 3)
    assert source[5]["image_id"] == b"shapes/0/train/5"


def test_other_options_than_prepared(tmp_path: Path) -> None:
    folder = prepare("shapes", tmp_path, options=SMALL)
    assert prepare("shapes", tmp_path) == folder
    with pytest.raises(DataError) as error:
        prepare("shapes", tmp_path, options={**SMALL, "seed": 5})
    assert str(error.value) == (
        f"{folder} was prepared with --seed=0, not 5; remove that folder or give another --data_dir."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "shape"}, "No data set is called 'shape'; did you mean shapes?"),
        ({"name": "xyz"}, "there are coco_captions, visual_genome, flickr30k, flickr8k"),
        ({"options": {"year": "2014"}}, "shapes does not take --year; it takes --num_train"),
        ({"options": {"num_train": -1}}, "no scene to draw"),
        ({"options": dict.fromkeys(SMALL, 0)}, "give a positive --num_train"),
        ({"options": {"image_size": 5}}, "--image_size=5 is not between 16 and 4096"),
        ({"options": {"seed": -1}}, "--seed=-1 is negative"),
        ({"max_bad_share": 2}, "--max_bad_share=2 is not between 0 and 1"),
        ({"num_threads": 0}, "--num_threads=0 is not positive"),
        ({"name": "flickr8k"}, "flickr8k needs --source_dir, the folder of its files"),
        ({"name": "flickr8k", "source_dir": "/nowhere"}, "--source_dir=/nowhere is not a folder"),
        ({"data_dir": "/proc/nowhere"}, "Cannot write to /proc/nowhere.* another --data_dir"),
    ],
)
def test_arguments(tmp_path: Path, arguments: dict, message: str) -> None:
    data_dir = tmp_path / "data"
    with pytest.raises(DataError, match=message):
        prepare(**{"name": "shapes", "data_dir": data_dir, **arguments})
    assert not data_dir.exists()  # a wrong command writes nothing


def test_two_at_once(tmp_path: Path) -> None:
    (tmp_path / "shapes").mkdir()
    with (tmp_path / "shapes" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"Another run is preparing .*; wait for it"):
            prepare("shapes", tmp_path, options=SMALL)
    prepare("shapes", tmp_path, options=SMALL)


def test_damaged_folder(tmp_path: Path) -> None:
    (tmp_path / "shapes" / "1.1.0").mkdir(parents=True)
    with pytest.raises(DataError, match=r"1\.1\.0 is damaged .*; remove it and prepare"):
        prepare("shapes", tmp_path, options=SMALL)


@pytest.mark.parametrize("damage", ["cut", "one bit"])
def test_record_file_damaged_before_the_index_is_written(tmp_path: Path, damage: str) -> None:
    folder = prepare("shapes", tmp_path, options=SMALL)
    (folder / "index.json").unlink()
    path = next(folder.glob("*.array_record-*"))
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-100]
    else:
        content[content.index(b"IDAT") + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"array_record-00000-of-00001 .*; remove .*1\.1\.0"):
        prepare("shapes", tmp_path)
    assert read_summary(folder) is None


def test_full_disk(tmp_path: Path) -> None:
    """A limit on the file size simulates a full disk, in a separate process."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "from data_pipelines.errors import DataError;"
        "from data_pipelines.preparation.run import prepare\n"
        "try: prepare('shapes', sys.argv[1], options={'num_train': 100})\n"
        "except DataError as error: print(error)"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20000
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=300)
    assert "failed (" in done.stdout, done
    assert done.stdout.strip().endswith("free some space or give another --data_dir.")
    assert find_folder(tmp_path, "shapes") is None


def test_full_disk_while_the_index_is_written(tmp_path: Path) -> None:
    folder = prepare("shapes", tmp_path, options={**SMALL, "num_train": 100})
    (folder / "index.json").unlink()
    (folder / "texts-train.jsonl.gz").unlink()
    before = sorted(folder.iterdir())
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300));"
        "from data_pipelines.errors import DataError;"
        "from data_pipelines.preparation.run import prepare\n"
        "try: prepare('shapes', sys.argv[1])\n"
        "except DataError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith(f"The index of {folder} cannot be written ("), done
    assert done.stdout.strip().endswith("free some space there and run `prepare` again.")
    assert sorted(folder.iterdir()) == before
    prepare("shapes", tmp_path)
    assert len(list(open_records(tmp_path, "shapes", "train").texts())) == 100


def test_no_network_and_no_tensorflow_and_no_jax(tmp_path: Path) -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from data_pipelines.preparation.run import prepare\n"
        "from data_pipelines.storage.records import open_records\n"
        "prepare('shapes', sys.argv[1], options=dict(num_train=3, num_validation=0, num_test=0))\n"
        "print(len(open_records(sys.argv[1], 'shapes', 'train')))\n"
        "print([m for m in ('tensorflow', 'jax', 'torch') if m in sys.modules])"
    )
    assert socket.create_connection.__module__ == "socket"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.stdout.split("\n")[:2] == ["3", "[]"], done


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_stopped_run_leaves_nothing_that_looks_finished(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-m", "data_pipelines.prepare", "shapes", f"--data_dir={tmp_path}"]
    # So many scenes take hours even on the fastest machine.
    process = subprocess.Popen([*command, "--num_train=100000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not (parts := list(tmp_path.glob("shapes/incomplete.*/*.part"))) and process.poll() is None:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    process.send_signal(getattr(signal, how))
    out, err = process.communicate(timeout=300)
    assert parts and process.returncode == {"SIGKILL": -9, "SIGTERM": 1}[how], err
    assert out == b""
    assert find_folder(tmp_path, "shapes") is None
    with pytest.raises(DataError, match="No prepared data set 'shapes'"):
        open_records(tmp_path, "shapes", "train")
    leftovers = list(tmp_path.glob("shapes/incomplete.*"))
    if how == "SIGTERM":
        assert err.decode().splitlines()[-1].startswith("error: interrupted")
        assert not leftovers
    else:
        assert leftovers
    prepare("shapes", tmp_path, options=SMALL)
    assert len(open_records(tmp_path, "shapes", "train")) == 6
    assert not list(tmp_path.glob("shapes/incomplete.*"))


def test_nothing_stays_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    source = coco(tmp_path / "coco")
    for _ in range(2):
        prepare("coco_captions", tmp_path / "data", source, num_shards=2)
        assert not list((tmp_path / "temporary").iterdir())
    with pytest.raises(DataError, match="not a folder"):
        prepare("flickr8k", tmp_path / "data", tmp_path / "none")
    assert not list((tmp_path / "temporary").iterdir())
