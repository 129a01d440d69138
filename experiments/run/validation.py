"""Checks across the dataclasses of a run's configuration."""

import jax
from etils import epath

from data_pipelines.config import check_weights
from data_pipelines.storage.paths import as_path, check_readable, check_writable, holds_checkpoints
from experiments.run.config import RunConfig, StageConfig, evaluation_rows
from experiments.tasks.registry import configs_of, recipe_of
from experiments.tasks.visual_input import visual_input_of
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.registry import task_name


def run_folder(workdir: epath.PathLike) -> epath.Path:
    """The folder of a run, where checkpoints can be written.

    Raises:
      ConfigError: Orbax cannot write there, or it is a file.
      DataError: its bucket is not there, or a package is missing.
    """
    path = epath.Path(as_path(workdir))
    if not holds_checkpoints(path):
        raise ConfigError(
            f"--workdir={workdir}: checkpoints are written to a file system or to gs:// only; mount that bucket as a "
            "folder, or take a local --workdir and copy it there afterwards."
        )
    check_writable(path)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--workdir={workdir} is a file; name a folder, which may not exist yet.")
    return path


def validate(config: RunConfig) -> None:
    """Check that the fields of different dataclasses fit each other, before anything is built.

    Raises:
      ConfigError: fields that do not fit each other.
      DataError: a path of a kind that cannot be read, or a bucket that is missing or may not be read.
    """
    model, data, init, train = config.model, config.data, config.init, config.train
    for path in (data.data_dir, data.vocabulary, data.answers, init.text, init.backbone, init.checkpoint):
        check_readable(as_path(path))
    _validate_lengths(config)
    if data.max_text_length > model.text.max_positions:
        raise ConfigError(
            f"data.max_text_length={data.max_text_length} is longer than model.text.max_positions="
            f"{model.text.max_positions}; lower the first or raise the second."
        )
    recipe = recipe_of(config)
    if type(model) not in recipe.models:
        raise ConfigError(
            f"The model is of the class {type(model).__name__}, which has no task {task_name(config.task)}; set task "
            f"to one of {', '.join(configs_of(type(model)))}, or use another model."
        )
    visual_input_of(model).check(config)
    devices = jax.device_count()
    for name, rows in (
        ("data.batch_images", data.batch_images),
        ("evaluation.batch_images", evaluation_rows(config)),
    ):
        if rows % devices:
            raise ConfigError(f"{name}={rows} is not a multiple of the {devices} devices; change it.")
    if train.accumulation < 1 or data.batch_images % (devices * train.accumulation):
        raise ConfigError(
            f"train.accumulation={train.accumulation} does not divide the {data.batch_images // devices} rows per "
            "device that data.batch_images gives; change one of the two."
        )
    for name, value in (
        ("train.log_every", train.log_every),
        ("checkpoint.every", config.checkpoint.every),
        ("checkpoint.keep_last", config.checkpoint.keep_last),
    ):
        if value < 1:
            raise ConfigError(f"{name}={value} must be at least 1.")
    if train.profile and not 1 <= train.profile[0] < train.profile[1]:
        raise ConfigError(
            f"train.profile={train.profile} must be (start, stop) with 1 <= start < stop; it traces steps start to "
            "stop - 1."
        )
    if config.evaluation.every and not data.eval:
        raise ConfigError(
            "evaluation.every is set but data.eval names no data set; set evaluation.every=0 or data.eval."
        )
    if config.report and recipe.report_metrics is None:
        raise ConfigError("report=true draws what pre-training learned; set it to false for other tasks.")
    if config.checkpoint.best and not config.evaluation.every:
        raise ConfigError("checkpoint.best names an evaluation metric, but evaluation.every=0; set one of the two.")
    if config.report and not config.evaluation.every:
        raise ConfigError("report=true draws evaluation metrics, but evaluation.every=0; set one of the two.")
    if data.flip_rate and not recipe.may_mirror:
        raise ConfigError(
            f"data.flip_rate={data.flip_rate} mirrors images: answers about left and right would be wrong; set it to 0."
        )
    recipe.check(config)


def _validate_lengths(config: RunConfig) -> None:
    """Check the lengths and the data of the run or its stages."""
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
