"""An image from a visitor: its header is checked before it is decoded."""

from typing import Any

import gradio as gr
import numpy as np

from data_pipelines.errors import DataError
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.predictor_inputs import pixels_of


def checked_image(label: str) -> gr.Image:
    """A `gr.Image` for uploads. Its value is uint8 HxWx3, turned upright, by the reader and limits of `Predictor`."""
    component = gr.Image(label=label, sources=["upload", "clipboard"], height=320)
    component.preprocess = _pixels  # Gradio's own decodes before any limit
    return component


def _pixels(payload: Any) -> np.ndarray | None:
    """The pixels of an uploaded file; raises gr.Error with one sentence if it is no usable image."""
    if payload is None:
        return None
    try:
        return pixels_of(payload.path)
    except (ConfigError, DataError) as error:
        reason = str(error).replace(str(payload.path), payload.orig_name or "the file")
        raise gr.Error(reason, print_exception=False) from None
