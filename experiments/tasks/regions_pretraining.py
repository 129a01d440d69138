"""ImageBERT's pre-training: Pixel-BERT's two tasks, and the class and the feature of masked regions."""

from data_pipelines.batches.regions_pretraining import RegionsPretrainingBatches
from data_pipelines.storage.records import Records
from experiments.run.config import RunConfig
from experiments.tasks.pretraining import PretrainingRecipe
from pixelbert_jax.config import ImageBertConfig
from pixelbert_jax.errors import ConfigError


class RegionsPretrainingRecipe(PretrainingRecipe):
    """The model reads regions; the rest is as in Pixel-BERT's pre-training."""

    models = (ImageBertConfig,)
    summary = "pre-trained (masked language modelling, masked regions, image-text matching)"
    limits = ()
    report_metrics = {
        "classes of masked regions": "moc_accuracy",
        "features of masked regions, loss": "mrfr_loss",
    }
    metric_meanings = {
        **PretrainingRecipe.metric_meanings,
        "moc_accuracy": "share of masked regions whose detector class is predicted",
        "mrfr_loss": "squared error of masked regions' features",
    }
    batches = RegionsPretrainingBatches

    def check_records(self, config: RunConfig, records: Records, *, known: bool, scored: bool) -> None:
        super().check_records(config, records, known=known, scored=scored)
        regions, classes = config.model.regions, records.index.region_classes
        if classes > regions.classes:
            raise ConfigError(
                f"model.regions.classes={regions.classes}, but {records!r} has {classes}; set the first to that."
            )
        if not classes and config.task.moc_weight:
            raise ConfigError(
                f"The regions of {records!r} have no classes; set task.moc_weight=0, or use other regions."
            )


RECIPE = RegionsPretrainingRecipe()
