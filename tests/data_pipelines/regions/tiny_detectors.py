"""Detectors of the DETR family with a few random weights, saved as on a hub; needs PyTorch."""

from pathlib import Path
from typing import Any

CLASSES = {0: "cat", 1: "dog", 2: "tree", 3: "sky", 4: "road"}
QUERIES = 12
_SMALL = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": QUERIES,
    "id2label": CLASSES,
}
_BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
_NAMES = {
    "detr": "Detr",
    "conditional_detr": "ConditionalDetr",
    "deformable_detr": "DeformableDetr",
    "yolos": "Yolos",
}
FAMILIES = ("detr", "conditional_detr", "deformable_detr", "rt_detr", "yolos")


def save(folder: Path, family: str = "detr", seed: int = 0) -> Any:
    """Save a random model of a family with its image processor, and return the model."""
    import torch
    import transformers

    torch.manual_seed(seed)
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForObjectDetection.from_config(_config(transformers, family)).eval()
    with torch.no_grad():  # else every query looks alike, and a test could not tell them apart
        for name, parameter in model.named_parameters():
            parameter.add_((3 if "query_pos" in name else 0.3) * torch.randn_like(parameter))
    model.save_pretrained(folder)
    _processor(transformers, family).save_pretrained(folder)
    return model


def _config(transformers: Any, family: str) -> Any:
    if family == "yolos":
        return transformers.YolosConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=[64, 64],
            num_detection_tokens=QUERIES,
            id2label=CLASSES,
        )
    if family == "rt_detr":
        backbone = transformers.RTDetrResNetConfig(**_BACKBONE, out_features=["stage2", "stage3", "stage4"])
        return transformers.RTDetrConfig(
            backbone_config=backbone,
            encoder_hidden_dim=16,
            encoder_in_channels=[8, 16, 16],
            decoder_in_channels=[16, 16, 16],
            **_SMALL,
        )
    backbone = transformers.ResNetConfig(
        **_BACKBONE, out_features=["stage2", "stage3", "stage4"] if family == "deformable_detr" else ["stage4"]
    )
    more = {"num_feature_levels": 3} if family == "deformable_detr" else {}
    config_class = getattr(transformers, f"{_NAMES[family]}Config")
    return config_class(backbone_config=backbone, use_timm_backbone=False, **_SMALL, **more)


def _processor(transformers: Any, family: str) -> Any:
    if family == "rt_detr":
        return transformers.RTDetrImageProcessorPil(size={"height": 64, "width": 64})
    processor = getattr(transformers, f"{_NAMES[family]}ImageProcessorPil")
    return processor(size={"shortest_edge": 48, "longest_edge": 96})
