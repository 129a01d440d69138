"""Workdir and data in a bucket whose server fails, is slow or away, refuses, is emptied; or a process is killed.

The reference is the undisturbed run in a file system. Runs are in this process, but for those of which one is killed.
"""

import dataclasses
import threading
import time
from pathlib import Path

import pytest

from data_pipelines.storage import bucket_lock
from experiments.pretrain import pretrain
from experiments.run import build
from pixelbert_jax.errors import ConfigError
from tests.bucket_proxy import Faults, bucket_proxy
from tests.bucket_server import BUCKET, bucket_server, environment
from tests.experiments.fine_tuning import programs_kept_in
from tests.faults.losses import lost_rows, steps_begun
from tests.multi_process.launching import gate
from tests.multi_process.outcomes import assert_same_checkpoint, assert_same_metrics, metrics
from tests.multi_process.small_config import get_config

GOES_ON = "goes on; equal to the bit"
RESUMES = "ends with one line; goes on when mended, equal to the bit"
STEPS = 6


class Bucket:
    """A server with prepared data behind a proxy with faults, and a run in it.

    Attributes:
      environment: with which gcsfs and TensorStore talk to the proxy.
      name: of the workdir.
      faults: what the proxy does.
      begun: the steps that were begun by runs in this process.
      before_step_4: called once when step 4 begins and the checkpoint of step 2 is whole.
    """

    def __init__(self, files, faults: Faults, variables: dict[str, str]) -> None:
        self.files, self.faults, self.environment = files, faults, variables  # `files` does not go through the proxy
        self.name, self.begun, self.before_step_4 = "", [], None

    @property
    def uri(self) -> str:
        return f"gs://{BUCKET}/{self.name}"

    def saved_step(self) -> int:
        """The step of the newest checkpoint that is whole."""
        self.files.invalidate_cache()
        found = self.files.glob(f"{BUCKET}/{self.name}/checkpoints/*/commit_success.txt")
        return max((int(path.split("/")[-2]) for path in found), default=0)

    def fetch(self, workdir: Path) -> Path:
        """Copy the run to a local folder."""
        self.files.invalidate_cache()
        for name in self.files.find(f"{BUCKET}/{self.name}"):
            path = workdir / name.removeprefix(f"{BUCKET}/{self.name}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.files.cat_file(name))
        return workdir

    def train(self) -> None:
        """Begin or continue the run."""
        config = with_data(f"gs://{BUCKET}/data")
        pretrain(dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, every=2)), self.uri)

    def step_begins(self, step: int) -> None:
        self.begun.append(step)
        if step == 3 and self.before_step_4:
            until(lambda: self.saved_step() >= 2)
            happens, self.before_step_4 = self.before_step_4, None
            happens()


def with_data(data_dir):
    config = get_config()
    return dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=str(data_dir)))


def until(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    with programs_kept_in(folder / "programs"):
        pretrain(with_data(data_dir), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def server(data_dir, tmp_path_factory):
    """One for all tests: TensorStore may read its address once."""
    with bucket_server() as url, bucket_proxy(url) as (proxy, faults), pytest.MonkeyPatch.context() as patch:
        variables = environment(proxy) | {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
        for name, value in variables.items():
            patch.setenv(name, value)
        import gcsfs

        files = gcsfs.GCSFileSystem(endpoint_url=url, token="anon", skip_instance_cache=True)
        files.put(f"{data_dir}/", f"{BUCKET}/data/", recursive=True)
        yield Bucket(files, faults, variables)


@pytest.fixture
def bucket(server, undisturbed, monkeypatch, tmp_path):
    """The server without faults and a run that has not begun; a lock is free after four seconds."""
    server.name, server.begun, server.before_step_4 = tmp_path.name, [], None
    for field in dataclasses.fields(Faults):
        if field.name != "count":
            setattr(server.faults, field.name, field.default)
    server.faults.count.clear()
    monkeypatch.setattr(bucket_lock, "RENEWED_EVERY", 1.0)
    monkeypatch.setattr(bucket_lock, "FREE_AFTER", 4.0)
    make_trainer = build.make_trainer

    def recorded(*args, **kwargs):
        trainer = make_trainer(*args, **kwargs)

        def train_step(state, batch):
            server.step_begins(int(state.step))
            return trainer.train_step(state, batch)

        return dataclasses.replace(trainer, train_step=train_step)

    monkeypatch.setattr(build, "make_trainer", recorded)
    with programs_kept_in(undisturbed.parent / "programs"):
        yield server


def assert_undisturbed(bucket, undisturbed, tmp_path) -> None:
    """Metrics, parameters and optimizer are those of the run in a file system, to the bit."""
    workdir = bucket.fetch(tmp_path / "fetched")
    assert len(metrics(workdir)) == STEPS + 2  # evaluated twice
    assert metrics(workdir) == metrics(undisturbed)
    assert_same_checkpoint(workdir, undisturbed, STEPS)
    assert not (workdir / ".lock").exists()


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("errors", 0.05, "5% of the answers are 503 or 429"),
        pytest.param("cuts", 0.05, "5% of the connections are cut in mid-body", marks=pytest.mark.slow),
        pytest.param("delay", 0.2, "each answer takes 200 ms longer", marks=pytest.mark.slow),
    ],
)
def test_bad_answers_all_the_time(bucket, undisturbed, tmp_path, table, name, value, fault):
    setattr(bucket.faults, name, value)
    bucket.train()
    assert name == "delay" or bucket.faults.count[name] >= 3, bucket.faults.count
    setattr(bucket.faults, name, 0.0)
    assert_undisturbed(bucket, undisturbed, tmp_path)
    assert bucket.begun == [*range(STEPS)]
    table.add(f"bucket: {fault}", GOES_ON, lost_steps=[0])


@pytest.mark.slow
def test_the_server_is_away_for_a_while(bucket, undisturbed, tmp_path, table):
    """It comes back while a checkpoint waits to be written."""
    back = threading.Timer(20, setattr, (bucket.faults, "away", False))

    def leave():
        bucket.faults.away = True
        back.start()

    bucket.before_step_4 = leave
    bucket.train()
    back.join()
    assert bucket.faults.count["away"] > 3
    assert_undisturbed(bucket, undisturbed, tmp_path)
    assert bucket.begun == [*range(STEPS)]
    table.add("bucket: the server is away for 20 s", GOES_ON, lost_steps=[0])


@pytest.mark.slow
def test_permission_is_refused_and_given_back(bucket, undisturbed, tmp_path, table, capsys):
    """The lock stays in the bucket: the next start waits until nobody renews it, and goes on."""
    bucket.before_step_4 = lambda: setattr(bucket.faults, "refused", ("GET", "POST", "PUT", "DELETE"))
    for _ in range(2):  # under the run; from the start
        with pytest.raises(ConfigError, match=r"written .*(Forbidden|no permission)") as caught:
            bucket.train()
        assert "\n" not in str(caught.value)
    bucket.faults.refused = ()
    bucket.train()
    assert f"resuming {bucket.uri} at step 2\n" in capsys.readouterr().out
    assert_undisturbed(bucket, undisturbed, tmp_path)
    table.add("bucket: permission is refused (403)", RESUMES, lost_steps=[len(bucket.begun) - STEPS])


@pytest.mark.slow
def test_one_of_two_processes_is_killed(bucket, start, one_process, tmp_path, table):
    there = {"data": f"gs://{BUCKET}/data", "uri": bucket.uri}
    often, workdir, heartbeat = "--config.checkpoint.every=2", tmp_path / "run", 10
    waits = [bucket.environment, bucket.environment | {"GATE_AT": "3"}]
    with start(workdir, 2, 2, often, environments=waits, heartbeat=heartbeat, **there) as run:
        run.until(lambda: gate(workdir).exists() and bucket.saved_step() >= 2, 500)
        run.processes[1].kill()
        began = time.monotonic()
        assert run.processes[0].wait(120) != 0
        assert time.monotonic() - began < 6 * heartbeat
    lost = steps_begun(workdir) - bucket.saved_step()
    with start(workdir, 1, 4, often, environments=[bucket.environment], **there) as run:
        run.succeed(400)
    assert_same_metrics(bucket.fetch(workdir), one_process, 1e-5)
    table.add(
        "bucket: one of two processes killed",
        "the other ends within six heartbeats (of 10 s); goes on, equal to 1e-5",
        lost_steps=[lost],
        lost_rows=lost_rows(workdir, one_process),
    )


@pytest.mark.slow
def test_the_bucket_is_deleted(bucket, monkeypatch, table):
    """The last test: the server is empty afterwards."""
    monkeypatch.setattr(bucket_lock, "RENEWED_EVERY", 600.0)  # it would notice it too, and end the process

    def delete():
        bucket.files.rm(BUCKET, recursive=True)
        bucket.files.invalidate_cache()
        assert not bucket.files.exists(BUCKET)

    bucket.before_step_4 = delete
    with pytest.raises(ConfigError, match=r"deleted\?|not found|Not Found") as caught:
        bucket.train()
    assert "\n" not in str(caught.value)
    table.add("bucket: deleted under the run", "ends with one line at the next save", lost_steps=[len(bucket.begun)])
