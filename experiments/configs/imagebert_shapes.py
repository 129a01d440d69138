"""ImageBERT in miniature on the regions of drawn scenes, from scratch, in minutes on two CPU cores.

    python -m data_pipelines.prepare shapes --data_dir=data/regions --regions=drawn
    python -m experiments.pretrain --config=experiments/configs/imagebert_shapes.py --workdir=runs/imagebert

Results: docs/results.md, with the ablations of the paper's table 4, each by one field of this config.
"""

from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.datasets.shapes_scene import COLOURS, SHAPES
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.config import EncoderConfig, ImageBertConfig, RegionsConfig, TextConfig
from pixelbert_jax.tasks.regions_pretraining import RegionsPretrainingConfig
from pixelbert_jax.training.optimizer import AdamWConfig, OptimizerConfig, ScheduleConfig


def get_config() -> RunConfig:
    """8 regions of 108 numbers and 25 classes, 2 layers of width 128."""
    return RunConfig(
        model=ImageBertConfig(
            regions=RegionsConfig(feature_size=108, classes=25),
            text=TextConfig(vocabulary_size=0, max_positions=32, segment=True),
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
            data_dir="data/regions",
            vocabulary="",
            batch_images=64,
            texts_per_image=1,
            max_text_length=22,
            mask_rate=0.3,
            replaced_images=0.5,
            regions=8,
            threads=1,
            prefetch=4,
        ),
        task=RegionsPretrainingConfig(feature_error="mean"),
        optimizer=OptimizerConfig(
            transformer=AdamWConfig(learning_rate=1e-3),
            schedule=ScheduleConfig(kind="linear", warmup_steps=100, warmup_start=0.01),
            clip_norm=1.0,
        ),
        train=TrainConfig(steps=3000),
        evaluation=EvaluationConfig(every=1000, images=1000, words=(*COLOURS, *SHAPES)),
        checkpoint=CheckpointConfig(every=1000),
        report=True,
    )
