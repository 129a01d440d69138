"""Puts a run together: data sets, vocabularies, plan, task, trainer."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.errors import DataError
from data_pipelines.evaluation_plan import EvaluationPlan
from data_pipelines.images import choose_canvas, resized_size
from data_pipelines.plan import Plan, PlannedSource, visits_of
from data_pipelines.records import Records, open_records
from data_pipelines.text import Tokenizer, read_vocabulary, train_vocabulary
from data_pipelines.whole_files import write_atomically
from experiments.best import check_figure, held_out_figures
from experiments.config import RunConfig, differences, evaluation_rows
from experiments.inputs import (
    Batches,
    Vocabularies,
    check_labels,
    find_answers,
    held_out_visits,
    make_batches,
    make_task,
    saved_answers,
    with_answers,
)
from experiments.loop import Stream
from experiments.progress import say
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import find_description
from pixelbert_jax.serialization import to_dict
from pixelbert_jax.tasks.registry import task_name
from pixelbert_jax.tasks.task import Task
from pixelbert_jax.training.checkpoint import Checkpoints, describe
from pixelbert_jax.training.optimizer import make_optimizer, make_schedule
from pixelbert_jax.training.sharding import batch_sharding, make_mesh
from pixelbert_jax.training.step import Trainer, make_trainer


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a run needs."""

    config: RunConfig  # with the sizes of the vocabularies filled in
    task: Task
    trainer: Trainer
    train: Stream
    evaluation: dict[str, Stream]
    words: Vocabularies
    description: dict[str, Any]


def assemble(config: RunConfig, workdir: Path, checkpoints: Checkpoints, command: str = "") -> Run:
    """Build a run, new or resumed; `command` is what started it, for its description.

    Raises:
      DataError: a data set or vocabulary that is missing or damaged.
      ConfigError: the workdir holds a run of another configuration, or the configuration does not fit the data.
    """
    saved = None if checkpoints.latest is None else checkpoints.description(checkpoints.latest)
    train_records = open_sources(config.data, config.data.train)
    eval_records = open_sources(config.data, config.data.eval) if config.evaluation.every else []
    for records, held_out in [(r, False) for _, r in train_records] + [(r, True) for _, r in eval_records]:
        check_labels(config, records, known=True, scored=held_out)
    vocabulary = tuple(saved["vocabulary"]) if saved else find_vocabulary(config, train_records)
    answers = find_answers(config, [r for _, r in train_records]) if saved is None else saved_answers(saved)
    words = Vocabularies(Tokenizer(vocabulary, config.data.lowercase), answers)
    config = with_answers(with_vocabulary_size(config, len(vocabulary)), answers)
    contents = [{"source": repr(r), "fingerprint": r.index.fingerprint} for _, r in train_records]
    description = describe(
        task_name(config.task),
        to_dict(config),
        vocabulary,
        answers=list(answers.answers) if answers else [],
        data=contents,
        command=command,
    )
    if saved:
        check_resumable(saved, description, workdir)
        description["init"] = saved["init"]

    canvases = config.data.all_canvases
    plan = Plan(
        [
            PlannedSource(
                canvas_of(records, config.data),
                visits_of(records.index.num_texts, config.data.texts_per_image, config.data.epoch),
                source.weight,
            )
            for source, records in train_records
        ],
        canvases,
        rows=config.data.batch_images,
        seed=config.seed,
        steps=config.train.steps,
        epochs=config.train.epochs,
    )
    if not plan.steps:
        raise ConfigError(
            f"train.epochs={config.train.epochs} is less than one step: an epoch has {plan.steps_per_epoch:.2f} steps "
            f"of data.batch_images={config.data.batch_images}; raise epochs or lower batch_images."
        )
    task = make_task(config, words.tokenizer)
    schedule = make_schedule(config.optimizer.schedule, plan.steps, plan.steps_per_epoch)
    mesh = make_mesh(config.mesh)
    trainer = make_trainer(
        task,
        make_optimizer(config.optimizer, config.model.backbone, schedule),
        schedule,
        mesh,
        config.mesh,
        seed=config.seed,
        accumulation=config.train.accumulation,
        ema_decay=config.optimizer.ema_decay,
    )

    def maker(records: list[Records], data: DataConfig, seed: int, rows: int, held_out: bool) -> Batches:
        return make_batches(config, words, records, data, seed=seed, rows=host_rows(trainer, rows), held_out=held_out)

    sources = [records for _, records in train_records]
    train = Stream(plan, maker(sources, config.data, config.seed, config.data.batch_images, False))
    evaluation = {}
    if eval_records:
        rows, sources = evaluation_rows(config), [records for _, records in eval_records]
        eval_plan = EvaluationPlan(
            [canvas_of(records, config.data) for records in sources],
            rows=rows,
            limit=config.evaluation.images,
            visits_of_source=[held_out_visits(config, records) for records in sources],
        )
        # Masks and mismatches of the held-out pairs are the same in every run, whatever its seed.
        data = dataclasses.replace(config.data, mask_rate=config.evaluation.mask_rate)
        evaluation["eval"] = Stream(eval_plan, maker(sources, data, 0, rows, True))
    if config.checkpoint.best:
        check_figure(config.checkpoint.best, held_out_figures(task, trainer, canvases[0], evaluation))
    images = sum(len(records) for _, records in train_records)
    used = ", ".join("x".join(map(str, canvases[c])) for c in plan.used_canvases)
    say(f"{images} images, {plan.steps_per_epoch:.1f} steps an epoch, {plan.steps} steps; canvases {used}")
    return Run(config, task, trainer, train, evaluation, words, description)


def open_sources(data: DataConfig, sources: tuple[SourceConfig, ...]) -> list[tuple[SourceConfig, Records]]:
    """The records of each split; "a+b" gives two."""
    return [
        (source, open_records(data.data_dir, source.name, split))
        for source in sources
        for split in source.split.split("+")
    ]


def find_vocabulary(config: RunConfig, sources: list[tuple[SourceConfig, Records]]) -> tuple[str, ...]:
    """The vocabulary that the config names, that of init.checkpoint, or one trained on the training data's texts."""
    data = config.data
    if data.vocabulary:
        return read_vocabulary(data.vocabulary)
    if config.init.checkpoint and config.init.checkpoint_parts != "backbone":
        return tuple(find_description(config.init.checkpoint)[1]["vocabulary"])
    say("training a vocabulary on the texts of data.train")
    texts = (text for _, records in sources for record in records.texts() for text in record.texts)
    return train_vocabulary(texts, data.vocabulary_size, data.lowercase)


def with_vocabulary_size(config: RunConfig, size: int) -> RunConfig:
    """The config with model.text.vocabulary_size set to the vocabulary's.

    Raises:
      ConfigError: it was given, and is another.
    """
    given = config.model.text.vocabulary_size
    if given not in (0, size):
        raise ConfigError(
            f"model.text.vocabulary_size={given}, but the vocabulary has {size} word pieces; set it to 0 (taken from "
            "the vocabulary) or change data.vocabulary."
        )
    text = dataclasses.replace(config.model.text, vocabulary_size=size)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, text=text))


def check_resumable(saved: dict[str, Any], description: dict[str, Any], workdir: Path) -> None:
    """Refuse to go on with a run under a configuration, or on data, that would make it another run."""
    differing = differences(saved["config"], description["config"])
    if differing:
        raise ConfigError(
            f"{workdir} holds a run of another configuration: {'; '.join(differing)}. "
            "Use the old values, or another --workdir."
        )
    if [d["fingerprint"] for d in saved["data"]] != [d["fingerprint"] for d in description["data"]]:
        raise DataError(
            f"{workdir} holds a run on other data: {[d['source'] for d in saved['data']]} then, "
            f"{[d['source'] for d in description['data']]} now. Use the same data, or another --workdir."
        )


def canvas_of(records: Records, data: DataConfig) -> np.ndarray:
    """Index of the canvas of each record.

    Raises:
      DataError: a picture fits none of the canvases.
    """
    index, canvases = records.index, data.all_canvases
    pictures = [index.heights, index.widths]
    if index.second_heights is not None:
        pictures += [index.second_heights, index.second_widths]
    sizes, inverse = np.unique(np.stack(pictures, 1), axis=0, return_inverse=True)
    resized = [[resized_size(int(h), int(w), data.resize) for h, w in size.reshape(-1, 2)] for size in sizes]
    # Both pictures of a pair lie on canvases of one size: the smallest that holds each.
    chosen = [choose_canvas(*map(max, *both, both[0]), canvases) for both in resized]
    return np.array(chosen, np.int32)[inverse.reshape(-1)]


def host_rows(trainer: Trainer, rows: int) -> tuple[int, int]:
    """First and last + 1 of the rows of a global batch that lie on this process's devices."""
    slices = batch_sharding(trainer.mesh).addressable_devices_indices_map((rows,)).values()
    bounds = [place[0].indices(rows)[:2] for place in slices]
    first, last = min(b[0] for b in bounds), max(b[1] for b in bounds)
    if len({b for b in bounds}) * (bounds[0][1] - bounds[0][0]) != last - first:
        raise ConfigError("The devices of this process hold rows that are not neighbours; use mesh.fsdp=1.")
    return first, last


def write_run_files(workdir: Path, run: Run) -> None:
    """Leave config.json, vocab.txt and init.json (what came from where) beside the checkpoints, for people."""
    files = {
        "config.json": json.dumps(run.description["config"], indent=2) + "\n",
        "vocab.txt": "\n".join(run.words.tokenizer.vocabulary) + "\n",
        "init.json": json.dumps(run.description["init"], indent=1) + "\n",
    }
    if run.words.answers:
        files["answers.json"] = json.dumps(list(run.words.answers.answers), indent=0) + "\n"
    for name, text in files.items():
        write_atomically(workdir / name, text)


def start_compilation_cache(path: str) -> None:
    """Keep compiled programs on the disk, so that the next start is quick."""
    if path:
        jax.config.update("jax_compilation_cache_dir", str(Path(path).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
