"""Check a batch against the fields of its task."""

import numpy as np

from pixelbert_jax.config import PixelBertConfig, TextConfig
from pixelbert_jax.tasks.pretraining import PretrainingConfig
from pixelbert_jax.tasks.registry import TASKS, TaskConfig, task_name
from tests.pixelbert_jax.helpers import assert_fields


def assert_fits_task(batch: dict[str, np.ndarray], config: TaskConfig, vocabulary_size: int) -> None:
    """Check names, dtypes, ranges and sizes of a task's batch, images on their canvases, and texts [CLS] ... [SEP]."""
    model = PixelBertConfig(text=TextConfig(vocabulary_size=vocabulary_size))
    assert_fields(TASKS[task_name(config)][1](model, config), batch)
    assert (batch["image_size"] <= batch["images"].shape[-3:-1]).all()
    lengths = batch["text_mask"].sum(-1)
    np.testing.assert_array_equal(batch["text_mask"], np.arange(batch["text"].shape[-1]) < lengths[..., None])
    assert (lengths >= 2).all()
    assert len(np.unique(batch["text"][..., 0])) == 1
    assert len(np.unique(np.take_along_axis(batch["text"], lengths[..., None] - 1, -1))) == 1


def assert_fits(batch: dict[str, np.ndarray], vocabulary_size: int) -> None:
    """Check a batch of pre-training."""
    assert_fits_task(batch, PretrainingConfig(), vocabulary_size)
    rows = np.arange(len(batch["text"]))[:, None, None]
    texts = np.arange(batch["text"].shape[1])[None, :, None]
    # Masked positions are ordinary tokens, never [CLS], [SEP] or padding.
    lengths = batch["text_mask"].sum(-1)[..., None]
    used = batch["mlm_mask"]
    assert (batch["mlm_position"] >= 1)[used].all()
    assert (batch["mlm_position"] < lengths - 1)[used].all()
    assert batch["text_mask"][rows, texts, batch["mlm_position"]].all()
