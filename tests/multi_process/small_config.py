"""A run that several processes share: the tests' small model, eight images per step."""

import dataclasses

from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from tests.experiments.fine_tuning import small_config


def get_config() -> RunConfig:
    """Six steps; evaluated after the third and sixth, saved after the fourth. Small arrays are split too."""
    config = small_config()
    return dataclasses.replace(
        config,
        train=TrainConfig(steps=6, log_every=1, compilation_cache=""),
        evaluation=EvaluationConfig(every=3, images=0, words=("red",)),
        checkpoint=CheckpointConfig(every=4, keep_last=3),
        mesh=dataclasses.replace(config.mesh, min_split_size=64),
    )
