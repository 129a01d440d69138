"""Pixel-BERT in JAX: the model, its tasks, the training step, and `load` and `Predictor` for a trained model."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["ImageWithRegions", "Predictor", "load"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: worker processes that only read data need none of them."""
    if name == "load":
        from pixelbert_jax.loading import load

        return load
    if name == "Predictor":
        from pixelbert_jax.predictor import Predictor

        return Predictor
    if name == "ImageWithRegions":
        from pixelbert_jax.image_with_regions import ImageWithRegions

        return ImageWithRegions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
