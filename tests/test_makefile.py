"""Which Python the make targets set up."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def set_up(target, folder, working, *, broken=(), **variables):
    """The Python with which a target makes its virtual environment, if PATH has only these."""
    for name in (*working, *broken):
        script = folder / name
        script.write_text(f"#!/bin/sh\nexit {int(name in broken)}\n")
        script.chmod(0o755)
    given = [f"{name}={value}" for name, value in variables.items()]
    command = [shutil.which("make"), "--dry-run", "--makefile", str(ROOT / "Makefile"), f"VENV={folder}/none", target]
    environment = {**os.environ, "PATH": f"{folder}:/bin" if not Path("/bin").is_symlink() else str(folder)}
    environment |= {"MAKEFLAGS": "", "SHELL": "/bin/sh"}
    done = subprocess.run([*command, *given], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.endswith(f"-m venv {folder}/none")]
    return line.partition("|| ")[2].partition(" ")[0]


def test_the_quickstart_takes_the_newest_that_works(tmp_path):
    assert set_up("quickstart", tmp_path, ["python3.11", "python3.12"], broken=["python3.13"]) == "python3.12"


def test_the_tests_take_the_one_with_pytorch(tmp_path):
    assert set_up("test", tmp_path, ["python3.11", "python3.12", "python3.13"]) == "python3.11"


def test_without_any_of_them_it_is_python3(tmp_path):
    assert set_up("quickstart", tmp_path, []) == "python3"


def test_a_python_that_is_named_is_taken(tmp_path):
    assert set_up("quickstart", tmp_path, ["python3.13"], PYTHON="python3.11") == "python3.11"
