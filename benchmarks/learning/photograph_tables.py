"""The results of the experiment on photographs as tables, curves and one JSON file."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from benchmarks.harness.comparing import table_of
from benchmarks.harness.measuring import host
from benchmarks.learning.photograph_parts import ABLATIONS, PRETRAINED, SEEDS
from benchmarks.learning.workspace import Workspace
from data_pipelines.storage.atomic_files import write_atomically
from experiments.run.metric_writer import read_metrics

_TASKS = {"itm_accuracy": "ITM", "mlm_accuracy_matched": "MLM", "mlm_accuracy_words": "MLM, 60 nouns and colours"}
_RECALLS = tuple(f"{kind}_recall_{k}" for kind in ("text", "image") for k in (1, 5, 10))
_NAMES = {name: f"{name.split('_')[0]} R@{name.split('_')[-1]}" for name in _RECALLS}
_RETRIEVAL = _NAMES | {"itm_accuracy": "ITM, all pairs"}
_Rows = dict[str, Sequence[Mapping[str, float]]]


def write_tables(workspace: Workspace) -> None:
    """Write tables.md, results.json and, where there is a curve, curves.png into the workspace's folder."""
    files = sorted((workspace.folder / "results").glob("*.json"))
    kept = {file.stem: json.loads(file.read_text()) for file in files}
    write_atomically(workspace.folder / "tables.md", tables({label: each["result"] for label, each in kept.items()}))
    content = {"machine": host(), "setting": workspace.setting, "tiny": workspace.tiny, "kept": kept}
    write_atomically(workspace.folder / "results.json", json.dumps(content, indent=1) + "\n")
    _draw_curves(workspace)


def tables(results: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown of all results that there are."""
    parts = {
        "Flickr8k's test split: image-text matching and masked tokens": _table(_TASKS, _task_rows(results)),
        "Retrieval on some images of Flickr8k's test split": _table(_RETRIEVAL, _retrieval_rows(results)),
        "Retrieval on the whole test split": _table(
            _NAMES,
            _with_chance(
                _with_control(results, "fine-tuned, pre-trained", ["whole_split"]), results.get("whole_split")
            ),
        ),
        "DAQUAR's test questions": _table({"accuracy": "accuracy"}, _daquar_rows(results)),
        "Ablation: retrieval, fine-tuned, one seed": _table(_NAMES, _ablation_rows(results)),
    }
    return "\n".join(f"{title}\n\n{table}" for title, table in parts.items() if table)


def _table(columns: Mapping[str, str], rows: _Rows) -> str:
    """Rows without any result are left out; no rows, no table."""
    rows = {label: found for label, runs in rows.items() if (found := [run for run in runs if run])}
    renamed = {
        label: [{columns[k]: v for k, v in run.items() if k in columns} for run in runs] for label, runs in rows.items()
    }
    return table_of(tuple(columns.values()), renamed) if rows else ""


def _task_rows(results: Mapping[str, Mapping[str, float]]) -> _Rows:
    rows = {"true images": "tasks", "shuffled images": "tasks_shuffled", "text alone": "tasks_text_alone"}
    found = {label: [results[name]] for label, name in rows.items() if name in results}
    return found | ({"chance": [{"itm_accuracy": 0.5}]} if found else {})


def _retrieval_rows(results: Mapping[str, Mapping[str, float]]) -> _Rows:
    kinds = {
        "pre-trained, not fine-tuned": ["zero_shot"],
        "fine-tuned, pre-trained": [f"retrieval_pretrained_{seed}" for seed in SEEDS],
        "fine-tuned, published weights alone": [f"retrieval_published_{seed}" for seed in SEEDS],
    }
    rows: _Rows = {}
    for label, names in kinds.items():
        rows |= _with_control(results, label, names)
    first = next((results[name] for names in kinds.values() for name in names if name in results), None)
    return _with_chance(rows, first)


def _with_chance(rows: _Rows, scores: Mapping[str, float] | None) -> _Rows:
    """The rows, and one of chance for as many images and texts."""
    return rows | ({"chance": [chance_recalls(int(scores["images"]), int(scores["texts"]))]} if scores else {})


def _ablation_rows(results: Mapping[str, Mapping[str, float]]) -> _Rows:
    rows: _Rows = {}
    for name in ABLATIONS:
        label = "no pre-training" if name == "none" else name.replace("_", " ")
        rows |= _with_control(results, label, [f"ablation_{name}_retrieval"])
    ours = [f"ablation_{name}_retrieval" in results for name in ABLATIONS]
    return {label: runs for label, runs in rows.items() if any(ours) and "shuffled" not in label}


def _with_control(results: Mapping[str, Mapping[str, float]], label: str, names: Sequence[str]) -> _Rows:
    """A row of scores, and one of the same scores with shuffled images."""
    found = [results[name] | results.get(f"{name}_controls", {}) for name in names if name in results]
    shuffled = [
        {key.removeprefix("shuffled/"): value for key, value in run.items() if key.startswith("shuffled/")}
        for run in found
    ]
    return {label: found, f"{label}, shuffled images": shuffled}


def _daquar_rows(results: Mapping[str, Mapping[str, float]]) -> _Rows:
    blind = results.get("daquar_blind", {})
    guesses = {"usual answer": "usual_answer", "answer of the nearest training question": "nearest_question"}
    rows: _Rows = {label: [{"accuracy": blind[key]}] for label, key in guesses.items() if key in blind}
    for start, label in (("pretrained", "pre-trained"), ("published", "published weights alone")):
        for suffix, more in (("", ""), ("_shuffled", ", shuffled images")):
            names = [f"daquar_{start}_{seed}{suffix}" for seed in SEEDS]
            rows[f"{label}{more}"] = [results[name] for name in names if name in results]
    return rows


def chance_recalls(images: int, texts: int) -> dict[str, float]:
    """Expected recalls of a random order, where every image has the same number of texts."""
    own = texts // images

    def share(items: int, right: int, k: int) -> float:
        return 1 - math.comb(items - right, k) / math.comb(items, k)

    of_text = {f"text_recall_{k}": share(texts, own, min(k, texts)) for k in (1, 5, 10)}
    return of_text | {f"image_recall_{k}": share(images, 1, min(k, images)) for k in (1, 5, 10)}


def _draw_curves(workspace: Workspace) -> None:
    """Scores on the validation split of all pre-training runs, by step."""
    labels = {PRETRAINED: "pre-training"} | {f"ablation_{name}": name.replace("_", " ") for name in ABLATIONS}
    files = {name: workspace.workdir(name) / "metrics.jsonl" for name in labels}
    points = {labels[name]: _evaluations(file) for name, file in files.items() if file.exists()}
    points = {label: records for label, records in points.items() if records}
    if not points:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(1, len(_TASKS), figsize=(15, 4.5), layout="constrained")
    for axes, (name, title) in zip(all_axes, _TASKS.items(), strict=True):
        for label, records in points.items():
            seen = [(record["step"], record[f"eval/{name}"]) for record in records if f"eval/{name}" in record]
            if seen:
                axes.plot(*zip(*seen, strict=True), marker=".", label=label)
        axes.set(title=f"{title}, validation split", xlabel="step", ylabel="accuracy")
        axes.grid(alpha=0.3)
        axes.legend()
    png = io.BytesIO()
    figure.savefig(png, dpi=80)
    pyplot.close(figure)
    write_atomically(workspace.folder / "curves.png", png.getvalue())


def _evaluations(file: Path) -> list[dict[str, float]]:
    return [record for record in read_metrics(file) if "eval/itm_accuracy" in record]
