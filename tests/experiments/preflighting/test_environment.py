"""Where libtpu is kept, and the process that can import it."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.preflighting import environment
from pixelbert_jax.errors import ConfigError


def done(code=0, stderr=""):
    return subprocess.CompletedProcess([], code, "", stderr)


def test_libtpu_is_fetched_once_into_a_folder_of_its_own(tmp_path):
    commands = []

    def pip(command, **options):
        commands.append(command)
        folder = Path(command[command.index("--target") + 1])
        assert folder.parent == tmp_path and not list(tmp_path.glob("preflight-jax*"))
        (folder / "libtpu").mkdir()
        return done()

    folder = environment.library_folder(tmp_path, run=pip)
    assert folder.parent == tmp_path and (folder / "libtpu").is_dir() and jax.__version__ in folder.name
    assert environment.library_folder(tmp_path, run=pip) == folder
    ((python, *command),) = commands
    assert python == sys.executable and command[:3] == ["-m", "pip", "install"] and "--no-deps" in command
    assert command[-1] == environment.requirement() and command[-1].startswith("libtpu==")
    assert list(tmp_path.iterdir()) == [folder]


def test_no_network(tmp_path):
    reason = "WARNING: retrying\nERROR: No matching distribution found for libtpu\n"
    with pytest.raises(ConfigError, match=r"libtpu==\S+ cannot be fetched \(ERROR: No matching .*\); connect this"):
        environment.library_folder(tmp_path, run=lambda command, **options: done(1, reason))
    assert list(tmp_path.iterdir()) == []


def test_no_pip(tmp_path, monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"fetched with pip, which .* has not; .*uv pip install --no-deps --target"):
        environment.library_folder(tmp_path)


def test_the_process_that_can_import_libtpu(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "library_folder", lambda run: tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.delenv(environment.MARK, raising=False)
    assert not environment.inside()
    started = []

    def run(command, env, check):
        started.append((command, env))
        return done(5)

    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    assert environment.run_again("experiments.preflight", ["--a", "b"], run=run) == 5
    ((command, env),) = started
    assert command == [sys.executable, "-m", "experiments.preflight", "--a", "b"]
    assert env["PYTHONPATH"] == f"{tmp_path}:/mine" and env["JAX_PLATFORMS"] == "cpu"
    monkeypatch.setenv(environment.MARK, env[environment.MARK])
    assert environment.inside()
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: "there")  # a machine with a TPU has it
    environment.run_again("experiments.preflight", [], run=run)
    assert started[1][1]["PYTHONPATH"] == "/mine"


def test_what_was_set_for_ordinary_programs_gives_way():
    found = environment.variables({"JAX_PLATFORMS": "tpu", "HOME": "/h"}, None)
    assert found["JAX_PLATFORMS"] == "cpu" and found["HOME"] == "/h" and "PYTHONPATH" not in found
