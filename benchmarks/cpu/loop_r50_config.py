"""Pre-training of r50 at the paper's image size that a CPU can do: two images a step, float32, the one data set.

For `benchmarks.cpu.loop_overhead`, whose loop is as pre-training's; the checkpoint holds all 134.6 million parameters
and both optimizers' moments.
"""

import dataclasses

from data_pipelines.config import SourceConfig
from experiments.configs import pretrain_r50
from experiments.run.config import RunConfig
from pixelbert_jax.weights.initialize import InitConfig


def get_config() -> RunConfig:
    """Random weights, COCO's captions alone."""
    config = pretrain_r50.get_config()
    captions = (SourceConfig("coco_captions", "train"),)
    return dataclasses.replace(
        config,
        init=InitConfig(),
        model=dataclasses.replace(config.model, dtype="float32"),
        data=dataclasses.replace(config.data, train=captions, eval=captions, batch_images=2),
    )
