"""Pixel-BERT on real photographs, from published weights: pre-training with its controls, and what it is good for.

    python -m benchmarks.learning.photographs --flickr8k=FOLDER --daquar=FOLDER --coco=FOLDER \
        --bert=sentence-transformers/all-MiniLM-L6-v2 --resnet=timm/resnet18.tv_in1k --folder=FOLDER

Prepares the data sets, pre-trains on Flickr8k's training split, and shows each score beside its control: shuffled
images, text alone, the published weights without pre-training, chance. Stop it at any time: the same command goes on,
and what is finished is not run again. `--only` chooses, and `--only=list` says what there is; once pre-training is
done, each part but `whole_split` ends within two hours on two CPU cores. Tables, curves and a JSON of all scores are
written anew after each part.
"""

import math
import signal
import sys
import time
from pathlib import Path

from absl import flags

from benchmarks.harness.shared_flags import FOLDER, ONLY, TINY
from benchmarks.learning.attention_sheet import COCO, chosen_examples
from benchmarks.learning.photograph_parts import PARTS, PRETRAINED, Part, Sources
from benchmarks.learning.photograph_tables import write_tables
from benchmarks.learning.workspace import Workspace
from experiments.run.common_flags import required
from experiments.run.config_flags import run_main
from experiments.run.progress import duration, say
from pixelbert_jax.errors import ConfigError

_FLICKR8K = flags.DEFINE_string("flickr8k", "", "Flickr8k's images and dataset_flickr8k.json, the official split.")
_DAQUAR = flags.DEFINE_string("daquar", "", "DAQUAR as published; empty: its part is skipped.")
_BERT = flags.DEFINE_string("bert", "", "all-MiniLM-L6-v2: a folder or a Hugging Face name.")
_RESNET = flags.DEFINE_string("resnet", "", "ImageNet's ResNet-18: a file, a folder or a Hugging Face name.")
_SETTING = flags.DEFINE_enum("setting", "cpu", ["cpu", "amx", "gpu"], "Size of the model and length of the runs.")
_OVERRIDES = flags.DEFINE_multi_string(
    "override", [], "field=value of every training, or CONFIG:field=value of one config's."
)
_IMAGES = flags.DEFINE_integer("retrieval_images", 200, "Test images of the retrieval scores, with their texts.", 2)

_CONFIGS = ("pretrain_photographs", "retrieval_photographs", "vqa_photographs")
_FEW = (
    "evaluation.images=8",
    "pretrain_photographs:train.steps=24",
    "pretrain_photographs:evaluation.every=24",
    "pretrain_photographs:checkpoint.every=1",
    "retrieval_photographs:train.steps=2",
    "retrieval_photographs:data.batch_images=8",
    "retrieval_photographs:task.negatives=3",
    "retrieval_photographs:task.hardest_negatives=2",
    "vqa_photographs:train.epochs=0",
    "vqa_photographs:train.steps=2",
)
_SHORT = 30.0  # seconds; what takes less was finished before, and tells nothing of the machine's pace


def main() -> None:
    """Run what is missing, then write the tables."""
    if ONLY.value == ["list"]:
        for part in PARTS:
            say(f"{part.name:24} {part.minutes:4} min  {part.summary}")
        return
    required(_FLICKR8K, _BERT, _RESNET, FOLDER)
    # As Ctrl-C: the program at work is asked to stop, and saves.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sources = Sources(_FLICKR8K.value, _DAQUAR.value, COCO.value, 4 if TINY.value else _IMAGES.value)
    workspace = _workspace(Path(FOLDER.value).expanduser())
    chosen = _chosen(sources)
    left = {part.name: part.minutes * 60.0 for part in chosen if not _is_finished(part, workspace)}
    expected, took = 0.0, 0.0
    for part in chosen:
        pace = took / expected if expected else 1.0
        say(f"\n{part.name}: {part.summary}. Left: about {duration(math.fsum(left.values()) * pace)}")
        began = time.monotonic()
        part.run(workspace, sources)
        seconds, planned = time.monotonic() - began, left.pop(part.name, 0.0)
        if seconds > _SHORT and planned:
            took, expected = took + seconds, expected + planned
        write_tables(workspace)
    say(f"\n{(workspace.folder / 'tables.md').read_text()}")
    say(f"{workspace.folder} holds tables.md, results.json, curves.png, the runs and their scores")


def _workspace(folder: Path) -> Workspace:
    """The workspace of the flags.

    Raises:
      ConfigError: an override of a config that there is not.
    """
    weights = (f"init.text={_BERT.value}", f"data.vocabulary={_BERT.value}", f"init.backbone={_RESNET.value}")
    overrides: dict[str, list[str]] = {}
    for override in (*(_FEW if TINY.value else ()), *_OVERRIDES.value):
        config, colon, field = override.partition(":")
        name, field = (config, field) if colon and "=" not in config else ("", override)
        if name not in ("", *_CONFIGS):
            raise ConfigError(f"--override={override}: no training has the config {name}; use {', '.join(_CONFIGS)}.")
        overrides.setdefault(name, []).append(field)
    return Workspace(
        folder=folder,
        data_dir=folder / "data",
        weights=weights,
        setting=_SETTING.value,
        overrides={name: tuple(fields) for name, fields in overrides.items()},
        tiny=TINY.value,
    )


def _is_finished(part: Part, workspace: Workspace) -> bool:
    if part.name == "pretraining":
        return (workspace.workdir(PRETRAINED) / "finished.json").exists()
    return bool(part.last) and (workspace.folder / "results" / f"{part.last}.json").exists()


def _chosen(sources: Sources) -> list[Part]:
    """The parts to run, in their order.

    Raises:
      ConfigError: an unknown part, or one whose data set is not given or not there.
    """
    names = [part.name for part in PARTS]
    if unknown := [name for name in ONLY.value if name not in names]:
        raise ConfigError(f"--only: {', '.join(unknown)} unknown; choose from {', '.join(names)}.")
    chosen = []
    for part in PARTS:
        given = getattr(sources, part.needs)
        if part.name in ONLY.value and not given:
            raise ConfigError(f"--only={part.name} needs --{part.needs}=FOLDER.")
        if part.name in ONLY.value or (given and not ONLY.value and not part.optional):
            if not Path(given).is_dir():
                raise ConfigError(f"--{part.needs}={given}: no such folder; give the data set as published.")
            if part.needs == "coco":
                chosen_examples(Path(given))
            chosen.append(part)
        elif not given and not ONLY.value:
            say(f"{part.name} is skipped: no --{part.needs}=FOLDER")
    return chosen


if __name__ == "__main__":
    run_main(main, takes_config=False)
