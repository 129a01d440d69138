"""Writing a split: files by size, names at the end, memory that does not grow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.preparing import prepare
from data_pipelines.records import open_records
from tests.data_pipelines.publishers import encode


@pytest.mark.slow
def test_a_split_larger_than_the_memory_it_may_use(tmp_path: Path) -> None:
    """1.3 GiB of images: TFDS's own writer would need TensorFlow, and more than a GiB of memory."""

    padding = bytes(8 << 20)  # bytes after the end of a JPEG are legal
    source = tmp_path / "source"
    source.mkdir()
    lines = []
    for i in range(160):
        (source / f"{i}.jpg").write_bytes(encode(seed=i) + padding)
        lines.append(json.dumps({"image": f"{i}.jpg", "texts": [f"text {i}"]}))
    (source / "train.jsonl").write_text("\n".join(lines))
    code = (
        "import resource, sys; from data_pipelines.preparing import prepare\n"
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
    assert len(list((tmp_path / "data" / "image_text" / "1.0.0").glob("*.array_record-*"))) == 3


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shapes" / "notes").mkdir(parents=True)
    options = {"num_train": 2, "num_validation": 0, "num_test": 0}
    prepare("shapes", tmp_path, options=options)
    assert (tmp_path / "shapes" / "notes").exists()
    assert len(open_records(tmp_path, "shapes", "train")) == 2
