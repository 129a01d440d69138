"""Workdir and data in a bucket whose server fails, is slow or away, refuses, is emptied; or a process is killed.

The reference is the undisturbed run in a file system.
"""

import contextlib
import dataclasses
import threading
import time
from pathlib import Path

import pytest

from tests.bucket_proxy import Faults, bucket_proxy
from tests.bucket_server import BUCKET, bucket_server, environment
from tests.faults.losses import assert_undisturbed, lost_rows, steps_begun
from tests.multi_process.launching import Run, gate
from tests.multi_process.outcomes import assert_same_metrics

pytestmark = pytest.mark.slow
GOES_ON = "goes on; equal to the bit"
RESUMES = "ends with one line; goes on when mended, equal to the bit"
STEPS, URI = 6, f"gs://{BUCKET}/run"


@dataclasses.dataclass
class Bucket:
    """A server with prepared data, behind a proxy with faults."""

    files: object  # gcsfs, not through the proxy
    faults: Faults
    environment: dict[str, str]

    def fetch(self, workdir: Path) -> None:
        """Copy the run in the bucket to a local folder, to its records."""
        self.files.invalidate_cache()
        self.files.get(f"{BUCKET}/run/", f"{workdir}/", recursive=True)

    def saved_step(self) -> int:
        """The step of the newest checkpoint that is whole."""
        self.files.invalidate_cache()
        found = self.files.glob(f"{BUCKET}/run/checkpoints/*/commit_success.txt")
        return max((int(path.split("/")[-2]) for path in found), default=0)


@pytest.fixture
def bucket(data_dir, tmp_path):
    with bucket_server() as server, bucket_proxy(server) as (url, faults):
        import gcsfs

        files = gcsfs.GCSFileSystem(endpoint_url=server, token="anon", skip_instance_cache=True)
        files.put(f"{data_dir}/", f"{BUCKET}/data/", recursive=True)
        yield Bucket(files, faults, environment(url) | {"XDG_CACHE_HOME": str(tmp_path / "cache")})


@pytest.fixture
def start_there(start, bucket):
    """`start` of a run in the bucket."""

    def start_there(workdir, processes, devices, *overrides, environments=({},), **more):
        return start(
            workdir,
            processes,
            devices,
            "--config.checkpoint.every=2",
            *overrides,
            environments=[bucket.environment | one for one in environments],
            data=f"gs://{BUCKET}/data",
            uri=URI,
            **more,
        )

    return start_there


@contextlib.contextmanager
def at_the_gate(bucket, start_there, workdir):
    """A run that waits before step 4, with the checkpoint of step 2; it goes on after the block."""
    with start_there(workdir, 1, 4, environments=[{"GATE_AT": "3"}]) as run:
        run.until(lambda: gate(workdir).exists() and bucket.saved_step() >= 2, 400)
        yield run


def assert_one_line(run: Run, *parts: str) -> None:
    assert run.wait(300) == [1], run.everything()
    last = run.text(0).splitlines()[-1]
    assert "Traceback" not in run.text(0) and last.startswith("error: "), run.text(0)
    assert any(part in last for part in parts), last


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("errors", 0.05, "5% of the answers are 503 or 429"),
        ("cuts", 0.05, "5% of the connections are cut in mid-body"),
        ("delay", 0.2, "each answer takes 200 ms longer"),
    ],
)
def test_bad_answers_all_the_time(bucket, start_there, one_process, tmp_path, table, name, value, fault):
    setattr(bucket.faults, name, value)
    workdir = tmp_path / "run"
    with start_there(workdir, 1, 4) as run:
        run.succeed(550)
    if name != "delay":
        assert bucket.faults.count[name] >= 5, bucket.faults.count
    bucket.fetch(workdir)
    assert_undisturbed(workdir, one_process, STEPS)
    table.add(f"bucket: {fault}", GOES_ON, lost_steps=[0])


def test_the_server_is_away_for_a_while(bucket, start_there, one_process, tmp_path, table):
    """It comes back while a checkpoint waits to be written; what is tried again is said."""
    workdir = tmp_path / "run"
    with at_the_gate(bucket, start_there, workdir) as run:
        bucket.faults.away = True
        back = threading.Timer(20, setattr, (bucket.faults, "away", False))
        back.start()
        gate(workdir).unlink()
        run.succeed(400)
        back.join()
    assert "another try" in run.text(0), run.text(0)
    bucket.fetch(workdir)
    assert_undisturbed(workdir, one_process, STEPS)
    table.add("bucket: the server is away for 20 s", GOES_ON, lost_steps=[0])


def test_permission_is_refused_and_given_back(bucket, start_there, one_process, tmp_path, table):
    """The lock stays in the bucket: the next start waits until nobody renews it, and goes on."""
    workdir = tmp_path / "run"
    with at_the_gate(bucket, start_there, workdir) as run:
        bucket.faults.refused = ("GET", "POST", "PUT", "DELETE")
        gate(workdir).unlink()
        assert_one_line(run, "Forbidden", "no permission")
    lost = steps_begun(workdir) - bucket.saved_step()
    with start_there(workdir, 1, 4) as run:
        assert_one_line(run, "Forbidden", "no permission")  # at once
    bucket.faults.refused = ()
    with start_there(workdir, 1, 4) as run:
        run.succeed(400)
    assert f"resuming {URI} at step 2\n" in run.text(0)
    bucket.fetch(workdir)
    assert_undisturbed(workdir, one_process, STEPS)
    table.add("bucket: permission is refused (403)", RESUMES, lost_steps=[lost])


def test_the_bucket_is_deleted(bucket, start_there, tmp_path, table):
    workdir = tmp_path / "run"
    with at_the_gate(bucket, start_there, workdir) as run:
        lost = steps_begun(workdir)
        bucket.files.rm(BUCKET, recursive=True)
        assert not bucket.files.exists(BUCKET)
        gate(workdir).unlink()
        assert_one_line(run, "deleted")
    table.add("bucket: deleted under the run", "ends with one line within seconds", lost_steps=[lost])


def test_one_of_two_processes_is_killed(bucket, start_there, one_process, tmp_path, table):
    workdir, heartbeat = tmp_path / "run", 10
    with start_there(workdir, 2, 2, environments=[{}, {"GATE_AT": "3"}], heartbeat=heartbeat) as run:
        run.until(lambda: gate(workdir).exists() and bucket.saved_step() >= 2, 500)
        run.processes[1].kill()
        began = time.monotonic()
        assert run.processes[0].wait(120) != 0
        assert time.monotonic() - began < 6 * heartbeat
    lost = steps_begun(workdir) - bucket.saved_step()
    with start_there(workdir, 1, 4) as run:
        run.succeed(400)
    bucket.fetch(workdir)
    assert_same_metrics(workdir, one_process, 1e-5)
    table.add(
        "bucket: one of two processes killed",
        "the other ends within six heartbeats (of 10 s); goes on, equal to 1e-5",
        lost_steps=[lost],
        lost_rows=lost_rows(workdir, one_process),
    )
