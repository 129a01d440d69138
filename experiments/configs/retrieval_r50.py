"""The paper's image-text retrieval with ResNet-50: the transformer alone is trained, on one true text and 20 others.

    python -m data_pipelines.prepare flickr30k --source_dir=/path/to/flickr30k --data_dir=data
    python -m experiments.finetune --config=experiments/configs/retrieval_r50.py --workdir=runs/flickr30k_r50 \\
        --config.init.checkpoint=runs/r50
    python -m experiments.evaluate --workdir=runs/flickr30k_r50 --split=test --output=scores.npz

retrieval_r50.py:coco_captions is COCO: 4 epochs, learning rate x 0.1 at 2. Expected R@1 of texts / images, from the
paper: Flickr30K 75.7 / 59.8, COCO 1K 77.8 / 64.1, COCO 5K 53.4 / 41.1. Nobody has run this file to its end yet.
"""

import dataclasses

from data_pipelines.config import SourceConfig
from experiments.configs import vqa_r50
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.config import RESNET50
from pixelbert_jax.tasks.retrieval import RetrievalConfig
from pixelbert_jax.training.optimizer import OptimizerConfig, ScheduleConfig


def get_config(dataset: str = "flickr30k") -> RunConfig:
    """512 images with 21 texts each, 6 of which get a gradient; the whole backbone is frozen."""
    config = vqa_r50.get_config()
    is_coco = dataset == "coco_captions"
    backbone = dataclasses.replace(RESNET50, frozen_parts=5)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, backbone=backbone),
        data=dataclasses.replace(
            config.data,
            train=(SourceConfig(dataset, "train+restval" if is_coco else "train"),),
            eval=(SourceConfig(dataset, "val"),),
            batch_images=512,
            texts_per_image=1,
            max_text_length=40,
        ),
        task=RetrievalConfig(),
        optimizer=OptimizerConfig(schedule=ScheduleConfig(decay_at=(2,) if is_coco else (6,))),
        train=TrainConfig(epochs=4 if is_coco else 10),
        evaluation=EvaluationConfig(every=500, images=1000),
        checkpoint=CheckpointConfig(every=500, best="eval/retrieval_accuracy"),
    )
