"""NLVR2 and NLVR: whether a sentence is true of two images, or of one drawing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.batches.nlvr2 import Nlvr2Batches
from data_pipelines.storage.records import Records
from experiments.evaluation.metrics import nlvr2
from experiments.evaluation.options import EvaluationOptions
from experiments.evaluation.predict import Prediction
from experiments.run.config import RunConfig
from experiments.tasks.recipe import BatchInputs, ExampleTexts, Recipe
from pixelbert_jax.loading import LoadedModel


class Nlvr2Recipe(Recipe):
    """The official script's accuracy and consistency."""

    summary = "fine-tuned to judge sentences about images"
    label_fields = ("identifier", "label")
    each_text_once = True
    may_mirror = False
    output_suffix = ".csv"
    metric_meanings = {"nlvr2_accuracy": "share of sentences that are judged correctly (chance level 0.5)"}

    def make_batches(self, config: RunConfig, inputs: BatchInputs) -> Nlvr2Batches:
        return Nlvr2Batches(**inputs.common(), evaluation=inputs.evaluation, images_per_row=config.task.images)

    def evaluate(
        self, loaded: LoadedModel, config: RunConfig, records: Records, output: Path, options: EvaluationOptions
    ) -> dict[str, Any]:
        """Write the official script's CSV; scores where the sentences have labels."""
        predicted = self.predict(loaded, config, records, options, bool)
        return write_submission(predicted, options.split, output)

    def example(self, loaded: LoadedModel, texts: ExampleTexts) -> list[str]:
        images = f'"{texts.image}"' if loaded.task.config.images == 1 else '"left.jpg", "right.jpg"'
        return [f'predictor.judge({images}, "{texts.sentence}")  # probability that it is true']


def write_submission(predicted: Sequence[Prediction], split: str, output: Path) -> dict[str, Any]:
    """Write the official file and return the scores; without labels only the number of examples."""
    permuted = any("permutation" in p.label for p in predicted)
    judged = {identifier(p): p.answer for p in predicted}
    labels = {str(p.label["identifier"]): p.label["label"] for p in predicted if "label" in p.label}
    if permuted:
        nlvr2.write_nlvr_predictions(output, judged, split)
    else:
        nlvr2.write_predictions(output, judged)
    if not labels:
        return {"examples": len(predicted)}
    if permuted:
        return nlvr2.nlvr_scores(judged, labels)
    # Users' own pairs have identifiers of any form, so the data set states which belong together.
    group_of = {identifier(p): p.label["group"] for p in predicted}
    return nlvr2.pair_scores(judged, labels, group_of.__getitem__)


def identifier(prediction: Prediction) -> str:
    """The identifier of an example, as the metrics take it."""
    label = prediction.label
    return f"{label['identifier']}-{label['permutation']}" if "permutation" in label else str(label["identifier"])


RECIPE = Nlvr2Recipe()
