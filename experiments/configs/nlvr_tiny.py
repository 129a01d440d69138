"""NLVR (drawings of three boxes) with the small model of pretrain_coco_tiny, minutes on a laptop.

    python -m data_pipelines.prepare nlvr --source_dir=/path/to/nlvr --data_dir=data
    python -m experiments.finetune --config=experiments/configs/nlvr_tiny.py --workdir=runs/nlvr_tiny \\
        --config.init.checkpoint=runs/tiny
    python -m experiments.evaluate --workdir=runs/nlvr_tiny --split=dev --output=predictions.csv

Without init.checkpoint it trains from scratch; then set data.vocabulary to a vocabulary. docs/results.md has runs of
both.
"""

import dataclasses

from data_pipelines.config import SourceConfig
from data_pipelines.images.resize import ResizeRule
from experiments.configs import pretrain_coco_tiny
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.tasks.nlvr2 import Nlvr2Config


def get_config() -> RunConfig:
    """32 drawings of 96x384 pixels with one sentence each; train and train2 together."""
    config = pretrain_coco_tiny.for_fine_tuning("nlvr")
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            train=(SourceConfig("nlvr", "train+train2"),),
            eval=(SourceConfig("nlvr", "dev"),),
            resize=ResizeRule(96, 384),
            canvases=((96, 384),),
            batch_images=32,
            texts_per_image=1,
            max_text_length=24,
        ),
        task=Nlvr2Config(images=1),
        train=TrainConfig(steps=120),
        evaluation=EvaluationConfig(every=120, images=600),
        checkpoint=CheckpointConfig(every=120),
    )
