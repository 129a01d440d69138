"""Shared by the tests of fine-tuning: a small model, its configuration, a run in this process."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from data_pipelines.config import SourceConfig
from data_pipelines.datasets.shapes_regions import GLOBAL_SIZE
from data_pipelines.images.resize import ResizeRule
from data_pipelines.preparation.run import prepare
from experiments.configs.imagebert_shapes import get_config as imagebert_shapes
from experiments.pretrain import pretrain
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from experiments.run.metric_writer import MetricWriter, read_metrics
from pixelbert_jax.tasks.registry import TaskConfig
from pixelbert_jax.tasks.retrieval import RetrievalConfig
from pixelbert_jax.training.optimizer import AdamWConfig, ScheduleConfig
from pixelbert_jax.training.sharding import make_mesh
from pixelbert_jax.weights.initialize import InitConfig
from tests.data_pipelines.publishers import lines, write_image
from tests.experiments.tiny_config import get_config

ANSWERS = ["red", "blue", "green"]


@contextlib.contextmanager
def programs_kept_in(folder: Path) -> Iterator[None]:
    """A run that is resumed, or is like another, takes its compiled programs from the disk."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    compilation_cache.reset_cache()
    for name, value in zip(names, (str(folder), 0.2), strict=True):
        jax.config.update(name, value)
    try:
        yield
    finally:  # as it was: a fixture may be made within another's block
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def prepare_own_data(folder: Path) -> Path:
    """A user's questions (train, val; test without answers) and pairs (train, val), both on the same few images."""
    rng = np.random.default_rng(0)
    for i in range(16):
        write_image(folder / "source" / f"{i}.png", height=40 + i, width=48, format="PNG", seed=i)

    def questions(images, labelled=True, answers=1):
        for i in images:
            entries = [{"question": f"what is it {'red ' * k}?"} for k in range(1 + i % 5)]
            for question in entries if labelled else ():
                question["answers"] = [ANSWERS[(len(question["question"]) + i % 2) % 3]] * answers
            yield {"image": f"{i}.png", "questions": entries}

    def pairs(images, labelled=True):
        for i in images:
            entries = [
                {"sentence": f"a circle {k}", "identifier": 100 * i + k, "group": k % 2} for k in range(1 + i % 3)
            ]
            for sentence in entries if labelled else ():
                sentence["label"] = bool(rng.integers(2))
            yield {"images": [f"{i}.png", f"{(i + 5) % 16}.png"], "sentences": entries}

    source = folder / "source"
    for name, make in (("vqa", questions), ("image_pairs", pairs)):
        for split, images in (("train", range(10)), ("val", range(8, 15)), ("test", range(5))):
            lines(source / name / f"{split}.jsonl", *make(images, split != "test"))
        for i in range(16):
            (source / name / f"{i}.png").write_bytes((source / f"{i}.png").read_bytes())
        if name == "vqa":
            lines(source / name / "votes.jsonl", *questions(range(4), answers=10))
        prepare(name, folder / "data", source / name, num_threads=2)
    return folder / "data"


def small_config() -> RunConfig:
    """The tests' tiny config with a backbone of one block and an encoder that is not unrolled: compiles sooner."""
    config = get_config()
    backbone = dataclasses.replace(
        config.model.backbone, depths=(1,), widths=(32,), inner_widths=(32,), strides=(4,), frozen_parts=0
    )
    encoder = dataclasses.replace(config.model.encoder, scan_unroll=1)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, backbone=backbone, encoder=encoder))


def config_of(task: TaskConfig, data_dir: Path, pretrained_run: Path, name: str, **changes) -> RunConfig:
    """Six steps of eight images, evaluated after each second; every other checkpoint is kept."""
    config = small_config()
    data = dataclasses.replace(
        config.data,
        data_dir=str(data_dir),
        train=(SourceConfig(name, "train"),),
        eval=(SourceConfig(name, "val"),),
        texts_per_image=2,
        resize=ResizeRule(36, 48),
        answers_are="set",
        answer_minimum=1,
        **changes,
    )
    optimizer = dataclasses.replace(
        config.optimizer,
        transformer=AdamWConfig(learning_rate=1e-2),
        schedule=ScheduleConfig(kind="constant", warmup_steps=0),
    )
    config = dataclasses.replace(
        config,
        data=data,
        task=task,
        optimizer=optimizer,
        init=InitConfig(checkpoint=str(pretrained_run)),
        train=TrainConfig(steps=6, log_every=1, compilation_cache=""),
        evaluation=EvaluationConfig(every=2, images=0),
        checkpoint=CheckpointConfig(every=2, keep_last=1),
    )
    return config


def retrieval_config(task: RetrievalConfig, data_dir: Path, pretrained_run: Path, name: str) -> RunConfig:
    """`config_of` with one text per image and a frozen backbone."""
    config = config_of(task, data_dir, pretrained_run, name)
    backbone = dataclasses.replace(config.model.backbone, frozen_parts=2)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, texts_per_image=1),
        model=dataclasses.replace(config.model, backbone=backbone),
    )


def regions_config(data_dir: Path, **changes) -> RunConfig:
    """ImageBERT on drawn scenes, smaller, with dropout: six steps of eight images with two texts each."""
    config = imagebert_shapes()
    encoder = dataclasses.replace(
        config.model.encoder, width=32, heads=2, mlp_width=64, scan_unroll=1, dropout=0.1, attention_dropout=0.1
    )
    data = dataclasses.replace(config.data, data_dir=str(data_dir), batch_images=8, texts_per_image=2, **changes)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, encoder=encoder),
        data=data,
        optimizer=dataclasses.replace(config.optimizer, schedule=ScheduleConfig(kind="constant", warmup_steps=4)),
        train=TrainConfig(steps=6, log_every=1, compilation_cache=""),
        evaluation=EvaluationConfig(every=3, images=0, words=("red", "circle")),
        checkpoint=CheckpointConfig(every=2, keep_last=3),
        report=False,
    )


def with_whole_image(config: RunConfig) -> RunConfig:
    """The same model with the feature that drawn scenes have of the whole image."""
    regions = dataclasses.replace(config.model.regions, global_size=GLOBAL_SIZE)
    data = dataclasses.replace(config.data, whole_image="stored")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, regions=regions), data=data)


class Stopped(BaseException):
    """As if the process had been killed."""


@contextlib.contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """The run in this block ends before it writes the metrics of that step."""
    write = MetricWriter.write

    def write_or_stop(self, at, metrics):
        if at >= step:
            raise Stopped
        write(self, at, metrics)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(MetricWriter, "write", write_or_stop)
        yield


@contextlib.contextmanager
def on_devices(number: int) -> Iterator[None]:
    """Runs take less time on few devices than on eight of the same processor."""
    with pytest.MonkeyPatch.context() as patch:
        for program in ("run.build", "evaluate"):
            patch.setattr(f"experiments.{program}.make_mesh", lambda mesh: make_mesh(mesh, jax.devices()[:number]))
        yield


def on_one_device() -> contextlib.AbstractContextManager[None]:
    """`on_devices` with the first one alone."""
    return on_devices(1)


def fine_tune(config: RunConfig, workdir: Path) -> None:
    """As `python -m experiments.finetune`, on one device."""
    with on_one_device():
        pretrain(config, workdir, "python -m experiments.finetune")


def evaluated(workdir: Path, metric: str) -> dict[int, float]:
    return {r["step"]: r[metric] for r in read_metrics(workdir / "metrics.jsonl") if metric in r}


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("[0-9]*"))
