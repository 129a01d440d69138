"""Image-text retrieval on Flickr8k with the model of pretrain_photographs: the transformer alone is trained.

    python -m experiments.finetune --config=experiments/configs/retrieval_photographs.py --workdir=runs/flickr8k \\
        --config.init.checkpoint=runs/photographs
    python -m experiments.evaluate --workdir=runs/flickr8k --split=test --num_images=200 --output=scores.npz

The control starts from the published weights alone: init.text, init.backbone and data.vocabulary name them, and
init.checkpoint is empty. Expected in bfloat16 (docs/results.md), 200 test images and their 1,000 texts: text R@1 0.20
and R@10 0.60, image R@1 0.17 and R@10 0.65; ten minutes.
"""

import dataclasses

from experiments.configs import pretrain_photographs
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.tasks.retrieval import RetrievalConfig
from pixelbert_jax.training.optimizer import AdamWConfig, ScheduleConfig


def get_config(setting: str = "cpu") -> RunConfig:
    """8 images with 21 texts each, 6 of which get a gradient; the whole backbone is frozen, as in the paper."""
    config = pretrain_photographs.get_config(setting)
    backbone = dataclasses.replace(config.model.backbone, frozen_parts=4)
    on_gpu = setting == "gpu"
    return dataclasses.replace(
        config,
        init=dataclasses.replace(config.init, text="", backbone="", checkpoint="runs/photographs"),
        model=dataclasses.replace(config.model, backbone=backbone),
        data=dataclasses.replace(config.data, vocabulary="", batch_images=64 if on_gpu else 8, texts_per_image=1),
        task=RetrievalConfig(),
        optimizer=dataclasses.replace(
            config.optimizer,
            transformer=AdamWConfig(learning_rate=1e-4),
            schedule=ScheduleConfig(kind="linear", warmup_steps=30),
        ),
        train=TrainConfig(steps=1500),
        evaluation=EvaluationConfig(every=250, images=200),
        checkpoint=CheckpointConfig(every=250),
    )
