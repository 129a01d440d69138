"""Image-text retrieval: every image against every text."""

from pathlib import Path
from typing import Any

from data_pipelines.batches.retrieval import RetrievalBatches
from data_pipelines.storage.records import Records
from experiments.evaluation import retrieval
from experiments.evaluation.options import EvaluationOptions
from experiments.run.config import RunConfig
from experiments.tasks.recipe import BatchInputs, Recipe
from pixelbert_jax.config import ImageBertConfig, PixelBertConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import LoadedModel

CALIBRATION = "- A matching probability compares texts; it is not calibrated as the probability of being true."


class RetrievalRecipe(Recipe):
    """Retrieval with either model."""

    models = (PixelBertConfig, ImageBertConfig)
    summary = "fine-tuned for image-text retrieval"
    limits = (CALIBRATION,)
    output_suffix = ".npz"
    metric_meanings = {
        "retrieval_accuracy": "share of images whose own text scores above those of the other images of a batch"
    }
    evaluation_flags = ("num_images", "rerank_top")

    def check(self, config: RunConfig) -> None:
        data, accumulation = config.data, config.train.accumulation
        if config.task.image_negatives and data.batch_images // accumulation < 2:
            raise ConfigError(
                f"task.image_negatives takes other images of a micro-batch, but train.accumulation={accumulation} "
                f"leaves one of data.batch_images={data.batch_images} in each; lower the first."
            )
        if data.texts_per_image != 1 or data.batch_images < 2:
            raise ConfigError(
                f"data.texts_per_image={data.texts_per_image}, data.batch_images={data.batch_images}: retrieval takes "
                "one text per image and the others from other images of the batch; set the first to 1, the second "
                "above 1."
            )

    def make_batches(self, config: RunConfig, inputs: BatchInputs) -> RetrievalBatches:
        return RetrievalBatches(**inputs.common(), negatives=config.task.negatives)

    def evaluate(
        self, loaded: LoadedModel, config: RunConfig, records: Records, output: Path, options: EvaluationOptions
    ) -> dict[str, Any]:
        """Scores of all pairs and recalls."""
        return retrieval.evaluate(loaded, records, output, options)


RECIPE = RetrievalRecipe()
