"""The paper's pre-training with ResNet-50: COCO captions and Visual Genome region descriptions, 40 epochs.

    python -m data_pipelines.prepare coco_captions --source_dir=/path/to/coco --data_dir=data
    python -m data_pipelines.prepare visual_genome --source_dir=/path/to/visual_genome --data_dir=data \\
        --karpathy_json=/path/to/coco/annotations/dataset_coco.json
    python -m experiments.pretrain --config=experiments/configs/pretrain_r50.py --workdir=runs/r50

Both sets of first weights are fetched from Hugging Face; --config.init.backbone=resnet50.safetensors and
--config.init.text=FOLDER take local files instead.

Paper (section 4.1): shorter edge 800, longer at most 1333; 100 random pixels; batch of 4096 pairs on 64 V100; SGD 1e-2,
weight decay 5e-4 for the backbone; AdamW 1e-4, weight decay 1e-2 for the transformer; learning rates x 0.1 at epochs 25
and 35. The backbone begins from ImageNet weights and the transformer from BERT-base. What the paper leaves open is
listed in docs/fidelity.md.

Expected after fine-tuning, from the paper: VQA 2.0 test-dev 71.35, NLVR2 dev 71.7, Flickr30K text / image retrieval
R@1 75.7 / 59.8. Nobody has run this file to its end yet.
"""

from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.images.resize import ResizeRule
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.config import pixelbert_r50
from pixelbert_jax.weights.initialize import InitConfig


def get_config() -> RunConfig:
    """1024 images with 4 texts each: 4096 pairs, matched and mismatched together."""
    return RunConfig(
        model=pixelbert_r50(),
        init=InitConfig(text="google-bert/bert-base-uncased", backbone="microsoft/resnet-50"),
        data=DataConfig(
            train=(
                SourceConfig("coco_captions", "train+restval"),
                SourceConfig("visual_genome", "train"),
            ),
            eval=(SourceConfig("coco_captions", "val"),),
            resize=ResizeRule(800, 1333),
            batch_images=1024,
            texts_per_image=4,
            workers=4,
        ),
        train=TrainConfig(epochs=40),
        evaluation=EvaluationConfig(every=1000, images=2048, batch_images=256),
        checkpoint=CheckpointConfig(every=500, keep_last=3, keep_every=10_000),
    )
