"""Does pre-training help the small model? Three tasks on real data, from a pre-trained model and from nothing.

    python -m benchmarks.learning.downstream --pretrained=runs/tiny --data_dir=data --folder=runs/downstream

Fine-tunes with the same budget and several seeds, evaluates on the evaluation split with the true and with shuffled
images, and prints a table with the guesses that see no image. Runs that are finished are not run again. Data sets:
daquar, nlvr and flickr8k, prepared; the tasks that are to be run can be chosen with --tasks.
"""

import collections
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks.harness.comparing import metrics_in, run, table_of
from benchmarks.harness.shared_flags import FOLDER
from benchmarks.learning.blind_guesses import nearest, questions, usual
from data_pipelines.storage.atomic_files import write_atomically
from data_pipelines.storage.records import open_records
from experiments.evaluation.metrics.retrieval import recalls
from experiments.run.common_flags import DATA_DIR, required
from experiments.run.config_flags import run_main
from pixelbert_jax.errors import ConfigError

_PRETRAINED = flags.DEFINE_string("pretrained", "", "Workdir of the pre-training run.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of each start.")
_TASKS = flags.DEFINE_list("tasks", ["daquar", "nlvr", "flickr8k"], "Which to run.")
_OVERRIDES = flags.DEFINE_list("overrides", [], "config.field=value of every fine-tuning.")

_RECALLS = ("text_recall_1", "text_recall_10", "image_recall_1", "image_recall_10")


@dataclasses.dataclass(frozen=True)
class _Experiment:
    """A task on a data set."""

    config: str
    train: tuple[str, ...]
    split: str
    output: str
    metrics: tuple[str, ...]


_EXPERIMENTS = {
    "daquar": _Experiment("vqa_tiny", ("train",), "test", "predictions.json", ("accuracy",)),
    "nlvr": _Experiment("nlvr_tiny", ("train", "train2"), "dev", "predictions.csv", ("accuracy", "consistency")),
    "flickr8k": _Experiment("retrieval_tiny", ("train",), "test", "scores.npz", _RECALLS),
}


def main() -> None:
    """Run what is missing, then print the table."""
    required(DATA_DIR, _PRETRAINED, FOLDER)
    unknown = [name for name in _TASKS.value if name not in _EXPERIMENTS]
    if unknown:
        raise ConfigError(f"--tasks: {', '.join(unknown)} unknown; choose from {', '.join(_EXPERIMENTS)}.")
    folder = Path(FOLDER.value)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _TASKS.value:
        experiment = _EXPERIMENTS[name]
        rows: dict[str, list[Mapping[str, float]]] = collections.defaultdict(list)
        rows |= {label: [found] for label, found in _blind(name, experiment).items()}
        if name == "flickr8k":
            _add(
                rows, "pre-trained, not fine-tuned", _scores(name, experiment, Path(_PRETRAINED.value), folder / "zero")
            )
        for seed in range(_SEEDS.value):
            for start in ("pre-trained", "from nothing"):
                workdir = folder / f"{name}-{start.replace(' ', '-')}-{seed}"
                _fine_tune(experiment, workdir, start, seed)
                _add(rows, start, _scores(name, experiment, workdir, workdir))
        table = table_of(experiment.metrics, rows)
        write_atomically(folder / f"{name}.md", table)
        print(f"\n{name}, {experiment.split}\n{table}", flush=True)


def _add(rows: dict[str, list[Mapping[str, float]]], label: str, scores: Mapping[str, Mapping[str, float]]) -> None:
    rows[label].append(scores["true"])
    rows[f"{label}, shuffled images"].append(scores["shuffled"])


def _fine_tune(experiment: _Experiment, workdir: Path, start: str, seed: int) -> None:
    if (workdir / "scores.json").exists():
        return
    command = [
        "experiments.finetune",
        f"--config=experiments/configs/{experiment.config}.py",
        f"--workdir={workdir}",
        f"--config.data.data_dir={DATA_DIR.value}",
        f"--config.data.vocabulary={Path(_PRETRAINED.value) / 'vocab.txt'}",
        f"--config.seed={seed}",
        *(f"--config.{override}" for override in _OVERRIDES.value),
    ]
    run([*command, *([f"--config.init.checkpoint={_PRETRAINED.value}"] if start == "pre-trained" else [])])


def _scores(name: str, experiment: _Experiment, model: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Scores with the true and with shuffled images; kept in `folder`."""
    kept = folder / "scores.json"
    if kept.exists():
        return json.loads(kept.read_text())
    folder.mkdir(exist_ok=True)
    found = {"true": _evaluate(name, experiment, model, folder / experiment.output)}
    if name == "flickr8k":  # the scores of all pairs are known: only what is called right has to move
        with np.load(folder / experiment.output, allow_pickle=False) as stored:
            other = (stored["image_of_text"] + 1) % len(stored["scores"])
            found["shuffled"] = recalls(stored["scores"], other)
    else:
        output = folder / f"shuffled-{experiment.output}"
        found["shuffled"] = _evaluate(name, experiment, model, output, "--shuffle_images")
    write_atomically(kept, json.dumps(found, indent=1))
    return found


def _evaluate(name: str, experiment: _Experiment, model: Path, output: Path, *more: str) -> dict[str, float]:
    command = ["experiments.evaluate", f"--workdir={model}", f"--dataset={name}", f"--data_dir={DATA_DIR.value}"]
    return metrics_in(run([*command, f"--split={experiment.split}", f"--output={output}", *more]))


def _blind(name: str, experiment: _Experiment) -> dict[str, dict[str, float]]:
    """Figures of guesses that see no image."""
    evaluation = open_records(DATA_DIR.value, name, experiment.split)
    if name == "flickr8k":
        shape = (len(evaluation), int(evaluation.index.num_texts.sum()))
        generator = np.random.default_rng(0)
        image_of_text = np.repeat(np.arange(len(evaluation)), evaluation.index.num_texts)
        draws = [recalls(generator.permutation(math.prod(shape)).reshape(shape), image_of_text) for _ in range(100)]
        return {"chance": {key: float(np.mean([draw[key] for draw in draws])) for key in experiment.metrics}}
    train = [open_records(DATA_DIR.value, name, split) for split in experiment.train]
    known, asked = [q for records in train for q in questions(records)], list(questions(evaluation))
    most_frequent = usual(known)
    found = {"usual answer": [answer == most_frequent for _, answer in asked]}
    if name == "daquar":
        found["answer of the nearest question"] = nearest(known, asked)
    return {label: {"accuracy": float(np.mean(right))} for label, right in found.items()}


if __name__ == "__main__":
    run_main(main, takes_config=False)
