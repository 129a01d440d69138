"""Holds a batch against the fields that its task states."""

import numpy as np

from pixelbert_jax.config import PixelBertConfig, TextConfig
from pixelbert_jax.tasks.pretraining import PretrainingConfig, PretrainingTask


def assert_fits(batch: dict[str, np.ndarray], vocabulary_size: int) -> None:
    """Names, dtypes, ranges, and letters that stand for the same size everywhere."""
    model = PixelBertConfig(text=TextConfig(vocabulary_size=vocabulary_size))
    fields = PretrainingTask(model, PretrainingConfig()).fields()
    assert batch.keys() == fields.keys()
    sizes: dict[str | int, int] = {}
    for name, field in fields.items():
        array = batch[name]
        assert array.dtype == field.dtype, name
        assert array.ndim == len(field.shape), name
        for axis, size in zip(field.shape, array.shape, strict=True):
            assert size == (axis if isinstance(axis, int) else sizes.setdefault(axis, size)), (
                name,
                axis,
            )
        assert array.min() >= field.low, name
        assert field.high is None or array.max() <= field.high, name
    rows = np.arange(sizes["B"])[:, None, None]
    texts = np.arange(sizes["K"])[None, :, None]
    # Places to predict lie on words, never on [CLS], [SEP] or padding.
    lengths = batch["text_mask"].sum(-1)[..., None]
    used = batch["mlm_mask"]
    assert (batch["mlm_position"] >= 1)[used].all()
    assert (batch["mlm_position"] < lengths - 1)[used].all()
    assert batch["text_mask"][rows, texts, batch["mlm_position"]].all()
    assert (batch["image_size"] <= batch["images"].shape[1:3]).all()
