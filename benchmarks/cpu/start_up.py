"""Seconds from the command to the end of the first step of a new run, phase by phase, with compiled programs cached.

    python -m benchmarks.cpu.start_up --output=start_up.json
    python -m benchmarks.cpu.start_up --config=FILE [--config.field=value ...] [--data_dir=FOLDER]

Runs are those of `python -m experiments.pretrain` in processes of their own, each in a fresh workdir. The first one
finds an empty cache of compiled programs (`cold`); --turns more follow (`warm`). Without --data_dir the quickstart's
data is prepared in a temporary folder before. The environment of the runs, `glibc_tunables` too, is that of
`make quickstart`. Prints one JSON object; processor seconds say more than seconds where other programs run.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app

from benchmarks.harness.measuring import host, report, rounded
from benchmarks.harness.processes import run
from benchmarks.harness.turns import TURNS, spread
from data_pipelines.preparation.run import prepare
from experiments.run.common_flags import DATA_DIR, OUTPUT
from experiments.run.config_flags import split_arguments
from pixelbert_jax.errors import ConfigError

CONFIG = "experiments/configs/pretrain_quickstart.py"
ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as the Makefile sets it
_PATIENCE = 600.0  # seconds for a run
_LEAST_SHOWN = 0.02  # seconds of a package's import
_IMPORT = re.compile(r"import time:\s*(\d+) \|\s*\d+ \| *(\S+)")


def measure(arguments: Sequence[str], data_dir: Path, turns: int) -> dict[str, Any]:
    """Run cold once, then warm.

    Args:
      arguments: of `experiments.pretrain`, the config among them.
      data_dir: prepared data.
      turns: warm runs.

    Raises:
      ConfigError: a run does not reach its first step; with what it printed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = [
            *arguments,
            f"--config.data.data_dir={data_dir}",
            f"--config.train.compilation_cache={folder / 'compiled'}",
        ]
        cold, *warm = (first_step(common, folder / str(turn)) for turn in range(1 + turns))
    return {
        **host(ENVIRONMENT),
        "cold_seconds": rounded(sum(cold["seconds"].values())),
        "seconds": spread([sum(found["seconds"].values()) for found in warm]),
        "processor_seconds": spread([found["all_processor_seconds"] for found in warm]),
        "phases": {
            phase: {
                kind: rounded(statistics.median(found[kind].get(phase, 0.0) for found in warm))
                for kind in ("seconds", "processor_seconds")
            }
            for phase in warm[0]["seconds"]
        },
        "programs": warm[0]["programs"],
        "imports": imports(),
    }


def first_step(arguments: Sequence[str], workdir: Path) -> dict[str, Any]:
    """One run until its first step is done: what `benchmarks.cpu.phases` reports."""
    found = workdir.with_suffix(".json")
    command = [sys.executable, "-m", "benchmarks.cpu.phases", str(found), str(time.monotonic())]
    code, printed = run([*command, *arguments, f"--workdir={workdir}"], _PATIENCE, ENVIRONMENT)
    if code != 0 or not found.is_file():
        raise ConfigError(f"The run did not reach its first step (exit code {code}); it printed: {printed}")
    return json.loads(found.read_text())


def imports() -> dict[str, float]:
    """Seconds that the program's imports take, by package, each without those that it imports; the largest first."""
    command = [sys.executable, "-X", "importtime", "-c", "import experiments.pretrain"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **ENVIRONMENT})
    found: Mapping[str, float] = packages(ended.stderr)
    return {name: rounded(found[name]) for name in sorted(found, key=found.get, reverse=True)}


def packages(importtime: str) -> dict[str, float]:
    """Seconds by package of what `python -X importtime` wrote; small ones together."""
    seconds: dict[str, float] = defaultdict(float)
    for microseconds, module in _IMPORT.findall(importtime):
        seconds[module.partition(".")[0]] += int(microseconds) / 1e6
    small = {name for name, value in seconds.items() if value < _LEAST_SHOWN}
    return {name: value for name, value in seconds.items() if name not in small} | {
        "all others": sum(seconds[name] for name in small)
    }


def main(_: list[str], config: str, overrides: Mapping[str, str]) -> None:
    """Entry point behind the flags."""
    arguments = [f"--config={config}", *(f"--config.{name}={value}" for name, value in overrides.items())]
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(DATA_DIR.value or folder).absolute()
        if not DATA_DIR.value:
            prepare("shapes", data_dir)
        report({"config": config} | measure(arguments, data_dir, TURNS.value), OUTPUT.value)


if __name__ == "__main__":
    rest, config_file, config_overrides = split_arguments(sys.argv)
    app.run(lambda arguments: main(arguments, config_file or CONFIG, config_overrides), argv=rest)
