"""The TPU's compiler, libtpu, in a folder of its own, and a process that can import it.

With libtpu among the ordinary packages, programs on machines without a TPU print start-up errors. So libtpu is
installed in a separate folder, in the version that the installed JAX requires. The preflight then starts itself again
with that folder on its path: the same interpreter and packages, plus libtpu.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.run.progress import say
from pixelbert_jax.errors import ConfigError

CACHE = "~/.cache/pixelbert_jax"
MARK = "PIXELBERT_JAX_PREFLIGHT"  # set in the process that can import libtpu
_VARIABLES = {
    MARK: "1",
    "JAX_PLATFORMS": "cpu",  # only the compiler runs
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is used, so another process may have one
    "TPU_SKIP_MDS_QUERY": "1",  # do not query a cloud for the type of this machine
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # any will do
    "TPU_WORKER_HOSTNAMES": "localhost",
}
Runner = Callable[..., subprocess.CompletedProcess]


def inside() -> bool:
    """Whether this process was started with libtpu on its path."""
    return MARK in os.environ


def run_again(module: str, arguments: Sequence[str], *, run: Runner = subprocess.run) -> int:
    """Run `python -m module arguments` with libtpu on its path; returns the exit code.

    Raises:
      ConfigError: libtpu is not there and cannot be fetched.
    """
    folder = None if importlib.util.find_spec("libtpu") else library_folder(run=run)
    command = [sys.executable, "-m", module, *arguments]
    return run(command, env=variables(os.environ, folder), check=False).returncode


def variables(environment: Mapping[str, str], folder: Path | None) -> dict[str, str]:
    """The environment of the process that can import libtpu."""
    paths = [str(folder)] if folder else []
    paths += [path for path in (environment.get("PYTHONPATH"),) if path]
    changed = {**environment, **_VARIABLES}
    return {**changed, "PYTHONPATH": os.pathsep.join(paths)} if paths else changed


def library_folder(cache: Path | None = None, *, run: Runner = subprocess.run) -> Path:
    """The folder with libtpu for this Python and JAX; it is filled on first use.

    Raises:
      ConfigError: there is no pip, or pip cannot fetch it.
    """
    cache = cache or Path(CACHE).expanduser()
    jax_version = importlib.metadata.version("jax")
    folder = cache / f"preflight-jax{jax_version}-{sys.implementation.cache_tag}"
    if folder.is_dir():
        return folder
    wanted = requirement()
    if importlib.util.find_spec("pip") is None:
        raise ConfigError(
            f"libtpu is fetched with pip, which {sys.executable} has not; install pip, or fetch it yourself: "
            f"uv pip install --no-deps --target {folder} '{wanted}'."
        )
    say(f"fetching the TPU's compiler, {wanted}, into {folder} (once, 700 MB)")
    cache.mkdir(parents=True, exist_ok=True)
    # A folder that is there is complete: pip writes elsewhere first.
    unfinished = Path(tempfile.mkdtemp(prefix="preflight-unfinished-", dir=cache))
    try:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(unfinished), wanted]
        done = run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ConfigError(
                f"{wanted} cannot be fetched ({reason}); connect this machine to a package index, or copy {folder} "
                "from one that is."
            )
        unfinished.chmod(0o755)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def requirement() -> str:
    """The libtpu that belongs to the installed JAX, as its own extra `tpu` names it."""
    named = [text.split(";")[0].strip() for text in importlib.metadata.requires("jax") or ()]
    return next((text for text in named if text.startswith("libtpu")), "libtpu")
