"""Two runs in one workdir: the second is refused while the first lives, however that ends."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from data_pipelines.errors import DataError
from experiments.resilience.lock import locked
from pixelbert_jax.errors import ConfigError

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from etils import epath
from experiments.resilience.lock import locked
with locked(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_second_is_refused_until_the_first_is_killed(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ConfigError, match=rf"{tmp_path} is in use by another run \(process {holder.pid} on "),
            locked(epath.Path(tmp_path)),
        ):
            pytest.fail("two runs in one workdir")
        holder.send_signal(signal.SIGKILL)
        holder.wait(60)
        with locked(epath.Path(tmp_path)):
            pass
        with locked(epath.Path(tmp_path)):
            pass
    finally:
        holder.kill()
        holder.wait()


def test_a_refused_start_leaves_nothing(tmp_path):
    """Neither the folders that it made nor its lock; what was there before stays."""
    for refused in (ConfigError("no"), DataError("no")):
        with pytest.raises(type(refused)), locked(epath.Path(tmp_path / "runs" / "a")):
            (tmp_path / "runs" / "a" / "checkpoints").mkdir()
            raise refused
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError), locked(epath.Path(tmp_path / "mine")):
        raise ConfigError("no")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


def test_a_run_that_had_begun_stays(tmp_path):
    with pytest.raises(ConfigError), locked(epath.Path(tmp_path / "run")):
        (tmp_path / "run" / "config.json").write_text("{}")
        raise ConfigError("step 5 failed")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", ".lock"}
