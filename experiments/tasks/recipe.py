"""What the programs need from a task. A file of this package states it for one task where the defaults do not fit."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.storage.records import Records
from data_pipelines.text.answers import AnswerVocabulary
from data_pipelines.text.tokenizer import Tokenizer
from experiments.evaluation import predict
from experiments.evaluation.options import EvaluationOptions
from experiments.run.config import RunConfig
from experiments.run.loop import MakeBatch
from experiments.tasks.visual_input import visual_input_of
from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import LoadedModel
from pixelbert_jax.tasks.registry import TASKS, task_name
from pixelbert_jax.tasks.task import Task

_REFUSALS = {  # flag of experiments.evaluate -> why a task does not have it
    "measure": " is for pre-trained models, but {path} is a model of the task {task}",
    "num_images": ": the official scores of {task} are of a whole split",
    "rerank_top": " ranks images and texts, but {path} is a model of the task {task}",
    "wordnet": " asks for WUPS, which only questions with data.answers_are=set have, and this run is of another kind",
}


@dataclasses.dataclass(frozen=True)
class ExampleTexts:
    """Names and texts of a model's own domain, for the code in its model card."""

    image: str
    text: str
    other_text: str
    question: str
    sentence: str


@dataclasses.dataclass(frozen=True)
class BatchInputs:
    """The inputs of a maker of batches.

    Attributes:
      tokenizer: the run's tokenizer.
      answers: the answers that the model chooses from.
      sources: prepared splits.
      data: the run's configuration of the data, or one for evaluation.
      seed: seed of everything that is drawn at random.
      rows: first and last + 1 of the global batch's rows to make; None: all.
      evaluation: nothing is augmented, and each text is in the publisher's order.
    """

    tokenizer: Tokenizer
    answers: AnswerVocabulary | None
    sources: Sequence[Records]
    data: DataConfig
    seed: int = 0
    rows: tuple[int, int] | None = None
    evaluation: bool = False

    def common(self) -> dict[str, Any]:
        """The arguments that the batches of every task take."""
        data = dataclasses.replace(self.data, flip_rate=0.0) if self.evaluation else self.data
        return {
            "sources": tuple(self.sources),
            "tokenizer": self.tokenizer,
            "config": data,
            "seed": self.seed,
            "rows": self.rows,
        }


class Recipe:
    """A task for the programs. They hold a recipe and never ask which task it is.

    Class attributes:
      models: configuration classes of the models that have the task.
      summary: summary of a model of this task, in its model card.
      limits: lines of the model card.
      label_fields: names of a label's identifier and of its target; None: texts need no labels.
      each_text_once: evaluation reads each text of a record once, in as many rows as needed; else one row per record.
      may_mirror: whether training may mirror images.
      output_suffix: suffix of the file that `experiments.evaluate` writes.
      evaluation_flags: flags of `experiments.evaluate` that not every task takes and this one does.
      metric_meanings: the meaning of each metric, for the model card; a `_loss` needs none.
      report_metrics: rows of the table at the end of a run, beside masked tokens and image-text matching: label ->
        metric; None: no table and no report.png.
    """

    models: ClassVar[Sequence[type]] = (PixelBertConfig,)
    summary: ClassVar[str]
    limits: ClassVar[Sequence[str]] = ()
    label_fields: ClassVar[tuple[str, str] | None] = None
    each_text_once: ClassVar[bool] = False
    may_mirror: ClassVar[bool] = True
    output_suffix: ClassVar[str] = ".json"
    evaluation_flags: ClassVar[Sequence[str]] = ()
    metric_meanings: ClassVar[Mapping[str, str]] = {}
    report_metrics: ClassVar[Mapping[str, str] | None] = None

    def check(self, config: RunConfig) -> None:
        """Refuse a configuration that does not fit the task; raises ConfigError."""

    def check_complete(self, config: RunConfig) -> None:
        """Refuse a configuration whose model's sizes are known only from data; raises ConfigError."""

    def check_records(self, config: RunConfig, records: Records, *, known: bool, scored: bool) -> None:
        """Refuse a split that the task cannot use; its first record stands for all.

        Args:
          config: the run's configuration.
          records: the records of the split.
          known: the labels must have targets.
          scored: the official metric is computed, so the targets must suit it.

        Raises:
          DataError: labels of another task, without targets, or for another metric; no regions, for a model that
            reads them.
          ConfigError: regions of other sizes than the model's.
        """
        visual_input_of(config.model).check_records(config, records)
        if self.label_fields is None:
            return
        identifier, target = self.label_fields
        label = first_label(records)
        if identifier not in label:
            raise DataError(f"The texts of {records!r} have no {identifier}; use a data set for {self.name(config)}.")
        if known and target not in label:
            raise DataError(f"The texts of {records!r} have no {target}; use a split with {target}.")

    def find_answers(self, config: RunConfig, sources: Sequence[Records]) -> AnswerVocabulary | None:
        """The answers that a model chooses from; None: the task has no answers. Raises DataError."""
        del config, sources
        return None

    def with_answers(self, config: RunConfig, answers: AnswerVocabulary | None) -> RunConfig:
        """The configuration with the fields that the answers determine; raises ConfigError if it contradicts them."""
        del answers
        return config

    def make_task(self, config: RunConfig, tokenizer: Tokenizer) -> Task:
        """The task of a run; raises ConfigError."""
        del tokenizer
        return TASKS[self.name(config)][1](config.model, config.task)

    def make_batches(self, config: RunConfig, inputs: BatchInputs) -> MakeBatch:
        """The maker of the batches of a plan."""
        raise NotImplementedError

    def evaluation_visits(self, config: RunConfig, records: Records) -> np.ndarray:
        """Rows that each record gets in evaluation."""
        if self.each_text_once:
            return -(-records.index.num_texts // config.data.texts_per_image)
        return np.ones(len(records), int)

    def unmeasurable(self, sources: Sequence[Records]) -> tuple[str, ...]:
        """Names of metrics that mean nothing on this data; a warning says why."""
        del sources
        return ()

    def check_evaluation(self, loaded: LoadedModel, options: EvaluationOptions) -> None:
        """Refuse flags of `experiments.evaluate` that this task does not have.

        Raises:
          ConfigError: a flag that the task does not take.
        """
        for flag, value in options.given().items():
            if flag not in self.evaluation_flags:
                reason = _REFUSALS[flag].format(value=value, path=loaded.path, task=loaded.description["task"])
                raise ConfigError(f"--{flag}={value}{reason}; leave the flag out.")

    def output_suffix_of(self, options: EvaluationOptions) -> str:
        """Suffix of the file that `evaluate` writes."""
        del options
        return self.output_suffix

    def evaluate(
        self, loaded: LoadedModel, config: RunConfig, records: Records, output: Path, options: EvaluationOptions
    ) -> dict[str, Any]:
        """Write the predictions for a split to `output` and return the scores."""
        raise NotImplementedError

    def predict(
        self,
        loaded: LoadedModel,
        config: RunConfig,
        records: Records,
        options: EvaluationOptions,
        answer_of: Callable[[Any], Any],
        answers: AnswerVocabulary | None = None,
    ) -> list[predict.Prediction]:
        """The prediction for each text of a split, for `evaluate` of tasks whose task class has `predict`.

        Args:
          loaded: the model.
          config: the configuration of its run.
          records: the records of the split.
          options: of the evaluation.
          answer_of: a number that the task predicts -> the answer.
          answers: that the model chooses among.
        """

        def make_batches(data: DataConfig) -> predict.TextBatches:
            return self.make_batches(config, BatchInputs(loaded.tokenizer, answers, [records], data, evaluation=True))

        visits = self.evaluation_visits(config, records)
        return predict.predict(
            loaded, config, make_batches, records, answer_of, visits=visits, shuffle_images=options.shuffle_images
        )

    def example(self, loaded: LoadedModel, texts: ExampleTexts) -> list[str]:
        """Lines of code for the model card; `predictor` is the loaded model's Predictor."""
        del loaded
        return [
            f'predictor.match("{texts.image}", ["{texts.text}", "{texts.other_text}"])  # probability of each text, 1x2'
        ]

    def name(self, config: RunConfig) -> str:
        """The task's name in the registry."""
        return task_name(config.task)


def first_label(records: Records) -> dict[str, Any]:
    """The label of the first text; {} if it has none."""
    first = next(records.texts(), None)
    return first.parsed[0] if first is not None and first.parsed else {}


def saved_answers(description: dict[str, Any]) -> AnswerVocabulary | None:
    """The answers that a checkpoint's description holds."""
    return AnswerVocabulary(tuple(description["answers"])) if description.get("answers") else None
