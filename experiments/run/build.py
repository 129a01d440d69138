"""Puts a run together: data sets, vocabularies, plan, task, trainer."""

import dataclasses
import json
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.order.evaluation_plan import EvaluationPlan
from data_pipelines.storage.atomic_files import write_atomically
from data_pipelines.storage.detectors import DetectorDescription, same_detector
from data_pipelines.storage.records import Records
from data_pipelines.text.answers import AnswerVocabulary
from data_pipelines.text.tokenizer import Tokenizer, read_vocabulary, train_vocabulary
from data_pipelines.text.tokenizer_files import cased_pieces
from experiments.resilience.disk_errors import writing
from experiments.resilience.distributed import are_many, is_first
from experiments.run.best_checkpoint import check_metric, evaluation_metrics
from experiments.run.canvases import canvas_of
from experiments.run.config import RunConfig, differences, evaluation_rows
from experiments.run.loop import MakeBatch, Stream
from experiments.run.progress import say
from experiments.run.stages import Sources, make_plan, open_sources, stages_of
from experiments.tasks.recipe import BatchInputs, saved_answers
from experiments.tasks.registry import recipe_of
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import find_description
from pixelbert_jax.serialization import build, to_dict
from pixelbert_jax.tasks.registry import task_name
from pixelbert_jax.tasks.task import Task
from pixelbert_jax.training.checkpoint import Checkpoints, describe
from pixelbert_jax.training.optimizer import Schedule, make_optimizer
from pixelbert_jax.training.sharding import batch_sharding, make_mesh
from pixelbert_jax.training.step import Trainer, make_trainer
from pixelbert_jax.weights.initialize import InitConfig


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a run needs."""

    config: RunConfig  # with the sizes of the vocabularies filled in
    task: Task
    trainer: Trainer
    train: Stream
    evaluation: dict[str, Stream]
    tokenizer: Tokenizer
    answers: AnswerVocabulary | None
    description: dict[str, Any]


def assemble(config: RunConfig, workdir: epath.PathLike, checkpoints: Checkpoints, command: str = "") -> Run:
    """Build a run, new or resumed; `command` is what started it, for its description.

    Raises:
      DataError: a data set or vocabulary that is missing or damaged.
      ConfigError: the workdir holds a run of another configuration, or the configuration does not fit the data.
    """
    saved = None if checkpoints.latest is None else checkpoints.description(checkpoints.latest)
    sources_of_stage = [open_sources(config.data, stage.train) for stage in stages_of(config)]
    train_records = [source for sources in sources_of_stage for source in sources]
    eval_records = open_sources(config.data, config.data.eval) if config.evaluation.every else []
    recipe = recipe_of(config)
    for sources, evaluated in ((train_records, False), (eval_records, True)):
        for _, records in sources:
            recipe.check_records(config, records, known=True, scored=evaluated)
    detector = find_detector(config, saved, [*train_records, *eval_records])
    vocabulary = tuple(saved["vocabulary"]) if saved else find_vocabulary(config, train_records)
    answers = recipe.find_answers(config, [r for _, r in train_records]) if saved is None else saved_answers(saved)
    tokenizer = Tokenizer(vocabulary, config.data.lowercase)
    config = recipe.with_answers(with_vocabulary_size(config, len(vocabulary)), answers)
    contents = [
        {
            "source": repr(r),
            "fingerprint": r.index.fingerprint,
            "name": source.name,
            "split": source.split,
            "images": len(r),
        }
        for source, r in train_records
    ]
    description = describe(
        task_name(config.task),
        to_dict(config),
        vocabulary,
        answers=list(answers.answers) if answers else [],
        data=contents,
        command=command,
        **({"detector": detector} if detector else {}),
    )
    if saved:
        check_resumable(saved, description, workdir)
        description["init"] = saved["init"]

    plan, schedule = make_plan(config, sources_of_stage)
    task = recipe.make_task(config, tokenizer)
    mesh = make_mesh(config.mesh)
    trainer = trainer_of(config, task, schedule, mesh)

    def maker(records: list[Records], data: DataConfig, seed: int, rows: int, evaluation: bool) -> MakeBatch:
        own = host_rows(trainer, rows)
        return recipe.make_batches(config, BatchInputs(tokenizer, answers, records, data, seed, own, evaluation))

    sources = [records for _, records in train_records]
    train_maker = maker(sources, config.data, config.seed, config.data.batch_images, False)
    train = Stream(plan, train_maker, plan.boundaries, unmeasurable=recipe.unmeasurable(sources))
    evaluation = {}
    if eval_records:
        rows, sources = evaluation_rows(config), [records for _, records in eval_records]
        eval_plan = EvaluationPlan(
            [canvas_of(records, config.data) for records in sources],
            rows=rows,
            limit=config.evaluation.images,
            visits_of_source=[recipe.evaluation_visits(config, records) for records in sources],
        )
        # Masks and mismatched pairs of the evaluation are the same in every run, whatever its seed.
        data = dataclasses.replace(config.data, mask_rate=config.evaluation.mask_rate)
        eval_maker = maker(sources, data, 0, rows, True)
        evaluation["eval"] = Stream(eval_plan, eval_maker, unmeasurable=recipe.unmeasurable(sources))
    if config.checkpoint.best:
        check_metric(config.checkpoint.best, evaluation_metrics(task, trainer, config.data.all_canvases[0], evaluation))
    for _, records in (*train_records, *eval_records):
        records.copy_to_host()  # last, because it may take long; the wait for a batch is limited
    return Run(config, task, trainer, train, evaluation, tokenizer, answers, description)


def trainer_of(config: RunConfig, task: Task, schedule: Schedule, mesh: Mesh) -> Trainer:
    """The compiled functions of a run."""
    return make_trainer(
        task,
        make_optimizer(config.optimizer, getattr(config.model, "backbone", None), schedule),
        schedule,
        mesh,
        config.mesh,
        seed=config.seed,
        accumulation=config.train.accumulation,
        ema_decay=config.optimizer.ema_decay,
    )


def find_vocabulary(config: RunConfig, sources: Sources) -> tuple[str, ...]:
    """The vocabulary of init.checkpoint, the one that the config names, or one trained on the training data's texts."""
    data, init = config.data, config.init
    if takes_vocabulary(init) and not (init.resize and data.vocabulary):
        if data.vocabulary:
            say(
                f"data.vocabulary={data.vocabulary} is not read: the tokens are those of init.checkpoint; with "
                "init.resize=true it is, and tokens of both keep their vectors"
            )
        return tuple(find_description(init.checkpoint, init.checkpoint_choice)[1]["vocabulary"])
    if data.vocabulary:
        vocabulary = read_vocabulary(data.vocabulary, data.lowercase)
        count = cased_pieces(vocabulary)
        if not data.lowercase and not count:
            say(
                f"data.vocabulary={data.vocabulary}: none of its {len(vocabulary):,} tokens has an upper-case letter, "
                "so words with one become [UNK] after data.lowercase=false; set it to true if the vocabulary is uncased"
            )
        if data.lowercase and count:
            say(
                f"data.vocabulary={data.vocabulary}: {count:,} of its {len(vocabulary):,} tokens have upper-case "
                "letters, which no text has after data.lowercase=true; set it to false if the vocabulary is cased"
            )
        return vocabulary
    say("training a vocabulary on the texts of the training data")
    texts = (text for _, records in sources for record in records.texts() for text in record.texts)
    return train_vocabulary(texts, data.vocabulary_size, data.lowercase)


def find_detector(config: RunConfig, saved: dict[str, Any] | None, sources: Sources) -> DetectorDescription | None:
    """The detector whose regions the run reads; None if it is not known, or the model reads pixels.

    Raises:
      DataError: the data sets, or the run that this one continues or begins with, have regions of another detector.
    """
    if not config.data.regions:
        return None
    before = saved or {}
    if not saved and config.init.checkpoint:
        before = find_description(config.init.checkpoint, config.init.checkpoint_choice)[1]
    what = "the run in this workdir" if saved else f"init.checkpoint={config.init.checkpoint}"
    known = [(what, before.get("detector")), *((repr(records), records.index.detector) for _, records in sources)]
    return same_detector(known)


def takes_vocabulary(init: InitConfig) -> bool:
    """Whether the run begins with the text embedding of another run, and so with its tokens."""
    return bool(init.checkpoint) and init.checkpoint_parts != "backbone"


def with_vocabulary_size(config: RunConfig, size: int) -> RunConfig:
    """The config with model.text.vocabulary_size set to the vocabulary's.

    Raises:
      ConfigError: it was given, and is another, which init.checkpoint does not decide.
    """
    given = config.model.text.vocabulary_size
    if given not in (0, size) and not takes_vocabulary(config.init):
        raise ConfigError(
            f"model.text.vocabulary_size={given}, but the vocabulary has {size} tokens; set it to 0 (taken from "
            "the vocabulary) or change data.vocabulary."
        )
    text = dataclasses.replace(config.model.text, vocabulary_size=size)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, text=text))


def check_resumable(saved: dict[str, Any], description: dict[str, Any], workdir: epath.PathLike) -> None:
    """Refuse to resume a run with another configuration or with other data."""
    # A field that an earlier release did not have gets its default.
    differing = differences(to_dict(build(saved["config"], RunConfig)), description["config"])
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


def host_rows(trainer: Trainer, rows: int) -> tuple[int, int]:
    """First and last + 1 of the rows of a global batch that lie on this process's devices."""
    slices = batch_sharding(trainer.mesh).addressable_devices_indices_map((rows,)).values()
    bounds = [index[0].indices(rows)[:2] for index in slices]
    first, last = min(b[0] for b in bounds), max(b[1] for b in bounds)
    if len({b for b in bounds}) * (bounds[0][1] - bounds[0][0]) != last - first:
        raise ConfigError("The devices of this process hold rows that are not neighbours; use mesh.fsdp=1.")
    return first, last


def write_run_files(workdir: epath.Path, run: Run) -> None:
    """Leave config.json, vocab.txt and init.json (what came from where) beside the checkpoints, for people.

    Raises:
      ConfigError: the workdir cannot be written.
    """
    if not is_first():
        return
    files = {
        "config.json": json.dumps(run.description["config"], indent=2) + "\n",
        "vocab.txt": "\n".join(run.tokenizer.vocabulary) + "\n",
        "init.json": json.dumps(run.description["init"], indent=1) + "\n",
    }
    if run.answers:
        files["answers.json"] = json.dumps(list(run.answers.answers), indent=0) + "\n"
    for name, text in files.items():
        with writing(workdir / name):
            write_atomically(workdir / name, text)


def start_compilation_cache(path: str) -> None:
    """Keep compiled programs on the disk, so that the next start is quick.

    This is off for several processes on CPUs. There only the programs of the first process are kept. The others would
    be late by a compilation, and collectives do not wait that long.
    """
    if path and not (are_many() and jax.default_backend() == "cpu"):
        jax.config.update("jax_compilation_cache_dir", str(epath.Path(path).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
