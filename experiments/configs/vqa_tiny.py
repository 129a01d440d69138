"""Visual question answering with the small model of pretrain_coco_tiny, minutes on a laptop; DAQUAR by default.

    python -m data_pipelines.prepare daquar --source_dir=/path/to/daquar --data_dir=data
    python -m experiments.finetune --config=experiments/configs/vqa_tiny.py --workdir=runs/daquar_tiny \\
        --config.init.checkpoint=runs/tiny
    python -m experiments.evaluate --workdir=runs/daquar_tiny --split=test --output=predictions.json

Without init.checkpoint it trains from scratch; then set data.vocabulary to a vocabulary. docs/results.md has runs of
both.
"""

import dataclasses

from data_pipelines.config import SourceConfig
from experiments.configs import pretrain_coco_tiny
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.tasks.vqa import VqaConfig


def get_config(dataset: str = "daquar") -> RunConfig:
    """16 images with 4 questions each; the last state is evaluated, because DAQUAR has no validation split."""
    config = pretrain_coco_tiny.for_fine_tuning(dataset)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            train=(SourceConfig(dataset, "train"),),
            eval=(SourceConfig(dataset, "test" if dataset == "daquar" else "val"),),
            texts_per_image=4,
            max_text_length=20,
            answer_minimum=1,
            answers_are="set" if dataset == "daquar" else "right",
        ),
        task=VqaConfig(),
        train=TrainConfig(steps=150),
        evaluation=EvaluationConfig(every=150, images=200),
        checkpoint=CheckpointConfig(every=150),
    )
