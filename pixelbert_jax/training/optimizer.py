"""SGD for the backbone and AdamW for everything else, as one optax transform with labels (paper section 4.1)."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from pixelbert_jax.config import ResNetConfig, check_choices
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.training.skippable import momentum, scale_by_adam, scale_by_learning_rate

Schedule = Callable[[jax.Array | int], jax.Array]

_DECAYED = {
    "kernel",
    "word",
    "position",
    "row",
    "column",
}  # last names of the parameters that are matrices


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The factor on every learning rate, as a function of the step."""

    kind: Literal["step", "linear", "cosine", "constant"] = "step"
    unit: Literal["epochs", "steps"] = "epochs"  # of `decay_at`
    decay_at: tuple[float, ...] = (25, 35)  # kind "step": multiply by decay_factor here
    decay_factor: float = 0.1
    warmup_steps: int = 1000  # linear, from warmup_start; 0: none
    warmup_start: float = 1 / 3
    final: float = 0.0  # kinds "linear" and "cosine": the factor at the last step

    def __post_init__(self) -> None:
        check_choices(self, "optimizer.schedule")
        if self.warmup_steps < 0:
            raise ConfigError(f"optimizer.schedule.warmup_steps={self.warmup_steps} must not be negative.")


@dataclasses.dataclass(frozen=True)
class SgdConfig:
    """The backbone's optimizer."""

    learning_rate: float = 1e-2
    momentum: float = 0.9  # not stated in the paper
    weight_decay: float = 5e-4


@dataclasses.dataclass(frozen=True)
class AdamWConfig:
    """The transformer's optimizer, heads and embeddings included."""

    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Both optimizers and what they share."""

    backbone: SgdConfig | AdamWConfig = SgdConfig()
    transformer: AdamWConfig = AdamWConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    clip_norm: float = 10.0  # of the gradient of all trained parameters; 0: off
    decay_vectors: bool = True  # weight decay on biases and normalisation parameters too
    ema_decay: float = 0.0  # exponential moving average of the parameters, used in evaluation; 0: off

    def __post_init__(self) -> None:
        if self.clip_norm < 0:
            raise ConfigError(f"optimizer.clip_norm={self.clip_norm} must not be negative; 0 turns it off.")
        for name in ("backbone", "transformer"):
            if getattr(self, name).learning_rate <= 0:
                raise ConfigError(
                    f"optimizer.{name}.learning_rate={getattr(self, name).learning_rate} must be positive; to train "
                    "nothing of the backbone set model.backbone.frozen_parts."
                )
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"optimizer.ema_decay={self.ema_decay} must lie in [0, 1); 0 turns it off.")


def make_schedule(config: ScheduleConfig, total_steps: int, steps_per_epoch: float) -> Schedule:
    """The factor on the learning rates at each step, counted from 0."""
    if config.kind == "step":
        scale = steps_per_epoch if config.unit == "epochs" else 1
        boundaries = {round(at * scale): config.decay_factor for at in config.decay_at}
        body = optax.piecewise_constant_schedule(1.0, boundaries)
    elif config.kind == "constant":
        body = optax.constant_schedule(1.0)
    else:
        length = max(1, total_steps - config.warmup_steps)
        if config.kind == "linear":
            decay = optax.linear_schedule(1.0, config.final, length)
        else:
            decay = optax.cosine_decay_schedule(1.0, length, alpha=config.final)
        return optax.join_schedules([_warmup(config), decay], [config.warmup_steps])
    if config.warmup_steps == 0:
        return body
    warmup = _warmup(config)
    return lambda step: warmup(step) * body(step)


def _warmup(config: ScheduleConfig) -> Schedule:
    return optax.linear_schedule(config.warmup_start, 1.0, max(1, config.warmup_steps))


def parameter_name(path: tuple) -> str:
    """'model/backbone/stem/conv/kernel' from a key path of a parameter tree."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parameter_count(params: Any) -> int:
    """How many numbers a tree of parameters holds."""
    return sum(array.size for array in jax.tree.leaves(params))


def parameter_group(name: str, backbone: ResNetConfig | None) -> Literal["frozen", "backbone", "transformer"]:
    """Which optimizer trains the parameter of that name."""
    parts = name.split("/")
    if "backbone" not in parts:
        return "transformer"
    below = parts[parts.index("backbone") + 1 :]
    part = 1 if below[0] == "stem" else int(below[1]) + 2
    return "frozen" if part <= backbone.frozen_parts else "backbone"


def learning_rates(config: OptimizerConfig, backbone: ResNetConfig | None, params: Any) -> dict[str, float]:
    """The learning rate, before the schedule, of each group of `parameter_group` that has parameters and is trained."""
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(params))
    groups = {parameter_group(parameter_name(path), backbone) for path in paths} - {"frozen"}
    return {group: getattr(config, group).learning_rate for group in sorted(groups)}


def make_optimizer(
    config: OptimizerConfig, backbone: ResNetConfig | None, schedule: Schedule
) -> optax.GradientTransformationExtraArgs:
    """The whole optimizer of a model, with or without a backbone. Frozen parts get neither updates nor decay.

    Its `update` takes `finite`. Where `finite` is False the state stays as it was, and the updates mean nothing.
    """

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: parameter_group(parameter_name(path), backbone), params)

    def decayed(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, array: (
                config.decay_vectors or (parameter_name(path).split("/")[-1] in _DECAYED and array.ndim > 1)
            ),
            params,
        )

    def group(group_config: SgdConfig | AdamWConfig) -> optax.GradientTransformationExtraArgs:
        def learning_rate(step: jax.Array) -> jax.Array:
            return group_config.learning_rate * schedule(step)

        decay = optax.add_decayed_weights(group_config.weight_decay, mask=decayed)
        if isinstance(group_config, SgdConfig):
            trace = momentum(group_config.momentum) if group_config.momentum else optax.identity()
            return optax.chain(decay, optax.chain(trace, scale_by_learning_rate(learning_rate)))
        adam = scale_by_adam(group_config.beta1, group_config.beta2, group_config.epsilon)
        return optax.chain(adam, decay, scale_by_learning_rate(learning_rate))

    by_group = optax.partition(
        {
            "backbone": group(config.backbone),
            "transformer": group(config.transformer),
            "frozen": optax.set_to_zero(),
        },
        labels,
    )
    if config.clip_norm:
        return optax.chain(_clip_by_global_norm(config.clip_norm), by_group)
    return by_group


def _clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """As optax does it, but with one factor: optax's quotient is written to memory, then read for each moment."""

    def clip(gradients: Any, _: Any = None) -> Any:
        norm = optax.tree.norm(gradients)
        factor = jnp.where(norm < limit, 1.0, limit / norm)
        return jax.tree.map(lambda gradient: gradient * factor.astype(gradient.dtype), gradients)

    return optax.stateless(clip)


def restarted(state: optax.OptState, fresh: optax.OptState) -> optax.OptState:
    """The optimizer's initial state with the step counts of its schedules kept."""

    def is_count(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    return jax.tree.map(lambda old, new: old if is_count(old) else new, state, fresh, is_leaf=is_count)
