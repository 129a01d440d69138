"""Copies of a bucket's objects: equal, made once, checked, gone on with, shared by processes."""

import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gcsfs
import pytest

from data_pipelines.errors import DataError
from data_pipelines.storage import bucket_copy
from data_pipelines.storage.bucket_copy import local_copies, local_copy
from tests.bucket_proxy import bucket_proxy
from tests.bucket_server import BUCKET, bucket_server, environment

ROOT = Path(__file__).parents[3]
CHUNK = 64 << 10
COPY = f"""
import sys
from data_pipelines.storage import bucket_copy
bucket_copy._RANGE = {CHUNK}
print(*bucket_copy.local_copies(sys.argv[1:]), sep="\\n")
"""


@pytest.fixture(scope="module")
def server():
    with bucket_server() as url:
        yield url


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    """(names to contents that are in the bucket, the proxy's faults); the cache is empty, a chunk is small."""
    rng = random.Random(0)
    contents = {
        f"gs://{BUCKET}/{tmp_path.name}/{i}.bin": rng.randbytes(size) for i, size in enumerate((5 * CHUNK + 7, 0, 1))
    }
    monkeypatch.setattr(bucket_copy, "_RANGE", CHUNK)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with bucket_proxy(server) as (url, faults):
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        files = gcsfs.GCSFileSystem()
        for name, content in contents.items():
            files.pipe_file(name, content)
        faults.count.clear()
        yield contents, faults


def in_cache(tmp_path):
    return sorted(path.name.partition("-")[2] for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_copies_are_equal_and_made_once(bucket, tmp_path, capsys):
    contents, faults = bucket
    copies = local_copies([*contents, tmp_path / "local"])
    assert [Path(copy).read_bytes() for copy in copies[:-1]] == [*contents.values()]
    assert copies[-1] == str(tmp_path / "local") and in_cache(tmp_path) == ["0.bin", "1.bin", "2.bin"]
    assert f"copying gs://{BUCKET}/{tmp_path.name} to {tmp_path}" in capsys.readouterr().err
    faults.count.clear()
    assert local_copies([*contents]) == copies[:-1]
    assert faults.count["requests"] <= 2 * len(contents)  # what they are, not what is in them


def test_an_object_that_was_replaced_is_copied_anew(bucket):
    """Even by one of the same length."""
    name = next(iter(bucket[0]))
    first = local_copy(name)
    gcsfs.GCSFileSystem().pipe_file(name, bytes(len(bucket[0][name])))
    second = local_copy(name)
    assert second != first and not any(Path(second).read_bytes())


@pytest.mark.parametrize(
    ("there", "fetched"),
    [
        (lambda content: content[: 4 * CHUNK], [4, 5]),
        (lambda content: bytes(4 * CHUNK), [4, 5, 0, 1, 2, 3, 4, 5]),  # of another object: noticed at the end
        (lambda content: content + bytes(CHUNK), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_partial_copy_is_continued_and_a_wrong_one_is_fetched_anew(bucket, tmp_path, monkeypatch, there, fetched):
    (name, content), *_ = bucket[0].items()
    found, read, starts = bucket_copy._Object(name), bucket_copy._Object.read, []
    found.part.parent.mkdir(parents=True)
    found.part.write_bytes(there(content))
    monkeypatch.setattr(bucket_copy._Object, "read", lambda *args: starts.append(args[1]) or read(*args))
    assert Path(local_copy(name)).read_bytes() == content
    assert [start // CHUNK for start in starts] == fetched
    assert in_cache(tmp_path) == ["0.bin"]


def test_content_that_is_not_the_objects_is_refused(bucket, monkeypatch, tmp_path):
    name = next(iter(bucket[0]))
    read = bucket_copy._Object.read
    for wrong in (lambda parts: (bytes(len(part)) for part in parts), lambda parts: (part + part for part in parts)):
        monkeypatch.setattr(bucket_copy._Object, "read", lambda *args, wrong=wrong: wrong(read(*args)))
        with pytest.raises(DataError, match=rf"{name} has another length or checksum after two tries"):
            local_copy(name)
    assert in_cache(tmp_path) == ["0.bin.part"]


def test_md5_where_there_is_no_crc32c():
    assert bucket_copy.checksum_of({"md5Hash": "1B2M2Y8AsgTpgAmY7PhCfg=="})[0]().digest() == bytes.fromhex(
        "d41d8cd98f00b204e9800998ecf8427e"
    )
    assert bucket_copy.checksum_of({"ETag": "x"}) == (None, b"")


def test_a_disk_that_is_too_small_is_noticed_before(bucket, monkeypatch, tmp_path):
    monkeypatch.setattr(bucket_copy.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"needs 0\.0 GB more in .*copies, which has 0\.0 GB free; make room"):
        local_copies([*bucket[0]])
    assert in_cache(tmp_path) == []


def test_a_missing_object_is_one_sentence(bucket, tmp_path):
    with pytest.raises(DataError, match=r"missing\.bin cannot be read \(not found"):
        local_copy(f"gs://{BUCKET}/{tmp_path.name}/missing.bin")


def test_errors_and_cut_connections_do_not_matter(bucket):
    contents, faults = bucket
    faults.errors = faults.cuts = 0.15
    copies = local_copies([*contents])
    assert [Path(copy).read_bytes() for copy in copies] == [*contents.values()]
    assert faults.count["errors"] + faults.count["cuts"] > 0, faults.count


def test_processes_share_a_copy_and_a_killed_one_blocks_nobody(bucket, tmp_path):
    """One is killed while it copies and two wait; each chunk is fetched once, but for the one that was under way."""
    contents, faults = bucket
    name, content = next(iter(contents.items()))
    faults.delay = 0.5
    command = [sys.executable, "-c", COPY, name]
    part = bucket_copy._Object(name).part
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)]
    try:
        while not (part.exists() and part.stat().st_size >= 2 * CHUNK):
            assert started[0].poll() is None
        started += [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        started[0].kill()
        copies = {process.communicate(timeout=120)[0].strip() for process in started[1:]}
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert copies == {str(part).removesuffix(".part")} and Path(copies.pop()).read_bytes() == content
    assert faults.count["media"] <= 6 + 1, faults.count
