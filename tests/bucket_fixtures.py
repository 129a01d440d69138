"""A bucket for the tests of one file: gs:// on fake-gcs-server, or s3:// on moto's server."""

import contextlib
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from etils import epath
from etils.epath import backend

from data_pipelines.storage import bucket_lock
from data_pipelines.storage.atomic_files import write_atomically
from tests.bucket_server import BUCKET, bucket_server, environment


@contextlib.contextmanager
def gs_bucket() -> Iterator[str]:
    """gs://bucket on a server of its own, empty."""
    with bucket_server() as url, _environment(environment(url)):
        yield f"gs://{BUCKET}"


@contextlib.contextmanager
def s3_bucket() -> Iterator[str]:
    """s3://bucket on a server of its own, empty. Skips the test where moto or s3fs is missing."""
    server_of = pytest.importorskip("moto.server", reason="needs moto[server]")
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs")
    server = server_of.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        with _environment({"AWS_ENDPOINT_URL": f"http://{host}:{port}", **keys}):
            # The servers of one process share their objects.
            urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", b"", timeout=10).close()
            s3fs.S3FileSystem().mkdir(BUCKET)
            yield f"s3://{BUCKET}"
    finally:
        server.stop()


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables, which new file systems read; later tests make others."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        forget()
        yield
    forget()


def forget() -> None:
    """Drop the file systems of this process with what they know of a bucket, as a new process has none."""
    backend.fsspec_backend._get_filesystem.cache_clear()
    for name in ("gcsfs", "s3fs"):
        with contextlib.suppress(ImportError):
            package = __import__(name)
            (package.GCSFileSystem if name == "gcsfs" else package.S3FileSystem).clear_instance_cache()


def quick_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are renewed twice a second, and free after four seconds."""
    monkeypatch.setattr(bucket_lock, "RENEWED_EVERY", 0.5)
    monkeypatch.setattr(bucket_lock, "FREE_AFTER", 4.0)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds; it must within that time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def copy_to(bucket: str, folder: Path) -> str:
    """Copy a folder into a bucket; returns the path of the copy."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            write_atomically(epath.Path(bucket) / path.relative_to(folder).as_posix(), path.read_bytes())
    return bucket
