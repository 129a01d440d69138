"""Two runs in one workdir: the second is refused while the first lives, however that ends."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from experiments.lock import locked
from pixelbert_jax.errors import ConfigError

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from etils import epath
from experiments.lock import locked
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
