"""Pixel-BERT in miniature on drawn scenes, from scratch, in minutes on two CPU cores.

    make quickstart

does what these two commands do:

    python -m data_pipelines.prepare shapes --data_dir=data
    python -m experiments.pretrain --config=experiments/configs/pretrain_quickstart.py --workdir=runs/quickstart
"""

from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.datasets.shapes_scene import COLOURS, SHAPES
from data_pipelines.images.resize import ResizeRule
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.config import (
    EncoderConfig,
    PixelBertConfig,
    PixelsConfig,
    ResNetConfig,
    TextConfig,
)
from pixelbert_jax.tasks.pretraining import PretrainingConfig
from pixelbert_jax.training.optimizer import AdamWConfig, OptimizerConfig, ScheduleConfig


def get_config() -> RunConfig:
    """48x48 images, 36 pixels of which 32 are sampled, 2 layers of width 128."""
    return RunConfig(
        model=PixelBertConfig(
            backbone=ResNetConfig(
                depths=(2, 2),
                widths=(64, 128),
                inner_widths=(64, 128),
                strides=(2, 2),
                block="basic",
                stem="conv3x3",
                stem_width=24,
                stem_stride=2,
                norm="group",
                norm_groups=8,
                frozen_parts=0,
                remat=False,
            ),
            pixels=PixelsConfig(pool=False, position="rowcol", max_grid=6, layer_norm=True),
            text=TextConfig(vocabulary_size=0, max_positions=32),
            encoder=EncoderConfig(
                layers=2,
                width=128,
                heads=4,
                mlp_width=256,
                initializer_std=0.08,
                scan_unroll=2,
                dropout=0.0,
                attention_dropout=0.0,
                remat="none",
            ),
            dtype="float32",
        ),
        data=DataConfig(
            train=(SourceConfig("shapes", "train"),),
            eval=(SourceConfig("shapes", "validation"),),
            vocabulary="",
            resize=ResizeRule(48, 48),
            canvases=((48, 48),),
            batch_images=32,
            texts_per_image=4,
            max_text_length=22,
            mask_rate=0.3,
            threads=1,
            prefetch=4,
        ),
        task=PretrainingConfig(sampled_pixels=32, mlm_on_negatives=False),
        optimizer=OptimizerConfig(
            backbone=AdamWConfig(learning_rate=1e-3),
            transformer=AdamWConfig(learning_rate=1e-3),
            # Shapes are learned late: the learning rates stay high until then.
            schedule=ScheduleConfig(kind="step", unit="steps", decay_at=(1000,), warmup_steps=100, warmup_start=0.01),
            clip_norm=1.0,
        ),
        train=TrainConfig(steps=1200),
        evaluation=EvaluationConfig(every=400, images=1000, words=(*COLOURS, *SHAPES)),
        checkpoint=CheckpointConfig(every=400),
        report=True,
    )
