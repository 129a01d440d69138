"""The paper's larger model on retrieval: ResNeXt-152, images of 600 x at most 1000 pixels; else as in retrieval_r50.

    python -m data_pipelines.prepare flickr30k --source_dir=/path/to/flickr30k --data_dir=data
    python -m experiments.finetune --config=experiments/configs/retrieval_x152.py --workdir=runs/flickr30k_x152 \\
        --config.init.checkpoint=runs/x152
    python -m experiments.evaluate --workdir=runs/flickr30k_x152 --split=test --output=scores.npz

retrieval_x152.py:coco_captions is COCO. Expected R@1 of texts / images, from the paper: Flickr30K 87.0 / 71.5, COCO 1K
84.9 / 71.6, COCO 5K 63.6 / 50.1. Nobody has run this file to its end yet.
"""

import dataclasses

from experiments.configs import retrieval_r50, vqa_x152
from experiments.run.config import RunConfig


def get_config(dataset: str = "flickr30k") -> RunConfig:
    """retrieval_r50 with the model and the image size of pretrain_x152; the whole backbone is frozen here too."""
    config, larger = retrieval_r50.get_config(dataset), vqa_x152.get_config()
    backbone = dataclasses.replace(larger.model.backbone, frozen_parts=config.model.backbone.frozen_parts)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(larger.model, backbone=backbone),
        data=dataclasses.replace(config.data, resize=larger.data.resize),
        init=larger.init,
    )
