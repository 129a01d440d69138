"""Pixel-BERT put together from Hugging Face's PyTorch models: the peer that the benchmarks compare with.

`ResNetModel` (its convolutions replaced by grouped ones for a ResNeXt), 2x2 max pool, linear, s_v, `BertModel` with
PyTorch's own attention, channels-last memory, word logits at the masked places only, and the same two optimizers.
Backbones keep the statistics of their BatchNorm, as ours do.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.training.optimizer import OptimizerConfig


class TorchPixelBert(nn.Module):
    """The model with the heads of pre-training."""

    def __init__(self, config: PixelBertConfig, samples: int = 0) -> None:
        """Args: config: the shape; samples: pixels that are drawn in training, 0: all."""
        super().__init__()
        encoder, backbone = config.encoder, config.backbone
        self.samples = samples
        self.backbone = transformers.ResNetModel(
            transformers.ResNetConfig(
                embedding_size=backbone.stem_width,
                hidden_sizes=list(backbone.widths),
                depths=list(backbone.depths),
                layer_type=backbone.block,
                downsample_in_bottleneck=backbone.stride_in == "conv1x1",
            )
        )
        if backbone.block == "bottleneck":
            _set_inner_widths(self.backbone, backbone.inner_widths, backbone.groups)
        self.linear = nn.Linear(backbone.widths[-1], encoder.width)
        self.segment = nn.Parameter(torch.randn(encoder.width) * 0.02)
        self.bert = transformers.BertModel(
            transformers.BertConfig(
                vocab_size=config.text.vocabulary_size,
                hidden_size=encoder.width,
                num_hidden_layers=encoder.layers,
                num_attention_heads=encoder.heads,
                intermediate_size=encoder.mlp_width,
                hidden_dropout_prob=encoder.dropout,
                attention_probs_dropout_prob=encoder.attention_dropout,
                attn_implementation="sdpa",
            ),
            add_pooling_layer=False,
        )
        self.word_head = nn.Sequential(
            nn.Linear(encoder.width, encoder.width), nn.GELU(), nn.LayerNorm(encoder.width, eps=1e-12)
        )
        self.word_bias = nn.Parameter(torch.zeros(config.text.vocabulary_size))
        self.matching_head = nn.Linear(encoder.width, 1)
        self.register_buffer("mean", torch.tensor(config.image_mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(config.image_std).view(1, 3, 1, 1) * 255)
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "TorchPixelBert":
        """The backbone's BatchNorm keeps its statistics."""
        super().train(mode)
        self.backbone.eval()
        return self

    def encode_image(self, images_Bx3xHxW: torch.Tensor) -> torch.Tensor:
        """Pixels BxPxD of uint8 images that fill their canvases."""
        return self.pixels_of(self.backbone((images_Bx3xHxW.float() - self.mean) / self.std).last_hidden_state)

    def pixels_of(self, features_BxCxHxW: torch.Tensor) -> torch.Tensor:
        """Pixels BxPxD of feature maps."""
        pooled = nn.functional.max_pool2d(features_BxCxHxW, 2, 2, ceil_mode=True)
        return self.linear(pooled.flatten(2).transpose(1, 2)) + self.segment

    def fuse(self, text_NxT: torch.Tensor, pixels_NxPxD: torch.Tensor) -> torch.Tensor:
        """Hidden states of words without padding and pixels."""
        return self.bert.encoder(torch.cat([self.bert.embeddings(text_NxT), pixels_NxPxD], 1)).last_hidden_state

    def forward(self, images: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Logits that text and image belong together."""
        return self.matching_head(self.fuse(text, self.encode_image(images))[:, 0])[:, 0]

    def token_logits(self, hidden_NxMxD: torch.Tensor) -> torch.Tensor:
        """Logits NxMxV of the tokens."""
        return self.word_head(hidden_NxMxD) @ self.bert.embeddings.word_embeddings.weight.T + self.word_bias

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Masked words plus matching, of B images with K texts each."""
        texts = batch["text"].shape[1]
        pixels = self.encode_image(batch["images"]).repeat_interleave(texts, 0)
        if self.samples and self.samples < pixels.shape[1]:
            chosen = torch.rand(pixels.shape[:2], device=pixels.device).topk(self.samples).indices
            pixels = pixels.gather(1, chosen[..., None].expand(-1, -1, pixels.shape[-1]))
        hidden = self.fuse(batch["text"].flatten(0, 1), pixels)
        place = batch["mlm_position"].flatten(0, 1)[..., None].expand(-1, -1, hidden.shape[-1])
        words = self.token_logits(hidden.gather(1, place))
        word_loss = nn.functional.cross_entropy(words.flatten(0, 1).float(), batch["mlm_target"].flatten())
        logit = self.matching_head(hidden[:, 0])[:, 0].float()
        return word_loss + nn.functional.binary_cross_entropy_with_logits(logit, batch["itm_label"].flatten().float())


def torch_batch(batch: dict[str, np.ndarray], device: str = "cpu") -> dict[str, torch.Tensor]:
    """A batch of ours, images that fill their canvases, for the peer."""
    found = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in batch.items()}
    for name in ("text", "mlm_position", "mlm_target"):
        found[name] = found[name].long()
    # NHWC in memory is what channels-last means.
    return found | {"images": found["images"].permute(0, 3, 1, 2)}


def make_optimizers(model: TorchPixelBert, optimizer: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """SGD for the backbone, AdamW for the rest, both fused."""
    backbone = list(model.backbone.parameters())
    rest = [p for name, p in model.named_parameters() if not name.startswith("backbone.")]
    sgd, adamw = optimizer.backbone, optimizer.transformer
    return [
        torch.optim.SGD(
            backbone, lr=sgd.learning_rate, momentum=sgd.momentum, weight_decay=sgd.weight_decay, fused=True
        ),
        torch.optim.AdamW(rest, lr=adamw.learning_rate, weight_decay=adamw.weight_decay, fused=True),
    ]


def make_step(
    model: TorchPixelBert, optimizer: OptimizerConfig, *, compiled: bool, bfloat16: bool = False
) -> Callable[[dict], float]:
    """A training step on the model's device: gradients clipped by their norm, as ours are, then both optimizers.

    Args:
      model: the peer; it is put into training.
      optimizer: rates and decays.
      compiled: by torch.compile, for the shapes of one batch.
      bfloat16: forward under autocast; parameters stay float32.
    """
    optimizers, limit = make_optimizers(model, optimizer), optimizer.clip_norm
    model.train()
    device = model.segment.device.type

    def autocast_loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            return model.loss(batch)

    loss_of: Any = torch.compile(autocast_loss, dynamic=False) if compiled else autocast_loss

    def step(batch: dict[str, torch.Tensor]) -> float:
        loss = loss_of(batch)
        for each in optimizers:
            each.zero_grad(set_to_none=True)
        loss.backward()
        if limit:
            nn.utils.clip_grad_norm_(model.parameters(), limit)
        for each in optimizers:
            each.step()
        return float(loss.detach())

    return step


def _set_inner_widths(model: nn.Module, widths: tuple[int, ...], groups: int) -> None:
    """Give the bottlenecks the widths and groups of a ResNeXt; Hugging Face's have a quarter of the outputs."""
    for stage, width in zip(model.encoder.stages, widths, strict=True):
        for block in stage.layers:
            for layer, size, number in zip(block.layer, (1, 3, 1), (1, groups, 1), strict=True):
                old = layer.convolution
                inputs = old.in_channels if layer is block.layer[0] else width
                outputs = old.out_channels if layer is block.layer[2] else width
                if (inputs, outputs, number) != (old.in_channels, old.out_channels, old.groups):
                    layer.convolution = nn.Conv2d(
                        inputs, outputs, size, old.stride, size // 2, groups=number, bias=False
                    )
                    layer.normalization = nn.BatchNorm2d(outputs)
