"""Pixel-BERT's pre-training: masked language modelling and image-text matching."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.batches.pretraining import PretrainingBatches, can_mismatch
from data_pipelines.storage.records import Records
from data_pipelines.text.tokenizer import Tokenizer
from experiments.evaluation import pretraining, retrieval
from experiments.evaluation.options import EvaluationOptions
from experiments.run.config import RunConfig
from experiments.run.progress import say
from experiments.tasks.recipe import BatchInputs, ExampleTexts, Recipe
from experiments.tasks.retrieval import CALIBRATION
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import LoadedModel
from pixelbert_jax.tasks.registry import TASKS
from pixelbert_jax.tasks.task import Task


class PretrainingRecipe(Recipe):
    """Evaluated on its own two tasks, or zero-shot on retrieval."""

    summary = "pre-trained (masked language modelling, image-text matching)"
    limits = (CALIBRATION,)
    evaluation_flags = ("measure", "num_images", "rerank_top")
    report_metrics = {}
    metric_meanings = {
        "itm_accuracy": "share of image-text pairs, half of them mismatched, that are right (chance level 0.5)",
        "mlm_accuracy": "share of masked tokens that are predicted",
        "mlm_accuracy_matched": "the same in matched pairs alone",
        "mlm_accuracy_words": "the same for the tokens that the configuration names",
    }
    batches: type[PretrainingBatches] = PretrainingBatches

    def check(self, config: RunConfig) -> None:
        if config.data.batch_images * config.data.texts_per_image < 2:
            raise ConfigError("A batch of one pair has no mismatched pair; raise data.batch_images.")

    def make_task(self, config: RunConfig, tokenizer: Tokenizer) -> Task:
        """The task; evaluation.words are tokens whose accuracy it reports separately."""
        tokens = config.evaluation.words
        if missing := [token for token in tokens if token not in tokenizer.ids]:
            raise ConfigError(f"evaluation.words: {missing} are not single tokens of the vocabulary; leave them out.")
        task_class = TASKS[self.name(config)][1]
        return task_class(config.model, config.task, tuple(tokenizer.ids[token] for token in tokens))

    def make_batches(self, config: RunConfig, inputs: BatchInputs) -> PretrainingBatches:
        return self.batches(**inputs.common())

    def unmeasurable(self, sources: Sequence[Records]) -> tuple[str, ...]:
        if not sources or can_mismatch(sources):
            return ()
        names = ", ".join(map(repr, sources))
        say(
            f"warning: all images of {names} have the same texts, so that there is no mismatched pair and image-text "
            "matching cannot be learned; itm_accuracy has no value. Give images texts of their own."
        )
        return ("itm_accuracy",)

    def check_evaluation(self, loaded: LoadedModel, options: EvaluationOptions) -> None:
        super().check_evaluation(loaded, options)
        if options.measure == "tasks" and options.rerank_top:
            raise ConfigError(
                f"--measure=tasks goes without --rerank_top, but --rerank_top={options.rerank_top}; leave out one."
            )

    def output_suffix_of(self, options: EvaluationOptions) -> str:
        return ".json" if options.measure == "tasks" else ".npz"

    def evaluate(
        self, loaded: LoadedModel, config: RunConfig, records: Records, output: Path, options: EvaluationOptions
    ) -> dict[str, Any]:
        """Metrics of the two tasks, or recalls of zero-shot retrieval with the image-text matching (ITM) head."""
        if options.measure != "tasks":
            return retrieval.evaluate(loaded, records, output, options)
        data = dataclasses.replace(config.data, mask_rate=config.evaluation.mask_rate, workers=0, max_bad_records=0)
        maker = self.make_batches(config, BatchInputs(loaded.tokenizer, None, [records], data, evaluation=True))
        maker = dataclasses.replace(maker, shuffle_images=options.shuffle_images)
        same = dataclasses.replace(config, model=loaded.task.model, task=loaded.task.config)
        task, without = self.make_task(same, loaded.tokenizer), self.unmeasurable([records])
        return pretraining.evaluate(
            loaded, config, task, maker, records, output, images=options.num_images, unmeasurable=without
        )

    def example(self, loaded: LoadedModel, texts: ExampleTexts) -> list[str]:
        masked = texts.text.replace(texts.text.split()[1], "[MASK]")
        return [*super().example(loaded, texts), f'predictor.fill_mask("{texts.image}", "{masked}")']


RECIPE = PretrainingRecipe()
