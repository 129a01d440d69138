"""Visual question answering: the answer to each question, from a list of answers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.batches.vqa import VqaBatches
from data_pipelines.errors import DataError
from data_pipelines.storage.paths import as_path
from data_pipelines.storage.records import Records
from data_pipelines.text.answers import AnswerVocabulary, build_vocabulary, read_vocabulary_list
from experiments.evaluation.metrics import vqa
from experiments.evaluation.metrics.any_answer import any_answer_scores
from experiments.evaluation.metrics.daquar import daquar_scores
from experiments.evaluation.metrics.wordnet import WordNet
from experiments.evaluation.options import EvaluationOptions
from experiments.evaluation.predict import Prediction
from experiments.run.config import RunConfig
from experiments.run.progress import say
from experiments.tasks.recipe import BatchInputs, ExampleTexts, Recipe, first_label, saved_answers
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import LoadedModel


class VqaRecipe(Recipe):
    """Answers are votes of people, alternatives, or sets (`data.answers_are`); each has its own metric."""

    summary = "fine-tuned for visual question answering"
    limits = ("- It can give only the answers of its list (`answers` in config.json).",)
    label_fields = ("question_id", "answers")
    each_text_once = True
    may_mirror = False
    evaluation_flags = ("wordnet",)
    metric_meanings = {"vqa_score": "mean score of the likeliest answer, in [0, 1]"}

    def check_complete(self, config: RunConfig) -> None:
        if not config.task.answers:
            raise ConfigError("task.answers=0 takes the number from the data set; give it: --config.task.answers=3129.")

    def check_records(self, config: RunConfig, records: Records, *, known: bool, scored: bool) -> None:
        super().check_records(config, records, known=known, scored=scored)
        answers = first_label(records).get("answers", ())
        if scored and config.data.answers_are == "votes" and 0 < len(answers) < 4:
            raise DataError(
                f"The questions of {records!r} have too few answers for the accuracy of VQA, which compares people; "
                "train with data.answers_are=right (each answer is right) or set (all together are)."
            )

    def find_answers(self, config: RunConfig, sources: Sequence[Records]) -> AnswerVocabulary:
        """The answers that the configuration names, or those of the training data that are frequent enough."""
        if config.data.answers:
            return read_vocabulary_list(as_path(config.data.answers))
        say("collecting the answers of data.train")
        labels = (label for records in sources for record in records.texts() for label in record.parsed)
        given = (label.get("answers", ()) for label in labels)
        if config.data.answers_are == "votes":
            return build_vocabulary(given, config.data.answer_minimum)
        each_alone = ([answer] for answers in given for answer in answers)
        return build_vocabulary(each_alone, config.data.answer_minimum, normalize=False)

    def with_answers(self, config: RunConfig, answers: AnswerVocabulary | None) -> RunConfig:
        """The configuration with task.answers set to the number of answers."""
        if answers is None:
            return config
        if config.task.answers not in (0, len(answers)):
            raise ConfigError(
                f"task.answers={config.task.answers}, but there are {len(answers)} answers; set it to 0 (taken "
                "from the answers) or change data.answers."
            )
        return dataclasses.replace(config, task=dataclasses.replace(config.task, answers=len(answers)))

    def make_batches(self, config: RunConfig, inputs: BatchInputs) -> VqaBatches:
        return VqaBatches(
            **inputs.common(),
            evaluation=inputs.evaluation,
            answers=inputs.answers,
            answer_slots=config.task.answer_slots,
        )

    def evaluate(
        self, loaded: LoadedModel, config: RunConfig, records: Records, output: Path, options: EvaluationOptions
    ) -> dict[str, Any]:
        """Write the server's JSON list of question_id and answer; scores where the questions have answers."""
        wordnet = read_wordnet(config, options.wordnet)
        if wordnet is not None:
            self.check_records(config, records, known=True, scored=True)  # WUPS compares with the right answers
        answers = saved_answers(loaded.description)
        predicted = self.predict(loaded, config, records, options, lambda number: answers.answers[int(number)], answers)
        return write_submission(config, predicted, output, answers, wordnet)

    def example(self, loaded: LoadedModel, texts: ExampleTexts) -> list[str]:
        return [f'predictor.answer("{texts.image}", "{texts.question}", top=3)  # [(answer, probability), ...]']


def read_wordnet(config: RunConfig, folder: str) -> WordNet | None:
    """The WordNet for WUPS; None if no folder is given.

    Raises:
      ConfigError: the run has no such score.
      DataError: the folder is not a WordNet's.
    """
    if not folder:
        return None
    if config.data.answers_are != "set":
        raise ConfigError(
            f"--wordnet={folder} asks for WUPS, which only questions with data.answers_are=set have, and this run is "
            "of another kind; leave the flag out."
        )
    return WordNet(as_path(folder))


def write_submission(
    config: RunConfig,
    predicted: Sequence[Prediction],
    output: Path,
    answers: AnswerVocabulary | None = None,
    wordnet: WordNet | None = None,
) -> dict[str, Any]:
    """Write the official file and return the scores; without labels only the number of questions.

    Args:
      config: the run's configuration.
      predicted: predictions for all questions of the split.
      output: the file.
      answers: the answers that the model chooses from.
      wordnet: for WUPS of sets of answers.
    """
    answer_of = {p.label["question_id"]: p.answer for p in predicted}
    vqa.write_predictions(output, answer_of)
    if not any("answers" in p.label for p in predicted):
        return {"questions": len(predicted)}
    if config.data.answers_are == "votes":
        return flat(vqa.vqa_scores(answer_of, [p.label for p in predicted]))
    right = {p.label["question_id"]: p.label["answers"] for p in predicted}
    if config.data.answers_are == "right":
        return any_answer_scores(answer_of, right, answers)
    return daquar_scores({question: [answer] for question, answer in answer_of.items()}, right, wordnet)


def flat(scores: dict[str, Any]) -> dict[str, Any]:
    """Scores in one flat dictionary, with those of question and answer types."""
    found = {}
    for name, value in scores.items():
        found |= {f"{name}/{kind}": v for kind, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


RECIPE = VqaRecipe()
