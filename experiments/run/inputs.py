"""Task by task: from a run's configuration to its task and the makers of its batches."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.batches.nlvr2 import Nlvr2Batches
from data_pipelines.batches.pretraining import PretrainingBatches, can_mismatch
from data_pipelines.batches.regions_pretraining import RegionsPretrainingBatches
from data_pipelines.batches.retrieval import RetrievalBatches
from data_pipelines.batches.visuals import visuals_of
from data_pipelines.batches.vqa import VqaBatches
from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.storage.records import Records
from data_pipelines.text.answers import AnswerVocabulary, build_vocabulary, read_vocabulary_list
from data_pipelines.text.tokenizer import Tokenizer
from experiments.run.config import RunConfig
from experiments.run.progress import say
from pixelbert_jax.config import ImageBertConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.nlvr2 import Nlvr2Config
from pixelbert_jax.tasks.pretraining import PretrainingConfig
from pixelbert_jax.tasks.regions_pretraining import RegionsPretrainingConfig
from pixelbert_jax.tasks.registry import TASKS, task_name
from pixelbert_jax.tasks.retrieval import RetrievalConfig
from pixelbert_jax.tasks.task import Task
from pixelbert_jax.tasks.vqa import VqaConfig

_LABELS = {VqaConfig: ("question_id", "answers"), Nlvr2Config: ("identifier", "label")}  # id, what is right
Batches = PretrainingBatches | RegionsPretrainingBatches | VqaBatches | Nlvr2Batches | RetrievalBatches


@dataclasses.dataclass(frozen=True)
class Vocabularies:
    """The words that a run reads, and the answers that it gives (none but in visual question answering)."""

    tokenizer: Tokenizer
    answers: AnswerVocabulary | None


def find_answers(config: RunConfig, sources: Sequence[Records]) -> AnswerVocabulary | None:
    """The answers that the config names, or those of the training data that are frequent enough; None: no such task.

    Raises:
      DataError: the list cannot be read, or the data has no answers.
    """
    if not isinstance(config.task, VqaConfig):
        return None
    if config.data.answers:
        return read_vocabulary_list(Path(config.data.answers).expanduser())
    say("collecting the answers of data.train")
    labels = (label for records in sources for record in records.texts() for label in record.parsed)
    given = (label.get("answers", ()) for label in labels)
    if config.data.answers_are == "votes":
        return build_vocabulary(given, config.data.answer_minimum)
    each_alone = ([answer] for answers in given for answer in answers)
    return build_vocabulary(each_alone, config.data.answer_minimum, normalize=False)


def saved_answers(description: dict[str, Any]) -> AnswerVocabulary | None:
    """The answers that a checkpoint's description holds."""
    return AnswerVocabulary(tuple(description["answers"])) if description.get("answers") else None


def check_labels(config: RunConfig, records: Records, *, known: bool, scored: bool) -> None:
    """Refuse a split whose texts have not the labels that the task needs; its first record tells for all.

    Args:
      config: the run; tasks without labels take every data set.
      records: of the split.
      known: what is right has to be known.
      scored: the official measure is taken, so it has to suit the answers where they are known.

    Raises:
      DataError: the labels are of another task, or lack what is right, or suit another measure.
    """
    if type(config.task) not in _LABELS:
        return
    identity, target = _LABELS[type(config.task)]
    first = next(records.texts(), None)
    label = first.parsed[0] if first is not None and first.parsed else {}
    if identity not in label:
        raise DataError(f"The texts of {records!r} have no {identity}; use a data set for {task_name(config.task)}.")
    if known and target not in label:
        raise DataError(f"The texts of {records!r} have no {target}; use a split with {target}.")
    if target == "answers" and scored and config.data.answers_are == "votes" and 0 < len(label.get(target, ())) < 4:
        raise DataError(
            f"The questions of {records!r} have too few answers for the accuracy of VQA, which compares people; "
            "train with data.answers_are=right (each answer is right) or set (all together are)."
        )


def unmeasurable(config: RunConfig, sources: Sequence[Records]) -> tuple[str, ...]:
    """Names of metrics that mean nothing on this data; a warning says why."""
    pretrains = isinstance(config.task, PretrainingConfig | RegionsPretrainingConfig)
    if not pretrains or not sources or can_mismatch(sources):
        return ()
    names = ", ".join(map(repr, sources))
    say(
        f"warning: all images of {names} have the same texts, so that there is no mismatched pair and image-text "
        "matching cannot be learned; itm_accuracy has no value. Give images texts of their own."
    )
    return ("itm_accuracy",)


def check_regions(config: RunConfig, records: Records) -> None:
    """Refuse a split whose regions the model cannot read; nothing is asked of a model of pixels.

    Raises:
      DataError: the split has no regions, or no feature of the whole picture.
      ConfigError: its features have other sizes, or more classes, than the model.
    """
    if not isinstance(config.model, ImageBertConfig):
        return
    visuals, regions, classes = visuals_of([records], config.data), config.model.regions, records.index.region_classes
    found = {"feature_size": visuals.size, "global_size": visuals.whole_size}
    for name, size in found.items():
        if getattr(regions, name) != size:
            raise ConfigError(
                f"model.regions.{name}={getattr(regions, name)}, but in {records!r} it is {size}; set it to that."
            )
    if not isinstance(config.task, RegionsPretrainingConfig):
        return
    if classes > regions.classes:
        raise ConfigError(
            f"model.regions.classes={regions.classes}, but {records!r} has {classes}; set the first to that."
        )
    if not classes and config.task.moc_weight:
        raise ConfigError(f"The regions of {records!r} have no classes; set task.moc_weight=0, or use other regions.")


def with_answers(config: RunConfig, answers: AnswerVocabulary | None) -> RunConfig:
    """The config with task.answers set to the vocabulary's size.

    Raises:
      ConfigError: it was given, and is another.
    """
    if not isinstance(config.task, VqaConfig) or answers is None:
        return config
    if config.task.answers not in (0, len(answers)):
        raise ConfigError(
            f"task.answers={config.task.answers}, but there are {len(answers)} answers; set it to 0 (taken "
            "from the answers) or change data.answers."
        )
    return dataclasses.replace(config, task=dataclasses.replace(config.task, answers=len(answers)))


def make_task(config: RunConfig, tokenizer: Tokenizer) -> Task:
    """The task of a run.

    Raises:
      ConfigError: evaluation.words has one that is no word piece.
    """
    task_class = TASKS[task_name(config.task)][1]
    if not isinstance(config.task, PretrainingConfig | RegionsPretrainingConfig):
        return task_class(config.model, config.task)
    missing = [word for word in config.evaluation.words if word not in tokenizer.ids]
    if missing:
        raise ConfigError(f"evaluation.words: {missing} are not single word pieces of the vocabulary; leave them out.")
    return task_class(config.model, config.task, tuple(tokenizer.ids[word] for word in config.evaluation.words))


def make_batches(
    config: RunConfig,
    words: Vocabularies,
    sources: Sequence[Records],
    data: DataConfig,
    *,
    seed: int,
    rows: tuple[int, int] | None,
    held_out: bool,
) -> Batches:
    """What makes arrays of a plan over `sources`, for this process's rows."""
    if held_out:
        data = dataclasses.replace(data, flip_rate=0.0)
    common = (tuple(sources), words.tokenizer, data, seed)
    task = config.task
    if isinstance(task, VqaConfig):
        return VqaBatches(*common, rows=rows, held_out=held_out, answers=words.answers, answer_slots=task.answer_slots)
    if isinstance(task, Nlvr2Config):
        return Nlvr2Batches(*common, rows=rows, held_out=held_out, pictures_a_row=task.pictures)
    if isinstance(task, RetrievalConfig):
        return RetrievalBatches(*common, rows=rows, negatives=task.negatives)
    if isinstance(task, RegionsPretrainingConfig):
        return RegionsPretrainingBatches(*common, rows=rows)
    return PretrainingBatches(*common, rows=rows)


def held_out_visits(config: RunConfig, records: Records) -> np.ndarray:
    """Rows that each record gets in evaluation: as many as its texts need where each text is a question, else one."""
    if isinstance(config.task, VqaConfig | Nlvr2Config):
        return -(-records.index.num_texts // config.data.texts_per_image)
    return np.ones(len(records), int)
