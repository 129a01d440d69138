"""DAQUAR's questions about indoor photographs with the model of pretrain_photographs.

    python -m data_pipelines.prepare daquar --source_dir=/path/to/daquar --data_dir=data
    python -m experiments.finetune --config=experiments/configs/vqa_photographs.py --workdir=runs/daquar \\
        --config.init.checkpoint=runs/photographs
    python -m experiments.evaluate --workdir=runs/daquar --split=test --output=predictions.json

The control starts from the published weights alone: init.text, init.backbone and data.vocabulary name them, and
init.checkpoint is empty. DAQUAR has no validation split: the last state is evaluated, and lengths and learning rates
were not chosen on its test questions.
"""

import dataclasses

from data_pipelines.config import SourceConfig
from data_pipelines.images.resize import ResizeRule
from experiments.configs import pretrain_photographs
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.tasks.vqa import VqaConfig
from pixelbert_jax.training.optimizer import AdamWConfig, ScheduleConfig


def get_config(setting: str = "cpu") -> RunConfig:
    """8 images with 8 questions each; images keep their aspect ratio: 160x211 pixels, 35 cells (224x299, 70)."""
    config = pretrain_photographs.get_config(setting)
    on_gpu = setting == "gpu"
    return dataclasses.replace(
        config,
        init=dataclasses.replace(config.init, text="", backbone="", checkpoint="runs/photographs"),
        data=dataclasses.replace(
            config.data,
            train=(SourceConfig("daquar", "train"),),
            eval=(SourceConfig("daquar", "test"),),
            vocabulary="",
            resize=ResizeRule(224, 320) if on_gpu else ResizeRule(160, 224),
            canvases=((224, 320),) if on_gpu else ((160, 224),),
            batch_images=32 if on_gpu else 8,
            texts_per_image=8,
            max_text_length=24,
            flip_rate=0.0,  # questions are about left and right
            answer_minimum=1,
            answers_are="set",
        ),
        task=VqaConfig(),
        optimizer=dataclasses.replace(
            config.optimizer,
            transformer=AdamWConfig(learning_rate=2e-4),
            schedule=ScheduleConfig(kind="linear", warmup_steps=50),
        ),
        train=TrainConfig(epochs=10 if on_gpu else 6),
        evaluation=EvaluationConfig(every=0),
        checkpoint=CheckpointConfig(every=100),
    )
