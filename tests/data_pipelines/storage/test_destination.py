"""Files that go to a bucket: what is said while a large one is uploaded."""

from types import SimpleNamespace

from etils import epath

from data_pipelines.storage import destination, transfer

MIB = 1 << 20


def test_progress_of_a_large_file(tmp_path, monkeypatch):
    """A line every ten seconds with bytes and time left, none at the end, and one when the file is there."""
    now, lines = [0.0], []

    def put_file(source, target, callback):
        callback.set_size(8 * MIB)
        for seconds in (4.0, 8.0, 8.0, 8.0, 20.0):
            now[0] += seconds
            callback.relative_update(8 * MIB // 5)
        callback.relative_update(8 * MIB - 5 * (8 * MIB // 5))

    monkeypatch.setattr(destination.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(transfer.backend.fsspec_backend, "fs", lambda path: SimpleNamespace(put_file=put_file))
    file = tmp_path / "a.array_record"
    file.write_bytes(bytes(8 * MIB))
    to_bucket = destination.ToBucket(epath.Path("gs://bucket/data"), lines.append)
    to_bucket.put(file)
    assert lines[:2] == [
        "uploading a.array_record: 3.2 of 8.0 MiB, 0.3 minutes left",
        "uploading a.array_record: 6.4 of 8.0 MiB, 0.1 minutes left",
    ]
    assert lines[-1] == "uploaded a.array_record: 8.0 MiB" and not file.exists()
