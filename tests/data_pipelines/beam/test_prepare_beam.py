"""`prepare` on Apache Beam writes the same bytes as without it, and raises the same errors."""

import json
import os
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("apache_beam", reason="needs Apache Beam, the extra `beam`")

from data_pipelines.beam import prepare_job
from data_pipelines.beam.exchange import Exchange
from data_pipelines.beam.prepare_worker import Shard, Worker
from data_pipelines.datasets import builder_class
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.storage import shards
from data_pipelines.storage.records import read_summary
from tests.data_pipelines import parquet_sets
from tests.data_pipelines.publishers import (
    coco,
    detections,
    encode,
    lines,
    nlvr2,
    region_hdf5,
    region_tsv,
    tar,
    vqa_v2,
    write_image,
)

FEW = {"num_train": 2, "num_validation": 0, "num_test": 0}  # drawn scenes


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks per split, most of them full."""
    monkeypatch.setattr(prepare_job, "CHUNK", 3)


def files(folder: Path) -> dict[str, bytes]:
    """Name and content of all files in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def both(tmp_path: Path, name: str, source: Path | None, **arguments: Any) -> dict[str, Any]:
    """Prepare with and without Beam, check that the bytes are equal, and return the summary."""
    folders = [
        prepare(name, tmp_path / way, source, num_threads=2, beam_runner=runner, **arguments)
        for way, runner in {"plain": None, "beam": "direct"}.items()
    ]
    plain, beam = map(files, folders)
    assert sorted(plain) == sorted(beam)
    assert [name for name in plain if plain[name] != beam[name]] == []
    assert not any("exchange" in name or "part" in name for name in beam)
    return read_summary(folders[1])


def mine(folder: Path) -> Path:
    """Users' own images: 20 good ones in two splits, bad ones of every kind, and separated lines of one image."""
    for i in range(20):
        write_image(folder / f"{i}.jpg", width=16 + i, seed=i)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(encode()[:-20])
    (folder / "folder.jpg").mkdir()
    entries = [{"image": f"{i}.jpg", "texts": [f"image {i}", "", 7]} for i in range(15)]
    entries[3:3] = [{"image": "empty.jpg", "texts": ["a"]}, {"image": "none.jpg", "texts": ["b"]}]
    entries[7:7] = [{"image": "cut.jpg", "texts": ["c"]}, {"image": "0.jpg", "texts": ["again"]}]
    entries += [{"image": "16.jpg", "texts": [""]}, {"image": "folder.jpg", "texts": ["d"]}]
    lines(folder / "train.jsonl", *entries)
    # An image is usable in the later split only if the earlier split had no text for it.
    later = [{"image": f"{i}.jpg", "texts": ["later"]} for i in (0, 16, 17, 18)]
    return lines(folder / "validation.jsonl", *later)


def test_own_images_with_all_kinds_of_faults(tmp_path: Path) -> None:
    summary = both(tmp_path, "image_text", mine(tmp_path / "mine"), max_bad_share=0.3, num_shards=4)
    train, validation = summary["splits"]["train"], summary["splits"]["validation"]
    assert [length for _, length in train["shards"]] == [3, 4, 4, 4]
    assert [length for _, length in validation["shards"]] == [1, 1, 1]
    assert summary["skipped"]["train"]["images"] == {
        "empty file": 1,
        "image file not found": 2,
        "truncated or damaged file": 1,
        "no text": 1,
    }
    assert [line.rpartition("/")[2] for line in summary["skipped"]["train"]["listed"]] == [
        "empty.jpg: empty file",
        "none.jpg: image file not found",
        "cut.jpg: truncated or damaged file",
        "folder.jpg: image file not found",
    ]
    assert summary["skipped"]["validation"]["images"] == {"image occurs twice": 1}


def test_files_end_by_size_where_their_number_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.write_split, "__defaults__", (2000,))
    monkeypatch.setattr(shards, "MAX_SHARD_BYTES", 2000)
    summary = both(tmp_path, "image_text", mine(tmp_path / "mine"), max_bad_share=0.3)
    lengths = [length for _, length in summary["splits"]["train"]["shards"]]
    assert sum(lengths) == 15 and 2 < len(lengths) < 15


@pytest.mark.parametrize("name", ["image_text", "vqa", "image_pairs"])
def test_parquet_files(tmp_path: Path, name: str) -> None:
    """Workers read the images from the files, of which each row group has several chunks."""
    images = [{"bytes": encode(width=16 + i, seed=i), "path": f"{i}.jpg"} for i in range(10)]
    rows = [
        {"image": image, "question": f"a{i}?", "answers": ["x"], "caption": [f"b{i}", f"c{i}"]}
        | {"images": [image, images[i // 2]], "sentence": f"d{i}", "label": True}
        for i, image in enumerate([*images, images[0]])
    ]
    source = parquet_sets.write(tmp_path / "source" / "train.parquet", rows, row_group_size=8)
    columns = "" if name == "image_pairs" else "image=image"
    summary = both(tmp_path, name, source, options={"columns": columns}, num_shards=2)
    assert summary["splits"]["train"]["images"] == (11 if name == "image_pairs" else 10)


def test_tar_files_with_a_hash_that_repeats(tmp_path: Path) -> None:
    for shard in range(2):
        members: dict[str, Any] = {}
        for i in range(4):
            members |= {f"{i}.jpg": encode(seed=i), f"{i}.txt": f"{shard}/{i}"}
            members[f"{i}.json"] = json.dumps({"sha256": f"hash of {i % 3}"} if i != 1 else {})
        tar(tmp_path / "tar" / f"{shard}.tar", members)
    summary = both(tmp_path, "image_text", tmp_path / "tar")
    assert summary["splits"]["train"]["images"] == 4
    assert summary["skipped"]["train"]["images"] == {"image occurs twice": 4}


@pytest.mark.parametrize("form", ["tsv", "hdf5"])
def test_regions_that_are_joined(tmp_path: Path, form: str) -> None:
    source = coco(tmp_path / "coco", train=(1, 2, 3, 6, 7, 8, 9, 10))
    found = detections(("1", "3", "4", "6", "7", "9"))
    found["3"]["boxes"][1] = (0, 0, 0, 0)  # no area: skipped and counted
    found["6"]["features"][0, 0] = float("nan")  # its image is skipped
    path = region_tsv(tmp_path / "x.tsv", found) if form == "tsv" else region_hdf5(tmp_path / "x.h5", found)
    options = {"regions": str(path), "max_regions": 1}
    summary = both(tmp_path, "coco_captions", source, options=options, max_bad_share=0.5, num_shards=2)
    assert summary["splits"]["train"]["images"] == 4
    assert summary["skipped"]["train"]["bad"] == 1
    assert summary["skipped"]["train"]["images"]["no regions"] == 3
    assert sum(summary["skipped"]["train"]["boxes"].values()) == 1


def test_splits_that_no_regions_join_are_skipped(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        tar(tmp_path / "tar" / split / "0.tar", {f"{split}.jpg": encode(), f"{split}.txt": split})
    path = region_tsv(tmp_path / "x.tsv", {"validation": {**detections(("1",))["1"], "img_w": 16}})
    summary = both(tmp_path, "image_text", tmp_path / "tar", options={"regions": str(path)})
    assert summary["notes"] == ["split train skipped: none of its images has regions"]


def test_pairs_and_labels(tmp_path: Path) -> None:
    source = nlvr2(tmp_path / "nlvr2")
    (source / "images" / "train" / "train-7-0-img1.png").write_bytes(b"")
    assert both(tmp_path / "a", "nlvr2", source, max_bad_share=0.5)["skipped"]["train"]["bad"] == 1
    source = vqa_v2(tmp_path / "vqa")
    (source / "train2014" / "COCO_train2014_000000000002.jpg").unlink()
    summary = both(tmp_path / "b", "vqa_v2", source, max_bad_share=0.5, num_shards=2)
    assert list(summary["splits"]) == ["train", "val", "test", "test-dev"]
    assert summary["notes"] == ["images of test-dev that are also in test: 1"]


def test_drawn_regions_below_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"num_train": 7, "num_validation": 2, "num_test": 0, "regions": "drawn"}
    assert both(Path(), "shapes", None, options=options)["splits"]["train"]["images"] == 7


def refusal(tmp_path: Path, name: str, source: Path, **arguments: Any) -> str:
    """The error message with and without Beam, which must be equal; no files are left."""
    messages = []
    for runner in (None, "direct"):
        with pytest.raises(DataError) as error:
            prepare(name, tmp_path / "data", source, beam_runner=runner, **arguments)
        messages.append(str(error.value))
        assert [path.name for path in (tmp_path / "data" / name).iterdir()] == [".lock"]
    assert messages[0] == messages[1]
    return messages[0]


def test_too_many_bad_images(tmp_path: Path) -> None:
    source = mine(tmp_path / "mine")
    (source / "none.jpg").write_bytes(b"<html>")
    message = refusal(tmp_path, "image_text", source, max_bad_share=0.1)
    assert message == (
        "At least 3 of 20 images (15.0%) cannot be used, more than --max_bad_share=0.1: 1 empty file, 1 not a JPEG, "
        f"PNG, WebP, BMP or GIF, 1 truncated or damaged file (first: {source}/empty.jpg: empty file); repair the "
        "source files or raise --max_bad_share."
    )


def test_nothing_usable(tmp_path: Path) -> None:
    for i, text in enumerate(("a", "")):
        write_image(tmp_path / "source" / f"{i}.jpg", seed=i)
        lines(tmp_path / "source" / f"{('a', 'b')[i]}.jsonl", {"image": f"{i}.jpg", "texts": [text]})
    message = refusal(tmp_path, "image_text", tmp_path / "source")
    assert message == (
        f"No usable image with a text in split 'b', 1 images found: 1 no text (first: {tmp_path}/source/1.jpg), 1 "
        "empty texts; give at least one image a text in UTF-8."
    )


def test_identical_images_and_texts_that_are_none(tmp_path: Path) -> None:
    """They are counted in the order of the images, over both splits, independently of the workers."""
    for split in ("a", "b"):
        members: dict[str, Any] = {}
        for i in range(7):
            members |= {f"{i}.1.jpg": encode(seed=0 if i % 2 else 50 + ord(split) + i), f"{i}.1.txt": f"{split}{i}"}
        members |= {"8.jpg": encode(seed=8), "8.txt": b"caf\xe9", "8.npy": b"", "9.json": "{}"}
        tar(tmp_path / "tar" / split / "0.tar", members)
    summary = both(tmp_path, "image_text", tmp_path / "tar", options={"max_identical": 4})
    assert [entry["images"] for entry in summary["splits"].values()] == [7, 5]
    skipped = summary["skipped"]
    assert [skipped[split]["identical"] for split in "ab"] == [2, 3]
    assert skipped["b"]["images"] == {"no text": 1, "same bytes as 4 earlier images": 2}
    assert skipped["b"]["unused"] == {".npy": 1, "samples without an image": 1}
    assert skipped["a"]["listed_texts"] == [f"{tmp_path}/tar/a/0.tar:8.jpg: text is not UTF-8"]


def write_more(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


@pytest.mark.parametrize("change", [write_more, Path.unlink])
def test_images_that_change_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    source = mine(tmp_path / "mine")

    class Changing(prepare_job.Job):
        def verify(self, splits: dict[str, Candidates]) -> None:
            super().verify(splits)
            change(source / "9.jpg")

    monkeypatch.setattr(prepare_job, "Job", Changing)
    with pytest.raises(DataError) as error:
        prepare("image_text", tmp_path / "data", source, max_bad_share=0.3, beam_runner="direct")
    assert str(error.value) == (
        f"{source}/9.jpg changed while it was prepared; leave the source files alone and run again."
    )
    assert [path.name for path in (tmp_path / "data" / "image_text").iterdir()] == [".lock"]


def test_disk_that_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(shards.ArrayRecordWriter):
        def write(self, record: bytes) -> None:
            raise RuntimeError("no space left")

    monkeypatch.setattr(shards, "ArrayRecordWriter", Full)
    with pytest.raises(DataError, match=r"^Writing to /.* failed \(no space left\); free some space or give another"):
        prepare("shapes", tmp_path, options=FEW, beam_runner="direct")
    assert [path.name for path in (tmp_path / "shapes").iterdir()] == [".lock"]


def test_workers_that_see_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main process does not find their files."""
    monkeypatch.setattr(prepare_job.Job, "_run", lambda *_: None)
    with pytest.raises(DataError, match=r"verdicts-train-000000, which another .*; give a --data_dir that all workers"):
        prepare("shapes", tmp_path, options=FEW, beam_runner="direct")
    assert [path.name for path in (tmp_path / "shapes").iterdir()] == [".lock"]


def test_an_order_that_is_processed_twice(tmp_path: Path) -> None:
    """A runner may do this: the file stays the same, also after a failure."""
    exchange = Exchange(tmp_path / "exchange", 2)
    exchange.folder.mkdir()
    exchange.write_candidates("train", 0, [Candidate("x/1", ["a"], encode, "1.jpg", turn=True)])
    exchange.write_positions("train", 0, array("q", [0]))
    features = builder_class("image_text")(data_dir=tmp_path / "data").info.features
    worker = Worker(exchange, shards.Serializer(features), 1, None, lambda location: None)
    (tmp_path / "out").mkdir()
    order = Shard("train", 0, tmp_path / "out" / "file")
    worker.verify("train", 0)
    worker.write(order)
    written = files(tmp_path / "out")
    worker.verify("train", 0)
    worker.write(order)
    assert files(tmp_path / "out") == written and list(written) == ["file"]
    exchange.write_candidates("train", 0, [Candidate("x/1", ["b"], encode, "1.jpg", turn=True)])
    with pytest.raises(DataError, match=r"^1.jpg changed while it was prepared"):
        worker.write(order)
    assert files(tmp_path / "out") == written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beam_runner": "Nope"}, r"^--beam_runner=Nope cannot be used \(.*\); give direct, or a runner of Beam.$"),
        (
            {"beam_runner": "DirectRunner", "beam_options": ["--direct_num_worker=2"]},
            "^--direct_num_worker is no option of Beam's direct runner; see docs/data.md for those that are.$",
        ),
        ({"beam_options": ["--x=1"]}, "^--x=1 is an option of Beam; give --beam_runner too, or leave it out.$"),
        ({"num_shards": 0}, "^--num_shards=0 is not between 1 and 99,999.$"),
        (
            {"beam_runner": "FlinkRunner", "data_dir": "data"},
            "^--data_dir=data is relative, and workers of FlinkRunner start elsewhere; give an absolute path",
        ),
        ({"beam_runner": "FlinkRunner", "options": {"regions": "x.tsv"}}, "^--regions=x.tsv is relative"),
    ],
)
def test_errors_are_raised_before_any_work(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare(**{"name": "shapes", "data_dir": tmp_path / "data", **arguments})
    assert list(tmp_path.iterdir()) == []


def run(*arguments: object, path: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "data_pipelines.prepare", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else None
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_without_beam(tmp_path: Path) -> None:
    (tmp_path / "apache_beam.py").write_text("raise ModuleNotFoundError('none', name='apache_beam')\n")
    done = run("shapes", f"--data_dir={tmp_path / 'data'}", "--beam_runner=direct", path=tmp_path)
    assert done.stderr == "error: --beam_runner=direct needs Apache Beam; run `pip install 'pixelbert_jax[beam]'`.\n"
    assert not (tmp_path / "data").exists()
    few = (f"--{name}={number}" for name, number in FEW.items())
    done = run("shapes", f"--data_dir={tmp_path / 'data'}", *few, path=tmp_path)
    assert done.returncode == 0, done.stderr


def test_command_with_worker_processes(tmp_path: Path) -> None:
    """With worker processes, the bytes and the output are the same as without them."""
    source = mine(tmp_path / "mine")
    flags = (f"--source_dir={source}", "--max_bad_share=0.3", "--num_shards=2")
    workers = ("--", "--direct_num_workers=2", "--direct_running_mode=multi_processing")
    done = run("image_text", *flags, f"--data_dir={tmp_path / 'beam'}", "--beam_runner=DirectRunner", *workers)
    assert done.returncode == 0, done.stderr
    folder = prepare("image_text", tmp_path / "plain", source, max_bad_share=0.3, num_shards=2)
    assert files(folder) == files(tmp_path / "beam" / "image_text" / "1.1.0")
    again = run("image_text", *flags, f"--data_dir={tmp_path / 'plain'}")
    assert done.stdout.replace(str(tmp_path / "beam"), str(tmp_path / "plain")) == again.stdout
    for stage in ("list train: 20 of 20", "list validation: 4 of 4", "verify: 24 of 24", "write: 18 of 18"):
        assert f"{stage} images, " in done.stderr
    with pytest.raises(DataError, match=r"was prepared with 2 files of train, not --num_shards=3; remove that folder"):
        prepare("image_text", tmp_path / "plain", num_shards=3)
