"""The recipe of each task: `RECIPE` in the file of this package that has the task's name."""

import importlib

from experiments.run.config import RunConfig
from experiments.tasks.recipe import Recipe
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.registry import TASKS, task_name


def recipe_of(config: RunConfig) -> Recipe:
    """The recipe of a run's task."""
    return recipe_named(task_name(config.task))


def configs_of(model: type) -> list[str]:
    """Names of the configurations of the tasks that a model has."""
    return [config.__name__ for name, (config, _) in TASKS.items() if model in recipe_named(name).models]


def recipe_named(name: str) -> Recipe:
    """The recipe of a task.

    Raises:
      ConfigError: no such task.
    """
    if name not in TASKS:
        raise ConfigError(f"There is no task {name!r}; choose from {', '.join(TASKS)}.")
    return importlib.import_module(f"experiments.tasks.{name}").RECIPE
