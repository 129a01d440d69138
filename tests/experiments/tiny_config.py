"""The quickstart, smaller: compiles and runs in seconds."""

import dataclasses

from experiments.configs.pretrain_quickstart import get_config as quickstart
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig


def get_config() -> RunConfig:
    """12 steps of 8 images; dropout and pixel sampling are on, so that random numbers matter."""
    config = quickstart()
    encoder = dataclasses.replace(config.model.encoder, width=32, heads=2, mlp_width=64, dropout=0.1)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, encoder=encoder),
        data=dataclasses.replace(config.data, batch_images=8, texts_per_image=2, prefetch=2),
        train=TrainConfig(steps=12, log_every=1, compilation_cache=""),
        evaluation=EvaluationConfig(every=6, images=0, words=("red", "circle")),
        checkpoint=CheckpointConfig(every=4, keep_last=3),
        report=False,
    )
