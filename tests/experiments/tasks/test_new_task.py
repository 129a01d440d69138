"""A task that the project does not know is added in three files and one line, and every program takes it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = Path(__file__).with_name("caption_length")
ADDED = {
    "task.py": "pixelbert_jax/tasks/caption_length.py",
    "batches.py": "data_pipelines/batches/caption_length.py",
    "recipe.py": "experiments/tasks/caption_length.py",
}
LINE = '    "caption_length": ("CaptionLengthConfig", "CaptionLengthTask"),\n'
CONFIG = """
import dataclasses
from tests.experiments.tiny_config import get_config as tiny
from pixelbert_jax.tasks.caption_length import CaptionLengthConfig

def get_config():
    config = tiny()
    return dataclasses.replace(
        config,
        task=CaptionLengthConfig(scale=20.0),
        train=dataclasses.replace(config.train, steps=8),
        checkpoint=dataclasses.replace(config.checkpoint, every=2),
        evaluation=dataclasses.replace(config.evaluation, every=4, words=(), images=8),
    )
"""
# In one process, so that what is imported and compiled is there once.
PROGRAMS = """
import json, signal, sys
from absl import flags
from pathlib import Path
from absl.testing import flagsaver
from experiments import evaluate, export, finetune
from experiments.run import loop
from experiments.run.config_flags import load_config
from experiments.run.metric_writer import MetricWriter
import pixelbert_jax

data, folder = sys.argv[1:]
flags.FLAGS(["new_task"])
config = load_config("new_task_config.py", {"data.data_dir": data})

class Stopped(Exception): ...

def stopping(self, step, metrics, write=MetricWriter.write):
    write(self, step, metrics)
    if step == 5:
        raise Stopped

with flagsaver.flagsaver(workdir=f"{folder}/whole"):
    finetune.main(config)
with flagsaver.flagsaver(workdir=f"{folder}/stopped"):
    write, MetricWriter.write = MetricWriter.write, stopping
    try:
        finetune.main(config)
    except Stopped:
        print("stopped")
    MetricWriter.write = write
    finetune.main(config)
with flagsaver.flagsaver(workdir=f"{folder}/whole", split="validation", output=f"{folder}/lengths.json"):
    evaluate.main()
with flagsaver.flagsaver(workdir=f"{folder}/whole", output=f"{folder}/shared"):
    export.main()
print(type(pixelbert_jax.load(f"{folder}/shared").task).__name__)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The project with the new task."""
    root = tmp_path_factory.mktemp("tree")
    for package in ("pixelbert_jax", "data_pipelines", "experiments"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "experiments/__init__.py", "experiments/tiny_config.py"):
        (root / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / name, root / "tests" / name)
    for source, target in ADDED.items():
        assert not (root / target).exists()
        shutil.copy(FILES / source, root / target)
    registry = root / "pixelbert_jax/tasks/registry.py"
    before, after = registry.read_text().split('    "retrieval": ')
    registry.write_text(f'{before}{LINE}    "retrieval": {after}')
    (root / "new_task_config.py").write_text(CONFIG)
    return root


def test_every_program_takes_a_new_task(tree, data_dir, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS, str(data_dir), str(tmp_path)], cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "stopped" in done.stdout and done.stdout.splitlines()[-1] == "CaptionLengthTask"

    def metrics(run: str) -> list[dict]:
        rows = map(json.loads, (tmp_path / run / "metrics.jsonl").read_text().splitlines())
        return [{key: value for key, value in row.items() if not key.startswith("rate/")} for row in rows]

    whole = metrics("whole")
    assert whole == metrics("stopped")
    evaluated = [row["eval/length_loss"] for row in whole if "eval/length_loss" in row]
    assert len(evaluated) >= 2 and evaluated[-1] < evaluated[0]
    guesses = json.loads((tmp_path / "lengths.json").read_text())
    assert len(guesses) > 8 and f"{'mean_absolute_error':40}" in done.stdout
    card = (tmp_path / "shared" / "README.md").read_text()
    assert "fine-tuned to guess the length of a caption" in card and "in tens of tokens" in card
