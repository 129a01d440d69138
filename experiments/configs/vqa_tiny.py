"""Visual question answering with the small model of pretrain_coco_tiny, minutes on a laptop; DAQUAR by default.

    python -m data_pipelines.prepare daquar --source_dir=/path/to/daquar --data_dir=data
    python -m experiments.finetune --config=experiments/configs/vqa_tiny.py --workdir=runs/daquar_tiny \\
        --config.init.checkpoint=runs/tiny
    python -m experiments.evaluate --workdir=runs/daquar_tiny --split=test --output=predictions.json

Without init.checkpoint it trains from nothing; then say where the words are, with data.vocabulary. docs/results.md has
runs of both.
"""

import dataclasses

from data_pipelines.config import SourceConfig
from data_pipelines.images import ResizeRule
from experiments.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from experiments.configs import pretrain_coco_tiny
from pixelbert_jax.tasks.vqa import VqaConfig
from pixelbert_jax.training.optimizer import ScheduleConfig


def get_config(dataset: str = "daquar") -> RunConfig:
    """16 pictures with 4 questions each; the last state is judged, as DAQUAR has no validation split."""
    config = pretrain_coco_tiny.get_config(dataset)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            train=(SourceConfig(dataset, "train"),),
            eval=(SourceConfig(dataset, "test" if dataset == "daquar" else "val"),),
            resize=ResizeRule(128, 192),
            canvases=((128, 128), (128, 160), (160, 128), (128, 192), (192, 128)),
            texts_per_image=4,
            max_text_length=20,
            answer_minimum=1,
            answers_are="right",
        ),
        task=VqaConfig(),
        optimizer=dataclasses.replace(config.optimizer, schedule=ScheduleConfig(kind="linear", warmup_steps=20)),
        train=TrainConfig(steps=150),
        evaluation=EvaluationConfig(every=150, images=200),
        checkpoint=CheckpointConfig(every=150),
    )
