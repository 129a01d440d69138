"""The length of a caption: what the programs need."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from data_pipelines.batches.caption_length import CaptionLengthBatches

from data_pipelines.storage.records import Records
from experiments.evaluation.options import EvaluationOptions
from experiments.run.config import RunConfig
from experiments.tasks.recipe import BatchInputs, ExampleTexts, Recipe
from pixelbert_jax.loading import LoadedModel


class CaptionLengthRecipe(Recipe):
    """Its metric is the mean absolute error."""

    summary = "fine-tuned to guess the length of a caption"
    each_text_once = True
    may_mirror = False
    metric_meanings = {"length_loss": "mean squared error, in tens of tokens"}

    def make_batches(self, config: RunConfig, inputs: BatchInputs) -> CaptionLengthBatches:
        return CaptionLengthBatches(**inputs.common(), evaluation=inputs.evaluation)

    def evaluate(
        self, loaded: LoadedModel, config: RunConfig, records: Records, output: Path, options: EvaluationOptions
    ) -> dict[str, Any]:
        """Write the guess for each caption as JSON."""
        predicted = self.predict(loaded, config, records, options, float)
        lengths = [len(loaded.tokenizer.pieces(p.text)) for p in predicted]
        output.write_text(json.dumps([p.answer for p in predicted]))
        return {"mean_absolute_error": float(np.abs(np.array([p.answer for p in predicted]) - lengths).mean())}

    def example(self, loaded: LoadedModel, texts: ExampleTexts) -> list[str]:
        return [f"# guesses how many tokens a caption of {texts.image} has"]


RECIPE = CaptionLengthRecipe()
