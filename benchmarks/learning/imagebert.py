"""ImageBERT's ablations on drawn scenes: its tables 3 and 4 in miniature.

    python -m data_pipelines.prepare shapes --data_dir=data/regions --regions=drawn
    python -m data_pipelines.prepare noisy_shapes --data_dir=data/regions --regions=drawn
    python -m benchmarks.learning.imagebert --data_dir=data/regions --folder=runs/imagebert_ablations

Pre-trains every variant with the same number of steps, judges its four tasks on evaluation scenes, with each text's own
regions and with another scene's, and its retrieval of the test split, zero-shot and after fine-tuning with each loss.
Runs that are finished are not run again.
"""

import collections
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks.harness.comparing import metrics_in, run, table_of
from benchmarks.harness.shared_flags import FOLDER
from data_pipelines.storage.atomic_files import write_atomically
from data_pipelines.storage.records import open_records
from experiments.evaluation.metrics.retrieval import recalls
from experiments.run.common_flags import DATA_DIR, required
from experiments.run.config_flags import run_main
from pixelbert_jax.errors import ConfigError

_SEEDS = flags.DEFINE_integer("seeds", 2, "Seeds of each variant.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 2000, "Steps of each pre-training; must be even.", lower_bound=2)
_TABLES = flags.DEFINE_list("tables", ["pretraining", "stages", "finetuning"], "Which to make.")

_CONFIGS = "experiments/configs/"
_TASKS = ("itm_accuracy", "mlm_accuracy_words", "moc_accuracy", "mrfr_loss")
_RECALLS = ("text_recall_1", "text_recall_5", "image_recall_1", "image_recall_5")
_VARIANTS = {
    "all four tasks, 8 regions": [],
    "no region regression": ["task.mrfr_weight=0"],
    "no region classes": ["task.moc_weight=0"],
    "masked tasks of mismatched pairs too": ["task.conditional_mask=false"],
    "feature of the whole image": ["data.whole_image=stored", "model.regions.global_size=192"],
    "3 regions": ["data.regions=3"],
}
_STAGES = {
    "noisy, then clean": "two",
    "noisy and clean at once": "one",
    "noisy alone": "noisy",
    "clean alone": "clean",
}
_LOSSES = {
    "binary": (1, 0, 0),
    "multi-class": (0, 1, 0),
    "triplet": (0, 0, 1),
    "all three": (1, 1, 1),
}


def main() -> None:
    """Run what is missing, then print the tables."""
    required(DATA_DIR, FOLDER)
    folder = Path(FOLDER.value)
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"pretraining": _pretraining, "stages": _stages, "finetuning": _finetuning}
    for name in _TABLES.value:
        rows: dict[str, list[Mapping[str, float]]] = collections.defaultdict(list)
        for label, metrics in makers[name](folder):
            rows[label].append(metrics)
        rows["chance"] = [_chance()]
        table = table_of((*(() if name == "finetuning" else _TASKS), *_RECALLS), rows)
        write_atomically(folder / f"{name}.md", table)
        print(f"\n{name}\n{table}", flush=True)


def _pretraining(folder: Path) -> Iterator[tuple[str, Mapping[str, float]]]:
    for seed in range(_SEEDS.value):
        for label, overrides in _VARIANTS.items():
            yield from _judged(folder, label, "imagebert_shapes.py", [f"train.steps={_STEPS.value}", *overrides], seed)


def _stages(folder: Path) -> Iterator[tuple[str, Mapping[str, float]]]:
    for seed in range(_SEEDS.value):
        for label, argument in _STAGES.items():
            parts = 2 if argument == "two" else 1
            steps = [f"stages.{part}.steps={_STEPS.value // parts}" for part in range(parts)]
            yield from _judged(folder, label, f"imagebert_stages.py:{argument}", steps, seed)


def _judged(
    folder: Path, label: str, config: str, overrides: list[str], seed: int
) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Figures of a pre-training with the true and with other regions, and zero-shot recalls."""
    workdir = folder / f"{label.replace(',', '').replace(' ', '-')}-{seed}"
    _train("experiments.pretrain", workdir, config, overrides, seed)
    metrics = {**_evaluation(workdir), **_recalls(workdir)}
    yield label, metrics
    if label == next(iter(_VARIANTS)):
        columns = json.loads((workdir / "report.json").read_text())
        for column in ("shuffled images", "text alone", "usual region"):
            yield f"its control: {column}", {k: v for k, v in columns[column].items() if k in _TASKS}


def _finetuning(folder: Path) -> Iterator[tuple[str, Mapping[str, float]]]:
    for seed in range(_SEEDS.value):
        first = folder / f"all-four-tasks-8-regions-{seed}"
        _train("experiments.pretrain", first, "imagebert_shapes.py", [f"train.steps={_STEPS.value}"], seed)
        yield "not fine-tuned", _recalls(first)
        for label, weights in _LOSSES.items():
            names = ("binary", "multiclass", "triplet")
            losses = [f"task.{name}_weight={weight}" for name, weight in zip(names, weights, strict=True)]
            workdir = folder / f"fine-tuned-{label.replace(' ', '-')}-{seed}"
            overrides = [f"init.checkpoint={first}", *losses]
            _train("experiments.finetune", workdir, "imagebert_retrieval_shapes.py", overrides, seed)
            yield label, _recalls(workdir)


def _train(program: str, workdir: Path, config: str, overrides: list[str], seed: int) -> None:
    finished, settings = workdir / "finished", "\n".join([config, *overrides])
    if finished.exists():
        if finished.read_text() != settings:
            raise ConfigError(f"{workdir} holds a run with other settings; give another --folder.")
        return
    fields = [f"seed={seed}", f"data.data_dir={DATA_DIR.value}", *overrides]
    run([program, f"--config={_CONFIGS}{config}", f"--workdir={workdir}", *(f"--config.{field}" for field in fields)])
    write_atomically(finished, settings)


def _evaluation(workdir: Path) -> dict[str, float]:
    """The last evaluation metrics of a run."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = next(record for record in reversed(records) if "eval/itm_accuracy" in record)
    return {name: last[f"eval/{name}"] for name in _TASKS if f"eval/{name}" in last}


def _recalls(workdir: Path) -> dict[str, float]:
    """Recalls of the test split; kept in the workdir."""
    kept = workdir / "recalls.json"
    if not kept.exists():
        where = [f"--workdir={workdir}", f"--data_dir={DATA_DIR.value}", f"--output={workdir / 'scores.npz'}"]
        printed = run(["experiments.evaluate", *where, "--dataset=shapes", "--split=test"])
        write_atomically(kept, json.dumps(metrics_in(printed)))
    return json.loads(kept.read_text())


def _chance() -> dict[str, float]:
    """Recalls of random scores, of mismatched pairs by tossing a coin."""
    evaluation = open_records(DATA_DIR.value, "shapes", "test")
    shape = (len(evaluation), int(evaluation.index.num_texts.sum()))
    image_of_text = np.repeat(np.arange(len(evaluation)), evaluation.index.num_texts)
    generator = np.random.default_rng(0)
    draws = [recalls(generator.random(shape), image_of_text) for _ in range(100)]
    return {"itm_accuracy": 0.5} | {name: float(np.mean([draw[name] for draw in draws])) for name in _RECALLS}


if __name__ == "__main__":
    run_main(main, takes_config=False)
