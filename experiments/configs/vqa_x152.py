"""The paper's larger model on VQA 2.0: ResNeXt-152, images of 600 x at most 1000 pixels; else as in vqa_r50.

    python -m data_pipelines.prepare vqa_v2 --source_dir=/path/to/vqa --data_dir=data
    python -m experiments.finetune --config=experiments/configs/vqa_x152.py --workdir=runs/vqa_x152 \\
        --config.init.checkpoint=runs/x152
    python -m experiments.evaluate --workdir=runs/vqa_x152 --split=test --output=predictions.json

Expected, from the paper: test-dev 74.45, test-std 74.55. Nobody has run this file to its end yet.
"""

import dataclasses

from experiments.configs import pretrain_x152, vqa_r50
from experiments.run.config import RunConfig
from pixelbert_jax.weights.initialize import InitConfig


def get_config() -> RunConfig:
    """vqa_r50 with the model and the image size of pretrain_x152."""
    config, larger = vqa_r50.get_config(), pretrain_x152.get_config()
    data = dataclasses.replace(config.data, resize=larger.data.resize)
    return dataclasses.replace(config, model=larger.model, data=data, init=InitConfig(checkpoint="runs/x152"))
