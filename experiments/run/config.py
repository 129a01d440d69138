"""The typed configuration of a run."""

import dataclasses

from data_pipelines.config import DataConfig, SourceConfig
from pixelbert_jax.config import ModelConfig, PixelBertConfig
from pixelbert_jax.tasks.pretraining import PretrainingConfig
from pixelbert_jax.tasks.registry import TaskConfig
from pixelbert_jax.training.optimizer import OptimizerConfig, ScheduleConfig
from pixelbert_jax.training.sharding import MeshConfig
from pixelbert_jax.weights.initialize import InitConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long and how to train."""

    epochs: float = 0.0  # give this or `steps`
    steps: int = 0
    accumulation: int = 1  # micro-batches per step, for batches larger than memory
    log_every: int = 10  # steps between lines of metrics.jsonl
    tensorboard: bool = False  # needs the extra `tensorboard`
    wandb: str = ""  # project of Weights & Biases; needs the extra `wandb`
    profile: tuple[int, int] | None = None  # (start, stop): a trace of steps start to stop - 1 in WORKDIR/profile
    max_skipped_in_a_row: int = 20  # steps with a gradient that is not finite before the run stops
    stall_report: float = 45.0  # seconds of waiting for a batch until a report of where; ten times that for a step
    stall_end: float = 3600.0  # seconds of such a wait until a process of several ends the run; 0: never, as above
    compilation_cache: str = "~/.cache/pixelbert_jax/compiled"  # "": none


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """A part of a run: from the weights of the part before it, with fresh moments of the optimizer."""

    train: tuple[SourceConfig, ...]  # the sources it mixes, instead of data.train
    epochs: float = 0.0  # give this or `steps`
    steps: int = 0
    schedule: ScheduleConfig | None = None  # counted from its first step; None: optimizer.schedule's


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation metrics."""

    every: int = 1000  # steps; 0: never
    images: int = 1000  # evenly spaced over data.eval; 0: all
    batch_images: int = 0  # rows of an evaluation batch; 0: as in training
    mask_rate: float = 0.15
    words: tuple[str, ...] = ()  # report accuracy on these masked tokens separately


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every: int = 1000  # steps
    keep_last: int = 2
    keep_every: int = 0  # steps; 0: none are kept permanently
    best: str = ""  # an evaluation metric, such as "eval/vqa_score": its best checkpoint is kept in best/


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run: what `get_config()` of a file in experiments/configs returns."""

    data: DataConfig
    init: InitConfig = InitConfig()
    model: ModelConfig = PixelBertConfig()
    task: TaskConfig = PretrainingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    stages: tuple[StageConfig, ...] = ()  # ImageBERT's multi-stage pre-training; empty: one, of data.train
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    mesh: MeshConfig = MeshConfig()
    seed: int = 0
    report: bool = False  # draw report.png at the end


# Fields that may change when a run is resumed: they do not change what is computed.
_FREE_ON_RESUME = (
    "data.data_dir",
    "data.eval",
    "data.max_bad_records",
    "data.prefetch",
    "data.threads",
    "data.vocabulary",
    "data.workers",
    "checkpoint",
    "evaluation",
    "mesh",
    "report",
    "train.compilation_cache",
    "train.epochs",
    "train.log_every",
    "train.max_skipped_in_a_row",
    "train.profile",
    "train.stall_end",
    "train.stall_report",
    "train.steps",
    "train.tensorboard",
    "train.wandb",
)


def evaluation_rows(config: RunConfig) -> int:
    """Rows of an evaluation batch."""
    return config.evaluation.batch_images or config.data.batch_images


def differences(saved: dict, config: dict) -> list[str]:
    """Fields in which a run's configuration differs from the one it began with, without those that may change."""
    # A schedule that ends at the last step makes the number of steps part of what is computed.
    fixed = ("train.steps", "train.epochs")
    follows_length = config["optimizer"]["schedule"]["kind"] in ("linear", "cosine")
    free = tuple(name for name in _FREE_ON_RESUME if not (follows_length and name in fixed))
    old, new = flatten(saved), flatten(config)
    return [
        f"{name}: {old.get(name, '(absent)')!r} in the checkpoint, {new.get(name, '(absent)')!r} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not any(f"{name}.".startswith(f"{f}.") for f in free)
    ]


def flatten(tree: dict, prefix: str = "") -> dict:
    """Nested dictionaries and lists to one with dotted names."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            flat |= flatten({str(i): item for i, item in enumerate(value)}, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
