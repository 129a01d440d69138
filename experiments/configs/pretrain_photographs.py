"""Pixel-BERT pre-trained on Flickr8k's 6,000 training photographs, from published weights, on two CPU cores.

python -m data_pipelines.prepare flickr8k --source_dir=/path/to/flickr8k --data_dir=data
python -m experiments.pretrain --config=experiments/configs/pretrain_photographs.py --workdir=runs/photographs
"""

from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.images import ResizeRule
from experiments.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.config import EncoderConfig, PixelBertConfig, PixelsConfig, ResNetConfig
from pixelbert_jax.tasks.pretraining import PretrainingConfig
from pixelbert_jax.training.optimizer import AdamWConfig, OptimizerConfig, ScheduleConfig, SgdConfig
from pixelbert_jax.weights.initialize import InitConfig

RESNET18_C4 = ResNetConfig(
    depths=(2, 2, 2),
    widths=(64, 128, 256),
    inner_widths=(64, 128, 256),
    strides=(1, 2, 2),
    block="basic",
    frozen_parts=3,
    remat=False,
)
TEXT = "sentence-transformers/all-MiniLM-L6-v2"


def get_config(dataset: str = "flickr8k") -> RunConfig:
    """ResNet-18 to stage 3 and three layers of a MiniLM; 16 images with 4 texts each a step."""
    return RunConfig(
        model=PixelBertConfig(
            backbone=RESNET18_C4,
            pixels=PixelsConfig(layer_norm=True),
            encoder=EncoderConfig(
                layers=3,
                width=384,
                heads=12,
                mlp_width=1536,
                dropout=0.0,
                attention_dropout=0.0,
                scan_unroll=3,
                remat="none",
            ),
            dtype="float32",
        ),
        init=InitConfig(text=TEXT, text_layers=(1, 3, 5), backbone="timm/resnet18.tv_in1k"),
        data=DataConfig(
            train=(SourceConfig(dataset, "train"),),
            eval=(SourceConfig(dataset, "val"),),
            vocabulary=TEXT,
            resize=ResizeRule(224, 224),
            canvases=((224, 224),),
            batch_images=8,
            texts_per_image=10,
            max_text_length=22,
            threads=2,
        ),
        task=PretrainingConfig(sampled_pixels=18, mlm_on_negatives=False),
        optimizer=OptimizerConfig(
            backbone=SgdConfig(learning_rate=1e-2),
            transformer=AdamWConfig(learning_rate=3e-4),
            schedule=ScheduleConfig(kind="linear", warmup_steps=200, warmup_start=0.01),
            clip_norm=1.0,
        ),
        train=TrainConfig(steps=3600),
        evaluation=EvaluationConfig(every=200, images=200),
        checkpoint=CheckpointConfig(every=250),
    )
