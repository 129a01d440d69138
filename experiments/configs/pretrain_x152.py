"""The paper's larger model: ResNeXt-152, images of 600 x at most 1000 pixels; everything else as in pretrain_r50.

    python -m experiments.pretrain --config=experiments/configs/pretrain_x152.py --workdir=runs/x152 \\
        --config.init.backbone=/path/to/resnext152_32x4d.safetensors

The backbone's first weights are a torchvision or timm state dict of an ImageNet classifier; we know of no hub that
has them. BERT's are fetched from Hugging Face.

The width of the ResNeXt is not stated in the paper; 32x4d fits the parameter count that others report for it.
Expected after fine-tuning, from the paper: VQA 2.0 test-dev 74.45, NLVR2 dev 76.5, Flickr30K text / image retrieval
R@1 87.0 / 71.5. Nobody has run this file to its end yet.
"""

import dataclasses

from data_pipelines.images.resize import ResizeRule
from experiments.configs import pretrain_r50
from experiments.run.config import RunConfig
from pixelbert_jax.config import pixelbert_x152


def get_config() -> RunConfig:
    """pretrain_r50 with the other backbone and image size."""
    config = pretrain_r50.get_config()
    data = dataclasses.replace(config.data, resize=ResizeRule(600, 1000))
    init = dataclasses.replace(config.init, backbone="resnext152_32x4d.safetensors")
    return dataclasses.replace(config, model=pixelbert_x152(), data=data, init=init)
