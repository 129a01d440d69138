"""A folder in which programs of this project run one after the other; what is finished is not run again."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.storage.atomic_files import write_atomically
from experiments.run.progress import say
from pixelbert_jax.errors import ConfigError

_SCORE = re.compile(r"^(\S+) +(-?[\d.]+)$")
_FINISHED = "done: "  # how the line begins that pretrain and finetune end with


@dataclasses.dataclass(frozen=True)
class Workspace:
    """Where runs and results of an experiment lie, and what all of its trainings share.

    Attributes:
      folder: gets `runs/LABEL`, `results/LABEL.json` and `scores/LABEL.*`.
      data_dir: of the prepared data sets.
      weights: `field=value` of the published weights, for trainings that start from these.
      setting: the argument of the configs.
      overrides: `field=value` of trainings, by the name of their config; under "" those of all.
      tiny: only to see that everything runs.
    """

    folder: Path
    data_dir: Path
    weights: tuple[str, ...]
    setting: str
    overrides: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    tiny: bool = False

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

        Raises:
          ConfigError: the run failed, or a finished run of that label was made by another command.
          SystemExit: it was stopped.
        """
        program = "pretrain" if config.startswith("pretrain") else "finetune"
        fields = [
            f"data.data_dir={self.data_dir}",
            f"seed={seed}",
            *([f"init.checkpoint={self.workdir(start)}"] if start else ("init.checkpoint=", *self.weights)),
            *self.overrides.get("", ()),
            *self.overrides.get(config, ()),
            *overrides,
        ]
        command = [
            f"experiments.{program}",
            f"--config=experiments/configs/{config}.py:{self.setting}",
            f"--workdir={self.workdir(label)}",
            *(f"--config.{field}" for field in fields),
        ]

        def work() -> dict[str, Any]:
            if not any(line.startswith(_FINISHED) for line in run(command)):
                sys.exit(f"{label} was stopped; the same command goes on from there.")
            return {}

        self._kept(self.workdir(label) / "finished.json", command, work)
        return self.workdir(label)

    def evaluate(self, label: str, workdir: Path, suffix: str, *arguments: str) -> dict[str, float]:
        """The scores that `experiments.evaluate` prints, kept in `results/LABEL.json`.

        Args:
          label: of the result.
          workdir: of the run.
          suffix: of the file with the model's output, `scores/LABEL` with that suffix.
          arguments: more of the command line.

        Raises:
          ConfigError: it failed, it printed no score, or a kept result was made by another command.
        """
        output = self.folder / "scores" / f"{label}{suffix}"
        output.parent.mkdir(parents=True, exist_ok=True)
        command = ["experiments.evaluate", f"--workdir={workdir}", f"--data_dir={self.data_dir}"]
        command += [f"--output={output}", *arguments]
        return self.kept(label, command, lambda: scores_in(run(command)))

    def kept(self, label: str, origin: Sequence[str], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of some work, done once and kept in `results/LABEL.json`.

        Args:
          label: of the result.
          origin: all that it depends on, as text.
          work: gives it.

        Raises:
          ConfigError: a kept result has another origin.
        """
        return self._kept(self.folder / "results" / f"{label}.json", origin, work)

    def _kept(self, file: Path, origin: Sequence[str], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if file.exists():
            kept = json.loads(file.read_text())
            if kept["origin"] != list(origin):
                differing = sorted(set(kept["origin"]) ^ set(origin))
                raise ConfigError(
                    f"{file} was made in another way ({', '.join(differing)[:300]}); use another --folder, or remove "
                    "what is to be made again."
                )
            return kept["result"]
        result = work()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps({"origin": list(origin), "result": result}, indent=1) + "\n")
        return result


def run(command: Sequence[str]) -> list[str]:
    """Run a module of this project, given its name and arguments, and pass on what it prints.

    If this process is asked to stop, so is the module; a training run then saves its state.

    Returns:
      The lines that it printed.

    Raises:
      ConfigError: it failed.
    """
    say("python -m " + " ".join(command))
    lines: list[str] = []
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True)

    def pass_on() -> None:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            say(f"  {lines[-1]}")

    try:
        pass_on()
    finally:
        if process.poll() is None:
            process.terminate()
            pass_on()
        process.wait()
    if process.returncode:
        raise ConfigError(
            f"{command[0]} failed with exit code {process.returncode}; mend what its message above says, and give the "
            "same command again."
        )
    return lines


def scores_in(lines: Sequence[str]) -> dict[str, float]:
    """The scores in what evaluate prints, a name and a number a line.

    Raises:
      ConfigError: there is none.
    """
    found = {match[1]: float(match[2]) for line in lines if (match := _SCORE.match(line))}
    if not found:
        raise ConfigError("experiments.evaluate printed no score; give its command by itself to see what it says.")
    return found
