"""Image-text retrieval with the small model of pretrain_coco_tiny, minutes on a laptop; Flickr8k by default.

    python -m data_pipelines.prepare flickr8k --source_dir=/path/to/flickr8k --data_dir=data
    python -m experiments.finetune --config=experiments/configs/retrieval_tiny.py --workdir=runs/flickr8k_tiny \\
        --config.init.checkpoint=runs/tiny
    python -m experiments.evaluate --workdir=runs/flickr8k_tiny --split=test --output=scores.npz

Without init.checkpoint it trains from scratch; then set data.vocabulary to a vocabulary. docs/results.md has runs of
both.
"""

import dataclasses

from experiments.configs import pretrain_coco_tiny
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.tasks.retrieval import RetrievalConfig


def get_config(dataset: str = "flickr8k") -> RunConfig:
    """16 images with 21 texts each, 6 of which get a gradient; the backbone, which starts from little, is trained."""
    config = pretrain_coco_tiny.for_fine_tuning(dataset)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            batch_images=16,
            texts_per_image=1,
            max_text_length=24,
        ),
        task=RetrievalConfig(),
        train=TrainConfig(steps=40),
        evaluation=EvaluationConfig(every=20, images=100),
        checkpoint=CheckpointConfig(every=20, best="eval/retrieval_accuracy"),
    )
