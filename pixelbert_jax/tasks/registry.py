"""The tasks by name, and the task that a checkpoint's description names."""

import functools
import importlib
import operator
from typing import Any

from pixelbert_jax.config import ModelConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.serialization import build
from pixelbert_jax.tasks.task import Task

# Name of a file of this package -> its configuration and its task. experiments/tasks has a recipe of that name.
_CLASSES = {
    "pretraining": ("PretrainingConfig", "PretrainingTask"),
    "regions_pretraining": ("RegionsPretrainingConfig", "RegionsPretrainingTask"),
    "vqa": ("VqaConfig", "VqaTask"),
    "nlvr2": ("Nlvr2Config", "Nlvr2Task"),
    "retrieval": ("RetrievalConfig", "RetrievalTask"),
}


def _classes(name: str) -> tuple[type, type]:
    module = importlib.import_module(f"pixelbert_jax.tasks.{name}")
    config_class, task_class = _CLASSES[name]
    return getattr(module, config_class), getattr(module, task_class)


TASKS = {name: _classes(name) for name in _CLASSES}
TaskConfig = functools.reduce(operator.or_, (config_class for config_class, _ in TASKS.values()))


def task_name(config: TaskConfig) -> str:
    """The name of a configuration's task."""
    return next(name for name, (config_class, _) in TASKS.items() if type(config) is config_class)


def task_of(description: dict[str, Any]) -> Task:
    """The task that a description (training.checkpoint.describe) names, with its model's configuration.

    Raises:
      ConfigError: a task or a field that this code does not know.
    """
    name, config = description["task"], description["config"]
    if name not in TASKS:
        raise ConfigError(f"The checkpoint is of the task {name!r}; this code knows {', '.join(TASKS)}.")
    config_class, task_class = TASKS[name]
    model = build(config["model"], ModelConfig, "config.model")
    return task_class(model, build(config["task"], config_class, "config.task"))
