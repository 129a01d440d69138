"""Pixel-BERT in JAX: the model, its tasks and the training step; arrays in, arrays out."""

__version__ = "0.1.0"
