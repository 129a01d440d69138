"""The paper's NLVR2 with ResNet-50: the recipe of VQA with a batch of 128 pairs of images.

    python -m data_pipelines.prepare nlvr2 --source_dir=/path/to/nlvr2 --data_dir=data
    python -m experiments.finetune --config=experiments/configs/nlvr2_r50.py --workdir=runs/nlvr2_r50 \\
        --config.init.checkpoint=runs/r50
    python -m experiments.evaluate --workdir=runs/nlvr2_r50 --split=test1 --output=predictions.csv

Expected, from the paper: dev 71.7, test-P 72.4. Nobody has run this file to its end yet.
"""

import dataclasses

from data_pipelines.config import SourceConfig
from data_pipelines.images.resize import Canvas, ResizeRule, default_canvases
from experiments.configs import vqa_r50
from experiments.run.config import CheckpointConfig, RunConfig
from pixelbert_jax.tasks.nlvr2 import Nlvr2Config


def canvases_of_pairs(rule: ResizeRule) -> tuple[Canvas, ...]:
    """The default canvases of a rule, and a square for a pair of an upright and a flat image."""
    canvases = default_canvases(rule)
    edge = max(height for height, _ in canvases)
    return (*canvases, (edge, edge))


def get_config() -> RunConfig:
    """128 rows of two images with one sentence each."""
    config = vqa_r50.get_config()
    data = dataclasses.replace(
        config.data,
        canvases=canvases_of_pairs(config.data.resize),
        train=(SourceConfig("nlvr2", "train"),),
        eval=(SourceConfig("nlvr2", "dev"),),
        batch_images=128,
        texts_per_image=1,
        max_text_length=40,
    )
    best = CheckpointConfig(every=1000, best="eval/nlvr2_accuracy")
    evaluation = dataclasses.replace(config.evaluation, every=1000)
    return dataclasses.replace(config, data=data, task=Nlvr2Config(), evaluation=evaluation, checkpoint=best)
