"""What the programs need from a model's visual input, pixels or regions."""

from typing import Protocol

from data_pipelines.batches.visuals import visuals_of
from data_pipelines.config import DataConfig
from data_pipelines.storage.records import Records
from experiments.run.config import RunConfig
from pixelbert_jax.config import ImageBertConfig, ModelConfig, PixelBertConfig
from pixelbert_jax.errors import ConfigError


class VisualInput(Protocol):
    """The visual input of one kind of model.

    Attributes:
      paper: the paper that describes the model.
      tag: the model's tag on a hub.
      predictor: code of the model card that makes a Predictor of the model NAME.
    """

    paper: str
    tag: str
    predictor: str

    def check(self, config: RunConfig) -> None:
        """Refuse a configuration that does not fit the model; raises ConfigError."""

    def check_records(self, config: RunConfig, records: Records) -> None:
        """Refuse a split that the model cannot read; raises DataError or ConfigError."""

    def sizes(self, model: ModelConfig, data: DataConfig) -> str:
        """A line of the model card."""


class Pixels:
    """Pixel-BERT's."""

    paper, tag = "Pixel-BERT (Huang et al. 2020)", "pixel-bert"
    predictor = "predictor = pixelbert_jax.Predictor.load(NAME)"

    def check(self, config: RunConfig) -> None:
        model, data = config.model, config.data
        if data.regions:
            raise ConfigError(
                f"The model is a PixelBertConfig, which reads pixels, but data.regions={data.regions}; use an "
                "ImageBertConfig, or set data.regions=0."
            )
        for height, width in data.all_canvases:
            if height % model.stride or width % model.stride:
                raise ConfigError(
                    f"The canvas {height}x{width} is not a multiple of the model's stride {model.stride}; "
                    "change data.canvases."
                )
            rows, columns = model.grid(height, width)
            if model.pixels.position == "rowcol" and max(rows, columns) > model.pixels.max_grid:
                raise ConfigError(
                    f"The canvas {height}x{width} has {rows}x{columns} cells, more than model.pixels.max_grid="
                    f"{model.pixels.max_grid}; raise it."
                )
        backbone = model.backbone
        stored = backbone.frozen_parts > 0 or (backbone.norm == "batch" and backbone.batch_statistics == "frozen")
        if stored and not (config.init.backbone or config.init.checkpoint):
            raise ConfigError(
                "model.backbone keeps frozen parts or stored BatchNorm statistics, but nothing is loaded into it; set "
                "init.backbone or init.checkpoint, or train it from scratch: frozen_parts=0 with norm='group' or "
                "batch_statistics='train'."
            )

    def check_records(self, config: RunConfig, records: Records) -> None:
        del config, records  # every image has pixels

    def sizes(self, model: PixelBertConfig, data: DataConfig) -> str:
        return (
            f"- images are resized to {data.resize.shorter_edge} pixels on the shorter edge and at most "
            f"{data.resize.longer_edge} on the longer one; one pixel feature for each {model.stride}x{model.stride} "
            "pixels"
        )


class Regions:
    """ImageBERT's."""

    paper, tag = "ImageBERT (Qi et al. 2020)", "imagebert"
    predictor = 'predictor = pixelbert_jax.Predictor.load(NAME, regions="regions/")  # an .npz file per image'

    def check(self, config: RunConfig) -> None:
        model, data = config.model, config.data
        if not data.regions:
            raise ConfigError("data.regions=0, but the model reads regions; set it to 100, as the paper does.")
        if (model.regions.global_size > 0) != (data.whole_image != "none"):
            raise ConfigError(
                f"model.regions.global_size={model.regions.global_size}, but data.whole_image="
                f"{data.whole_image!r}; set both or none."
            )
        if config.init.backbone or config.init.checkpoint_parts == "backbone":
            raise ConfigError("init.backbone or init.checkpoint_parts names a backbone; ImageBERT has none, remove it.")

    def check_records(self, config: RunConfig, records: Records) -> None:
        visuals, regions = visuals_of([records], config.data), config.model.regions
        found = {"feature_size": visuals.size, "global_size": visuals.whole_size}
        for name, size in found.items():
            if getattr(regions, name) != size:
                raise ConfigError(
                    f"model.regions.{name}={getattr(regions, name)}, but in {records!r} it is {size}; set it to that."
                )

    def sizes(self, model: ImageBertConfig, data: DataConfig) -> str:
        return f"- up to {data.regions} regions per image, features of {model.regions.feature_size}"


_INPUTS: dict[type, VisualInput] = {PixelBertConfig: Pixels(), ImageBertConfig: Regions()}


def visual_input_of(model: ModelConfig) -> VisualInput:
    """The visual input of a model."""
    return _INPUTS[type(model)]
