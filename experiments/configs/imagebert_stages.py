"""ImageBERT's multi-stage pre-training in miniature: noisy data first, then clean data; or both mixed, equally long.

    python -m data_pipelines.prepare noisy_shapes --data_dir=data/regions --regions=drawn
    python -m data_pipelines.prepare shapes --data_dir=data/regions --regions=drawn
    python -m experiments.pretrain --config=experiments/configs/imagebert_stages.py --workdir=runs/two_stages
    python -m experiments.pretrain --config=experiments/configs/imagebert_stages.py:one --workdir=runs/one_stage

Results: docs/results.md.
"""

import dataclasses

from data_pipelines.config import SourceConfig
from experiments.configs import imagebert_shapes
from experiments.run.config import RunConfig, StageConfig, TrainConfig

_NOISY, _CLEAN = SourceConfig("noisy_shapes", "train"), SourceConfig("shapes", "train")


def get_config(stages: str = "two") -> RunConfig:
    """2,000 steps in "two" stages, or in "one" that mixes the data, or on "clean" or "noisy" data alone."""
    mixtures = {"two": ((_NOISY,), (_CLEAN,)), "one": ((_NOISY, _CLEAN),), "clean": ((_CLEAN,),), "noisy": ((_NOISY,),)}
    config = imagebert_shapes.get_config()
    parts = mixtures[stages]
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, train=()),
        train=TrainConfig(),
        stages=tuple(StageConfig(train=mixture, steps=2000 // len(parts)) for mixture in parts),
    )
