"""Image-text retrieval with ImageBERT on drawn scenes, from the pre-trained model of imagebert_shapes.

    python -m experiments.finetune --config=experiments/configs/imagebert_retrieval_shapes.py \\
        --workdir=runs/imagebert_retrieval --config.init.checkpoint=runs/imagebert
    python -m experiments.evaluate --workdir=runs/imagebert_retrieval --split=test --output=scores.npz

Results, also of the other losses: docs/results.md.
"""

import dataclasses

from experiments.configs import imagebert_shapes
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.tasks.retrieval import RetrievalConfig
from pixelbert_jax.training.optimizer import AdamWConfig


def get_config() -> RunConfig:
    """16 images with one true text each, negatives on both sides, the binary loss, which the paper found best."""
    config = imagebert_shapes.get_config()
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch_images=16),
        task=RetrievalConfig(
            negatives=5,
            hardest_negatives=3,
            image_negatives=True,
            multiclass_weight=0.0,
            binary_weight=1.0,
            triplet_weight=0.0,
        ),
        optimizer=dataclasses.replace(config.optimizer, transformer=AdamWConfig(learning_rate=3e-4)),
        train=TrainConfig(steps=300),
        evaluation=EvaluationConfig(every=300, images=1000),
        checkpoint=CheckpointConfig(every=300),
        report=False,
    )
