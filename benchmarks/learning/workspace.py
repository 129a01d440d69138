"""A folder in which programs of this project run one after the other; what is finished is not run again."""

import dataclasses
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.whole_files import write_atomically
from experiments.progress import say
from pixelbert_jax.errors import ConfigError

_SCORE = re.compile(r"^(\S+) {2,}(-?[\d.]+)$")
_FINISHED = "done: "  # how the line begins that pretrain and finetune end with


@dataclasses.dataclass(frozen=True)
class Workspace:
    """Where runs and results of an experiment lie, and what all of its trainings share.

    Attributes:
      folder: gets `runs/LABEL`, `results/LABEL.json` and scores.
      data_dir: of the prepared data sets.
      weights: `config.field=value` of the published weights.
      setting: the argument of the configs.
      overrides: `config.field=value` of every training, by its config's name; under "" those of all.
    """

    folder: Path
    data_dir: Path
    weights: tuple[str, ...]
    setting: str
    overrides: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    tiny: bool = False  # only to see that everything runs

    def workdir(self, label: str) -> Path:
        """Of a training run."""
        return self.folder / "runs" / label

    def train(self, label: str, config: str, *, start: str = "", seed: int = 0, overrides: Sequence[str] = ()) -> Path:
        """Train a config to its end, or go on where an earlier call was stopped.

        Args:
          label: of the run.
          config: name of a file in experiments/configs.
          start: label of the run whose parameters it begins with; empty: the published weights.
          seed: of the run.
          overrides: more `field=value`.

        Returns:
          The workdir.
        """
        workdir, marker = self.workdir(label), self.workdir(label) / "finished.json"
        if marker.exists():
            return workdir
        program = "pretrain" if config.startswith("pretrain") else "finetune"
        beginning = [f"init.checkpoint={self.workdir(start)}"] if start else self.weights
        fields = [
            f"data.data_dir={self.data_dir}",
            f"seed={seed}",
            *beginning,
            *self.overrides.get("", ()),
            *self.overrides.get(config, ()),
            *overrides,
        ]
        command = [
            f"experiments.{program}",
            f"--config=experiments/configs/{config}.py:{self.setting}",
            f"--workdir={workdir}",
            *(f"--config.{field}" for field in fields),
        ]
        seconds, printed = run(command)
        if not any(line.startswith(_FINISHED) for line in printed):
            sys.exit(f"{label} was stopped; the same command goes on from there.")
        write_atomically(marker, json.dumps({"command": command, "seconds_of_the_last_call": round(seconds)}))
        return workdir

    def evaluate(self, label: str, workdir: Path, suffix: str, *arguments: str) -> dict[str, float]:
        """The scores that `experiments.evaluate` prints; its output is `scores/LABEL` with that suffix."""
        output = self.folder / "scores" / f"{label}{suffix}"
        output.parent.mkdir(parents=True, exist_ok=True)

        def work() -> dict[str, float]:
            command = ["experiments.evaluate", f"--workdir={workdir}", f"--data_dir={self.data_dir}"]
            _, printed = run([*command, f"--output={output}", *arguments])
            return scores_in(printed)

        return self.kept(label, work)

    def kept(self, label: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of some work, done once and kept in `results/LABEL.json`."""
        file = self.folder / "results" / f"{label}.json"
        if not file.exists():
            result = work()
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(result, indent=1) + "\n")
        return json.loads(file.read_text())

    def result(self, label: str) -> dict[str, Any] | None:
        """A kept result; None if there is none yet."""
        file = self.folder / "results" / f"{label}.json"
        return json.loads(file.read_text()) if file.exists() else None


def run(command: Sequence[str]) -> tuple[float, list[str]]:
    """Run a module of this project, given its name and arguments, and pass on what it prints.

    A program that is still at work when this one ends is asked to stop, which saves a training run.

    Returns:
      Seconds that it took, and the lines that it printed.

    Raises:
      ConfigError: it failed.
    """
    say("python -m " + " ".join(command))
    began, lines = time.monotonic(), []
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            say(f"  {lines[-1]}")
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    if process.returncode:
        raise ConfigError(f"{command[0]} failed with exit code {process.returncode}; its message stands above.")
    return time.monotonic() - began, lines


def scores_in(lines: Sequence[str]) -> dict[str, float]:
    """The scores in what evaluate prints."""
    return {match[1]: float(match[2]) for line in lines if (match := _SCORE.match(line))}
