"""The configurations that the GPU benchmark measures."""

import dataclasses

from benchmarks.harness.measuring import with_vocabulary
from data_pipelines.images.resize import ResizeRule
from experiments.run.config import RunConfig

CONFIGS = {name: f"experiments/configs/pretrain_{name}.py" for name in ("r50", "x152")}
REMATS = {"none": (False, "none"), "dots": (True, "dots"), "full": (True, "full")}  # of the backbone, of the encoder


def with_remat(config: RunConfig, remat: str) -> RunConfig:
    """The config with nothing frozen, BERT's vocabulary, and one of REMATS."""
    of_backbone, of_encoder = REMATS[remat]
    backbone = dataclasses.replace(config.model.backbone, frozen_parts=0, remat=of_backbone)
    encoder = dataclasses.replace(config.model.encoder, remat=of_encoder)
    return dataclasses.replace(
        config, model=with_vocabulary(dataclasses.replace(config.model, backbone=backbone, encoder=encoder))
    )


def tiny(config: RunConfig) -> RunConfig:
    """The config with one block, one layer and images of 64x64."""
    backbone = dataclasses.replace(
        config.model.backbone,
        depths=(1,),
        widths=(32,),
        inner_widths=(max(config.model.backbone.groups, 8),),
        strides=(1,),
        stem_width=16,
    )
    encoder = dataclasses.replace(config.model.encoder, layers=1, width=32, heads=2, mlp_width=64)
    text = dataclasses.replace(config.model.text, vocabulary_size=100)
    data = dataclasses.replace(config.data, resize=ResizeRule(64, 64), canvases=((64, 64),), texts_per_image=2)
    model = dataclasses.replace(config.model, backbone=backbone, encoder=encoder, text=text)
    return dataclasses.replace(config, model=model, data=data)
