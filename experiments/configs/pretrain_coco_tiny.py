"""A small Pixel-BERT on real photographs, from scratch, on a laptop: to see that everything works on your data.

    python -m data_pipelines.prepare coco_captions --source_dir=/path/to/coco --data_dir=data
    python -m experiments.pretrain --config=experiments/configs/pretrain_coco_tiny.py --workdir=runs/coco \\
        --config.data.vocabulary=/path/to/bert-base-uncased/vocab.txt

Other prepared data sets go after a colon, joined by commas: pretrain_coco_tiny.py:coco_captions,flickr8k,shapes. With
--config.data.vocabulary= (nothing after it) a vocabulary is trained on the data's own texts. The model is far too small
to reach the paper's numbers; docs/results.md has a run.
"""

import dataclasses

from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.images.resize import ResizeRule
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.config import TextConfig, pixelbert_tiny
from pixelbert_jax.tasks.pretraining import PretrainingConfig
from pixelbert_jax.training.optimizer import AdamWConfig, OptimizerConfig, ScheduleConfig

_SPLITS = {"coco_captions": ("train+restval", "val"), "shapes": ("train", "validation")}
_WEIGHTS = {"shapes": 0.1}  # there are many drawn scenes; a thousand photographs should not be rare among them


def get_config(datasets: str = "coco_captions") -> RunConfig:
    """8.7 M parameters, images of 160 x at most 256 pixels, 16 images with 2 texts each per step."""
    sources = [(name, _SPLITS.get(name, ("train", "val"))) for name in map(str.strip, datasets.split(","))]
    return RunConfig(
        model=dataclasses.replace(pixelbert_tiny(), text=TextConfig(vocabulary_size=0)),
        data=DataConfig(
            train=tuple(SourceConfig(name, splits[0], _WEIGHTS.get(name, 1.0)) for name, splits in sources),
            eval=tuple(SourceConfig(name, splits[1]) for name, splits in sources),
            resize=ResizeRule(160, 256),
            canvases=((160, 160), (160, 224), (224, 160), (160, 256), (256, 160)),
            batch_images=16,
            texts_per_image=2,
            max_text_length=32,
            threads=2,
        ),
        task=PretrainingConfig(sampled_pixels=24, mlm_on_negatives=False),
        optimizer=OptimizerConfig(
            backbone=AdamWConfig(learning_rate=5e-4),
            transformer=AdamWConfig(learning_rate=5e-4),
            schedule=ScheduleConfig(kind="constant", warmup_steps=100, warmup_start=0.01),
            clip_norm=1.0,
        ),
        train=TrainConfig(steps=1000),
        evaluation=EvaluationConfig(every=100, images=200),
        checkpoint=CheckpointConfig(every=100),
    )


def for_fine_tuning(dataset: str) -> RunConfig:
    """Shared by the downstream tasks' small configs: smaller images, a short warm-up, learning rates that end at 0."""
    config = get_config(dataset)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            resize=ResizeRule(128, 192),
            canvases=((128, 128), (128, 160), (160, 128), (128, 192), (192, 128)),
        ),
        optimizer=dataclasses.replace(config.optimizer, schedule=ScheduleConfig(kind="linear", warmup_steps=20)),
    )
