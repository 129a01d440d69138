"""easy-VQA from scratch: questions about one drawn shape, 13 answers, minutes on two CPU cores.

    python -m data_pipelines.prepare easy_vqa --source_dir=/path/to/easy_vqa --data_dir=data
    python -m experiments.finetune --config=experiments/configs/vqa_easy.py --workdir=runs/easy_vqa
    python -m experiments.evaluate --workdir=runs/easy_vqa --split=test --output=predictions.json

docs/results.md has a run.
"""

import dataclasses

from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.images.resize import ResizeRule
from experiments.configs.pretrain_quickstart import get_config as quickstart
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.tasks.vqa import VqaConfig


def get_config() -> RunConfig:
    """The quickstart's model, with one stage more, on 64x64 images; 16 images with 8 questions each per step.

    Colours are learned first. Shapes are learned all at once after some 3,000 steps, so the learning rates stay high
    until then. A higher rate for the transformer ends in answers that need no shape. Larger batches cost more and do
    not learn sooner.
    """
    config = quickstart()
    backbone = dataclasses.replace(
        config.model.backbone,
        depths=(1, 1, 1),
        widths=(32, 64, 128),
        inner_widths=(32, 64, 128),
        strides=(2, 2, 2),
    )
    optimizer = dataclasses.replace(
        config.optimizer,
        transformer=dataclasses.replace(config.optimizer.transformer, learning_rate=4e-4),
        schedule=dataclasses.replace(config.optimizer.schedule, decay_at=(3600,)),
    )
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, backbone=backbone),
        data=DataConfig(
            train=(SourceConfig("easy_vqa", "train"),),
            eval=(SourceConfig("easy_vqa", "test"),),
            vocabulary="",
            resize=ResizeRule(64, 64),
            canvases=((64, 64),),
            batch_images=16,
            texts_per_image=8,
            max_text_length=16,
            answers_are="right",
            threads=1,
            prefetch=4,
        ),
        task=VqaConfig(),
        optimizer=optimizer,
        train=TrainConfig(steps=4000),
        evaluation=EvaluationConfig(every=500, images=200),
        checkpoint=CheckpointConfig(every=500, best="eval/vqa_score"),
        report=False,
    )
