"""Your own pairs of images with sentences that are true or false of them, with the small model of pretrain_coco_tiny.

    python -m data_pipelines.prepare image_pairs --source_dir=my_pairs --data_dir=data
    python -m experiments.finetune --config=experiments/configs/pairs_tiny.py --workdir=runs/my_pairs \\
        --config.init.checkpoint=runs/my_data
    python -m experiments.evaluate --workdir=runs/my_pairs --split=val --output=predictions.csv

NLVR2 has the same form: pairs_tiny.py:nlvr2. Without init.checkpoint it trains from scratch; then set data.vocabulary
to a vocabulary.
"""

import dataclasses

from data_pipelines.config import SourceConfig
from experiments.configs import pretrain_coco_tiny
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.tasks.nlvr2 import Nlvr2Config


def get_config(dataset: str = "image_pairs") -> RunConfig:
    """16 pairs with one sentence each."""
    config = pretrain_coco_tiny.for_fine_tuning(dataset)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            eval=(SourceConfig(dataset, "dev" if dataset == "nlvr2" else "val"),),
            texts_per_image=1,
        ),
        task=Nlvr2Config(images=2),
        train=TrainConfig(steps=200),
        evaluation=EvaluationConfig(every=100, images=200),
        checkpoint=CheckpointConfig(every=100),
    )
