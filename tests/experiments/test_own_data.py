"""docs/data.md, "From your own files to a model": its commands, on files as a user would have them."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.run.config_flags import load_config, split_arguments
from experiments.run.validation import validate

ROOT = Path(__file__).parents[2]
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
FEW = (
    "--config.train.steps=2",
    "--config.evaluation.every=2",
    "--config.evaluation.images=4",
    "--config.checkpoint.every=2",
    "--config.data.batch_images=4",
)


def commands() -> list[list[str]]:
    """Words of each command of the section."""
    document = (ROOT / "docs" / "data.md").read_text()
    section = re.search(r"## From your own files to a model\n(.*?)\n## ", document, re.DOTALL)[1]
    return [shlex.split(line) for line in section.splitlines() if line.startswith("    python -m ")]


def write_files(folder: Path) -> None:
    """Images of one colour with captions, questions and pairs, in the layouts of docs/data.md."""
    names = list(COLOURS)
    for source in ("my_data", "my_questions", "my_pairs"):
        (folder / source).mkdir()
        for i in range(12):
            Image.fromarray(np.full((60, 80, 3), COLOURS[names[i % 3]], np.uint8)).save(folder / source / f"{i}.png")
    for split, numbers in (("train", range(8)), ("val", range(8, 12))):
        colour = {i: names[i % 3] for i in numbers}
        captions = [{"image": f"{i}.png", "texts": [f"a {c} wall", f"all {c}, number {i}"]} for i, c in colour.items()]
        questions = [
            {"image": f"{i}.png", "questions": [{"question": "what color is it?", "answers": [c, f"a {c} wall"]}]}
            for i, c in colour.items()
        ]
        pairs = [
            {
                "images": [f"{i}.png", f"{j}.png"],
                "sentences": [{"sentence": "both are the same", "label": colour[i] == colour[j]}],
            }
            for i, j in zip(numbers, [*numbers[1:], numbers[0]], strict=True)
        ]
        for source, lines in (("my_data", captions), ("my_questions", questions), ("my_pairs", pairs)):
            (folder / source / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_every_command_fits_the_programs(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = commands()
    assert len(found) == 11 and all(words[:2] == ["python", "-m"] for words in found)
    trained = 0
    for _, _, module, *arguments in found:
        if module in ("experiments.pretrain", "experiments.finetune"):
            _, file, overrides = split_arguments(arguments)
            validate(load_config(file, overrides))
            trained += 1
    assert trained == 4


@pytest.mark.slow
def test_the_commands_one_after_the_other(tmp_path):
    write_files(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)  # one device, as a user has
    for words in commands():
        words = [word.replace("=experiments/", f"={ROOT}/experiments/") for word in words[1:]]
        few = FEW if any(name in words for name in ("experiments.pretrain", "experiments.finetune")) else ()
        done = subprocess.run(
            [sys.executable, *words, *few], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, (words, done.stdout[-500:], done.stderr[-2000:])
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert [entry["question_id"] for entry in answers] == [f"{i}.png/0" for i in range(8, 12)]
    with np.load(tmp_path / "scores.npz") as scores:
        assert scores["scores"].shape == (4, 8) and scores["texts"][0] == "a blue wall"
        assert scores["image_ids"].tolist() == [f"image_text/{i}.png" for i in range(8, 12)]
    assert len((tmp_path / "judgements.csv").read_text().splitlines()) == 4
    assert json.loads((tmp_path / "metrics.json").read_text())["itm_accuracy_examples"] == 8
