"""The paper's VQA 2.0 with ResNet-50: 18 epochs, learning rates x 0.1 at 12 and 16, batch of 256 questions.

    python -m data_pipelines.prepare vqa_v2 --source_dir=/path/to/vqa --data_dir=data
    python -m experiments.finetune --config=experiments/configs/vqa_r50.py --workdir=runs/vqa_r50 \\
        --config.init.checkpoint=runs/r50
    python -m experiments.evaluate --workdir=runs/vqa_r50 --split=test --output=predictions.json

Expected, from the paper: test-dev 71.35, test-std 71.42. It trains on train and val, as models on the test server do;
--config.data.train="[...]" changes that. Nobody has run this file to its end yet.
"""

from data_pipelines.config import DataConfig, SourceConfig
from experiments.configs import pretrain_r50
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.config import pixelbert_r50
from pixelbert_jax.tasks.vqa import VqaConfig
from pixelbert_jax.training.optimizer import OptimizerConfig, ScheduleConfig
from pixelbert_jax.weights.initialize import InitConfig


def get_config() -> RunConfig:
    """64 images with 4 questions each; 3,129 answers or so, those of at least 9 questions."""
    return RunConfig(
        model=pixelbert_r50(),
        init=InitConfig(checkpoint="runs/r50"),
        data=DataConfig(
            train=(SourceConfig("vqa_v2", "train+val"),),
            eval=(SourceConfig("vqa_v2", "val"),),
            resize=pretrain_r50.get_config().data.resize,
            batch_images=64,
            texts_per_image=4,
            max_text_length=24,
            workers=4,
        ),
        task=VqaConfig(),
        optimizer=OptimizerConfig(schedule=ScheduleConfig(decay_at=(12, 16))),
        train=TrainConfig(epochs=18),
        evaluation=EvaluationConfig(every=2500, images=2000),
        checkpoint=CheckpointConfig(every=2500, best="eval/vqa_score"),
    )
