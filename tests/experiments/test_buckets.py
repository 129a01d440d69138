"""Folders in a bucket: a file system in memory stands for it behind etils.epath."""

import fsspec
import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

from data_pipelines.storage import atomic_files, bucket_copy
from data_pipelines.storage.atomic_files import open_atomically, write_atomically
from data_pipelines.storage.bucket_copy import local_copy
from data_pipelines.storage.records import open_records
from experiments.resilience.lock import locked
from experiments.run import metric_writer
from experiments.run.metric_writer import MetricWriter, read_metrics


class Bucket(MemoryFileSystem):
    """Objects of a bucket; nothing can be appended to one."""

    protocol, store, pseudo_dirs, cachable = "s3", {}, [""], False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).replace("s3://", "memory://"))

    def _open(self, path, mode="rb", **more):
        assert "a" not in mode, "objects cannot be appended to"
        return super()._open(path, mode, **more)


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """s3://bucket, empty."""
    Bucket.store, Bucket.pseudo_dirs = {}, [""]
    files = Bucket()
    local = fsspec.filesystem("file")
    monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", lambda name: files if name == "s3" else local)
    monkeypatch.setattr(bucket_copy, "file_system", lambda path: (files, path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return epath.Path("s3://bucket/run")


def test_an_object_is_whole_or_not_there(bucket):
    write_atomically(bucket / "a.txt", "é")
    assert (bucket / "a.txt").read_bytes() == "é".encode()
    with pytest.raises(RuntimeError), open_atomically(bucket / "b") as file:
        file.write(b"half")
        raise RuntimeError
    assert not (bucket / "b").exists()


def test_a_copy_is_made_once_and_anew_after_a_change(bucket, tmp_path):
    write_atomically(bucket / "a.bin", b"one")
    copy = local_copy(bucket / "a.bin")
    assert copy.startswith(str(tmp_path)) and local_copy(bucket / "a.bin") == copy
    write_atomically(bucket / "a.bin", b"other")
    assert epath.Path(local_copy(bucket / "a.bin")).read_bytes() == b"other"
    assert local_copy(tmp_path / "b") == str(tmp_path / "b")


def test_metrics_are_sent_whole_at_flush_and_after_a_minute(bucket, monkeypatch):
    path = bucket / "metrics.jsonl"
    writer = MetricWriter(path)
    writer.write(1, {"loss": 0.5})
    assert read_metrics(path) == []
    writer.flush()
    writer.write(2, {"loss": 0.25})
    assert [record["step"] for record in read_metrics(path)] == [1]
    monkeypatch.setattr(metric_writer, "_SECONDS_BETWEEN_UPLOADS", 0.0)
    writer.write(3, {"loss": 0.125})
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]
    writer = MetricWriter(path, resume_step=2)
    writer.write(3, {"loss": -1.0})
    writer.close()
    assert [record["loss"] for record in read_metrics(path)] == [0.5, 0.25, -1.0]


def test_a_process_that_does_not_write_touches_nothing(tmp_path):
    writer = MetricWriter(tmp_path / "metrics.jsonl", tensorboard=True, writes=False)
    writer.write(1, {"loss": 0.5})
    writer.flush()
    writer.close()
    assert not list(tmp_path.iterdir())


def test_prepared_data_is_read_from_a_bucket(bucket, data_dir):
    for path in sorted(data_dir.rglob("*")):
        if path.is_file():
            write_atomically(bucket / str(path.relative_to(data_dir)), path.read_bytes())
    there, here = open_records(str(bucket), "shapes", "train"), open_records(data_dir, "shapes", "train")
    assert len(there) == len(here) and there.index.fingerprint == here.index.fingerprint
    assert there[5] == here[5]
    np.testing.assert_array_equal(there.index.num_texts, here.index.num_texts)
    assert list(there.texts()) == list(here.texts())
    assert "in s3://bucket/run/shapes/" in repr(there)


def test_a_bucket_is_not_locked(bucket):
    with locked(bucket), locked(bucket):
        assert not atomic_files.is_local(bucket)
