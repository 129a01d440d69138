"""Image-text retrieval with ImageBERT on Flickr30k, with the paper's settings.

    python -m data_pipelines.prepare flickr30k --source_dir=/flickr30k --regions=/regions --data_dir=data
    python -m experiments.finetune --config=experiments/configs/imagebert_retrieval.py --workdir=runs/flickr30k \\
        --config.init.checkpoint=runs/imagebert
    python -m experiments.evaluate --workdir=runs/flickr30k --split=test --output=scores.npz

COCO: imagebert_retrieval.py:coco_captions. Not run at full size here.
Expected: image retrieval R@1 73.1, text retrieval 87.0; COCO's 5,000 test images 50.5 and 66.4.
"""

import dataclasses

from data_pipelines.config import SourceConfig
from experiments.configs import imagebert_base
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.tasks.retrieval import RetrievalConfig
from pixelbert_jax.training.optimizer import AdamWConfig
from pixelbert_jax.weights.initialize import InitConfig


def get_config(dataset: str = "flickr30k") -> RunConfig:
    """24 images per step, 130 epochs, negatives on both sides, the binary loss, which the paper found best."""
    config = imagebert_base.get_config()
    train = "train+restval" if dataset == "coco_captions" else "train"
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            train=(SourceConfig(dataset, train),),
            eval=(SourceConfig(dataset, "val"),),
            batch_images=24,
        ),
        init=InitConfig(),
        task=RetrievalConfig(image_negatives=True, multiclass_weight=0.0, binary_weight=1.0),
        optimizer=dataclasses.replace(config.optimizer, transformer=AdamWConfig(learning_rate=5e-5)),
        train=TrainConfig(epochs=130),
        stages=(),
        evaluation=EvaluationConfig(every=5_000, images=0),
        checkpoint=CheckpointConfig(every=5_000, best="eval/retrieval_accuracy"),
    )
