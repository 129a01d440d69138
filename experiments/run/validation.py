"""What of a run's configuration one dataclass alone cannot see."""

import jax

from data_pipelines.config import check_weights
from experiments.run.config import RunConfig, StageConfig, evaluation_rows
from pixelbert_jax.config import ImageBertConfig, PixelBertConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.nlvr2 import Nlvr2Config
from pixelbert_jax.tasks.pretraining import PretrainingConfig
from pixelbert_jax.tasks.regions_pretraining import RegionsPretrainingConfig
from pixelbert_jax.tasks.registry import task_name
from pixelbert_jax.tasks.retrieval import RetrievalConfig
from pixelbert_jax.tasks.vqa import VqaConfig


def validate(config: RunConfig) -> None:
    """Check what one dataclass alone cannot see, before anything is built.

    Raises:
      ConfigError: fields that do not fit each other.
    """
    model, data, train = config.model, config.data, config.train
    _validate_lengths(config)
    if data.max_text_length > model.text.max_positions:
        raise ConfigError(
            f"data.max_text_length={data.max_text_length} is longer than model.text.max_positions="
            f"{model.text.max_positions}; lower the first or raise the second."
        )
    if isinstance(model, PixelBertConfig):
        _validate_pixels(config, model)
    else:
        _validate_regions(config, model)
    devices = jax.device_count()
    for name, rows in (
        ("data.batch_images", data.batch_images),
        ("evaluation.batch_images", evaluation_rows(config)),
    ):
        if rows % devices:
            raise ConfigError(f"{name}={rows} is not a multiple of the {devices} devices; change it.")
    if train.accumulation < 1 or data.batch_images % (devices * train.accumulation):
        raise ConfigError(
            f"train.accumulation={train.accumulation} does not divide the {data.batch_images // devices} rows a device "
            "that data.batch_images gives; change one of the two."
        )
    for name, value in (
        ("train.log_every", train.log_every),
        ("checkpoint.every", config.checkpoint.every),
        ("checkpoint.keep_last", config.checkpoint.keep_last),
    ):
        if value < 1:
            raise ConfigError(f"{name}={value} must be at least 1.")
    if config.evaluation.every and not data.eval:
        raise ConfigError(
            "evaluation.every is set but data.eval names no data set; set evaluation.every=0 or data.eval."
        )
    pretraining = isinstance(config.task, PretrainingConfig | RegionsPretrainingConfig)
    if config.report and not pretraining:
        raise ConfigError("report=true draws what pre-training learned; set it to false for other tasks.")
    if config.checkpoint.best and not config.evaluation.every:
        raise ConfigError("checkpoint.best names a held-out figure, but evaluation.every=0; set one of the two.")
    if config.report and not config.evaluation.every:
        raise ConfigError("report=true draws held-out figures, but evaluation.every=0; set one of the two.")
    if data.flip_rate and isinstance(config.task, VqaConfig | Nlvr2Config):
        raise ConfigError(
            f"data.flip_rate={data.flip_rate} mirrors images: answers about left and right would be wrong; set it to 0."
        )
    if pretraining and data.batch_images * data.texts_per_image < 2:
        raise ConfigError("A batch of one pair has no mismatched pair; raise data.batch_images.")
    of_pictures = isinstance(config.task, RetrievalConfig) and config.task.image_negatives
    if of_pictures and data.batch_images // train.accumulation < 2:
        raise ConfigError(
            f"task.image_negatives takes other pictures of a micro-batch, but train.accumulation={train.accumulation} "
            f"leaves one of data.batch_images={data.batch_images} in each; lower the first."
        )
    if isinstance(config.task, RetrievalConfig) and (data.texts_per_image != 1 or data.batch_images < 2):
        raise ConfigError(
            f"data.texts_per_image={data.texts_per_image}, data.batch_images={data.batch_images}: retrieval takes one "
            "text a picture and the others from other pictures of the batch; set the first to 1, the second above 1."
        )


def _validate_lengths(config: RunConfig) -> None:
    """How long the run or its stages are, and on what."""
    train, stages = config.train, config.stages
    if stages and (config.data.train or train.epochs or train.steps):
        raise ConfigError(
            "stages is set, and data.train, train.epochs or train.steps too; leave those empty: each stage has its own."
        )
    only = StageConfig(config.data.train, train.epochs, train.steps)
    for number, stage in enumerate(stages or (only,)):
        name, mixture = (f"stages.{number}", f"stages.{number}.train") if stages else ("train", "data.train")
        if (stage.epochs > 0) == (stage.steps > 0):
            raise ConfigError(
                f"{name}.epochs={stage.epochs} and {name}.steps={stage.steps}: set exactly one of them above 0."
            )
        if not stage.train:
            raise ConfigError(f"{mixture} names no data set; give at least one source.")
        check_weights(stage.train)


def _validate_pixels(config: RunConfig, model: PixelBertConfig) -> None:
    """What a model of pixels asks for."""
    data = config.data
    if data.regions or isinstance(config.task, RegionsPretrainingConfig):
        raise ConfigError(
            f"The model is a PixelBertConfig, which reads pixels, but data.regions={data.regions} and the task is "
            f"{task_name(config.task)}; use an ImageBertConfig, or set data.regions=0 and another task."
        )
    for height, width in data.all_canvases:
        if height % model.stride or width % model.stride:
            raise ConfigError(
                f"The canvas {height}x{width} is not a multiple of the model's stride {model.stride}; "
                "change data.canvases."
            )
        rows, columns = model.grid(height, width)
        if model.pixels.position == "rowcol" and max(rows, columns) > model.pixels.max_grid:
            raise ConfigError(
                f"The canvas {height}x{width} has {rows}x{columns} cells, more than model.pixels.max_grid="
                f"{model.pixels.max_grid}; raise it."
            )
    backbone = model.backbone
    stored = backbone.frozen_parts > 0 or (backbone.norm == "batch" and backbone.batch_statistics == "frozen")
    if stored and not (config.init.backbone or config.init.checkpoint):
        raise ConfigError(
            "model.backbone keeps frozen parts or stored BatchNorm statistics, but nothing is loaded into it; set "
            "init.backbone or init.checkpoint, or train it from nothing: frozen_parts=0 with norm='group' or "
            "batch_statistics='train'."
        )


def _validate_regions(config: RunConfig, model: ImageBertConfig) -> None:
    """What a model of regions asks for."""
    data = config.data
    if not isinstance(config.task, RegionsPretrainingConfig | RetrievalConfig):
        raise ConfigError(
            f"The model is an ImageBertConfig, which has no task {task_name(config.task)}; it is pre-trained with a "
            "RegionsPretrainingConfig and fine-tuned with a RetrievalConfig."
        )
    if not data.regions:
        raise ConfigError("data.regions=0, but the model reads regions; set it to 100, as the paper does.")
    if (model.regions.global_size > 0) != (data.whole_picture != "none"):
        raise ConfigError(
            f"model.regions.global_size={model.regions.global_size}, but data.whole_picture={data.whole_picture!r}; "
            "set both or none."
        )
    if config.init.backbone or config.init.checkpoint_parts == "backbone":
        raise ConfigError("init.backbone or init.checkpoint_parts asks for a backbone, which ImageBERT has not.")
