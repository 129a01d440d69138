"""Small models, batches and trainers that several tests share."""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.config import (
    EncoderConfig,
    ImageBertConfig,
    ModelConfig,
    PixelBertConfig,
    PixelsConfig,
    RegionsConfig,
    ResNetConfig,
    TextConfig,
)
from pixelbert_jax.tasks.pretraining import PretrainingConfig
from pixelbert_jax.tasks.registry import TASKS, TaskConfig, task_name
from pixelbert_jax.tasks.task import Task
from pixelbert_jax.training.optimizer import (
    AdamWConfig,
    OptimizerConfig,
    ScheduleConfig,
    SgdConfig,
    make_optimizer,
    make_schedule,
)
from pixelbert_jax.training.sharding import MeshConfig, batch_sharding, make_mesh
from pixelbert_jax.training.step import Trainer, make_trainer

VOCABULARY = 40


@dataclasses.dataclass
class GivenHeads:
    """Heads of pre-training for a forward pass that is given, whose hidden states are the token logits."""

    outputs: tuple[Any, ...]
    gathers: bool = True

    @property
    def mlm_head(self) -> "GivenHeads":
        return self

    def logits_of_tokens(self, hidden: jax.Array) -> jax.Array:
        return hidden


SMALL_BACKBONE = ResNetConfig(
    depths=(1,),
    widths=(32,),
    inner_widths=(16,),
    strides=(2,),
    stem_width=8,
    frozen_parts=1,
    remat=False,
)
SMALL_ENCODER = EncoderConfig(
    layers=2,
    width=32,
    heads=4,
    mlp_width=64,
    dropout=0.0,
    attention_dropout=0.0,
    initializer_std=0.1,  # images matter from the first step on
    remat="none",
)


def small_model(
    backbone: dict[str, Any] | None = None,
    encoder: dict[str, Any] | None = None,
    pixels: dict[str, Any] | None = None,
    **more: Any,
) -> PixelBertConfig:
    """A float32 model of stride 16 that compiles fast; arguments replace fields of one part."""
    return PixelBertConfig(
        backbone=dataclasses.replace(SMALL_BACKBONE, **backbone or {}),
        encoder=dataclasses.replace(SMALL_ENCODER, **encoder or {}),
        pixels=PixelsConfig(**pixels or {}),
        text=TextConfig(vocabulary_size=VOCABULARY, max_positions=16),
        **{"dtype": "float32"} | more,
    )


def small_imagebert(
    regions: dict[str, Any] | None = None, encoder: dict[str, Any] | None = None, **more: Any
) -> ImageBertConfig:
    """A float32 model of regions with 6 numbers and 7 classes; arguments replace fields of one part."""
    return ImageBertConfig(
        regions=RegionsConfig(**{"feature_size": 6, "classes": 7} | (regions or {})),
        encoder=dataclasses.replace(SMALL_ENCODER, **encoder or {}),
        text=TextConfig(vocabulary_size=VOCABULARY, max_positions=16, segment=True),
        **{"dtype": "float32"} | more,
    )


def make_batch(
    rows: int = 8,
    texts: int = 2,
    canvas: tuple[int, int] = (48, 64),
    length: int = 8,
    masked: int = 2,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """A pre-training batch of random images, tokens, sizes and labels; every row is in use."""
    rng = np.random.default_rng(seed)
    pairs = (rows, texts)
    lengths = rng.integers(masked + 2, length + 1, pairs)
    position = np.argsort(rng.random((*pairs, masked + 1)), axis=-1)[..., :masked] + 1
    text = rng.integers(5, VOCABULARY, (*pairs, length))
    mask = np.arange(length) < lengths[..., None]
    label = (np.arange(rows * texts).reshape(pairs) % 2).astype(np.int32)
    return {
        "images": rng.integers(0, 256, (rows, *canvas, 3), np.uint8),
        "image_size": np.stack(
            [
                rng.integers(canvas[0] // 2, canvas[0] + 1, rows),
                rng.integers(17, canvas[1] + 1, rows),
            ],
            axis=-1,
        ).astype(np.int32),
        "text": (text * mask).astype(np.int32),
        "text_mask": mask,
        "mlm_position": position.astype(np.int32),
        "mlm_target": rng.integers(5, VOCABULARY, (*pairs, masked)).astype(np.int32),
        "mlm_mask": rng.random((*pairs, masked)) < 0.8,
        "itm_label": label,
        "pair_mask": np.ones(pairs, bool),
    }


def make_pairs(rows: int = 8, texts: int = 2, per_row: int = 0, **options: Any) -> dict[str, np.ndarray]:
    """Random shared fields of the downstream tasks' batches, with `per_row` images per row; 0: one, without an axis."""
    batch = make_batch(rows * max(1, per_row), texts, **options)
    shape = (rows, per_row) if per_row else (rows,)
    images = {name: batch[name].reshape(*shape, *batch[name].shape[1:]) for name in ("images", "image_size")}
    return images | {name: batch[name][:rows] for name in ("text", "text_mask", "pair_mask")}


def make_regions(rows: int, regions: int = 5, seed: int = 0, size: int = 6, whole: int = 0) -> dict[str, np.ndarray]:
    """The visual fields of a model of regions, random; some rows have fewer regions, and garbage after them."""
    rng = np.random.default_rng([seed, 1])
    corner, side = rng.random((2, rows, regions, 2)) * 0.5
    fields = {
        "regions": rng.normal(0, 1, (rows, regions, size)).astype(np.float16),
        "boxes": np.concatenate([corner, corner + side], -1).astype(np.float32),
        "region_mask": np.arange(regions) < rng.integers(2, regions + 1, rows)[:, None],
    }
    return fields | ({"whole": rng.normal(0, 1, (rows, whole)).astype(np.float16)} if whole else {})


def with_regions(batch: dict[str, np.ndarray], **options: Any) -> dict[str, np.ndarray]:
    """A batch with regions (options as in `make_regions`) instead of images."""
    others = {name: array for name, array in batch.items() if name not in ("images", "image_size")}
    return others | make_regions(len(batch["text"]), **options)


def make_regions_batch(
    rows: int = 8, texts: int = 2, regions: int = 5, seed: int = 0, whole: int = 0, **options: Any
) -> dict[str, np.ndarray]:
    """A batch of pre-training on regions, four in ten of which are masked; other options as in `make_batch`."""
    batch = with_regions(
        make_batch(rows, texts, (32, 32), seed=seed, **options), regions=regions, seed=seed, whole=whole
    )
    rng = np.random.default_rng([seed, 2])
    target = (rng.random((rows, texts, regions)) < 0.4) & batch["region_mask"][:, None]
    return batch | {
        "region_class": rng.integers(0, 7, (rows, regions)).astype(np.int32),
        "region_target": target,
        "region_zeroed": target & (rng.random(target.shape) < 0.7),
    }


def abstract_loss(task: Task, arrays: dict[str, np.ndarray], key: jax.Array | None) -> Any:
    """Shapes of a loss and its metrics; nothing is computed."""
    module = nnx.eval_shape(lambda: task.init(platform="cpu", rngs=nnx.Rngs(params=0)))
    graphdef, state = nnx.split(module)

    def loss(state: Any, arrays: Any) -> Any:
        return task.loss(nnx.merge(graphdef, state), arrays, task.totals(arrays), key)

    return jax.eval_shape(loss, nnx.as_pure(state), arrays)


def assert_fields(task: Task, arrays: dict[str, np.ndarray]) -> None:
    """A batch has the arrays that its task states; letters stand for the same size everywhere."""
    fields, sizes = task.fields(), {}
    assert arrays.keys() == fields.keys()
    for name, field in fields.items():
        array = arrays[name]
        assert array.dtype == field.dtype and array.ndim == len(field.shape), name
        for axis, size in zip(field.shape, array.shape, strict=True):
            assert size == (sizes.setdefault(axis, size) if isinstance(axis, str) else axis), (name, axis)
        assert field.low is None or array.min() >= field.low, name
        assert field.high is None or array.max() <= field.high, name


def assert_fields_are_needed(task: Task, arrays: dict[str, np.ndarray]) -> None:
    """The loss takes the arrays that the task states: none can be missing."""
    assert_fields(task, arrays)
    abstract_loss(task, arrays, None)
    for name in arrays:
        with pytest.raises(KeyError, match=name):
            abstract_loss(task, {k: v for k, v in arrays.items() if k != name}, None)


def make_small_trainer(
    model: ModelConfig | None = None,
    task: TaskConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    mesh: MeshConfig | None = None,
    devices: int = 1,
    **more: Any,
) -> Trainer:
    """A trainer of a small model on the first `devices` CPU devices."""
    model = model or small_model()
    config = task or PretrainingConfig(sampled_pixels=4)
    task = TASKS[task_name(config)][1](model, config)
    optimizer = optimizer or OptimizerConfig(
        backbone=SgdConfig(learning_rate=0.05),
        transformer=AdamWConfig(learning_rate=5e-3, epsilon=1e-4),  # so rounding stays small
        schedule=ScheduleConfig(kind="constant", warmup_steps=0),
    )
    schedule = make_schedule(optimizer.schedule, 100, 10)
    mesh_config = mesh or MeshConfig()
    return make_trainer(
        task,
        make_optimizer(optimizer, getattr(task.model, "backbone", None), schedule),
        schedule,
        make_mesh(mesh_config, jax.devices()[:devices]),
        mesh_config,
        **{"seed": 0} | more,
    )


def randomize(module: nnx.Module) -> None:
    """Give scales, biases and statistics random values, so that no zero or one hides an error."""

    def drawn(path: tuple, array: jax.Array) -> jax.Array:
        rng = np.random.default_rng(zlib.crc32(str(path).encode()))
        if path[-1] in ("scale", "variance"):
            return jnp.asarray(rng.uniform(0.5, 1.5, array.shape), array.dtype)
        if path[-1] in ("bias", "mean"):
            return jnp.asarray(rng.normal(0, 0.3, array.shape), array.dtype)
        return array

    flat = nnx.to_flat_state(nnx.state(module))
    changed = [(path, variable.replace(drawn(path, variable[...]))) for path, variable in flat]
    nnx.update(module, nnx.from_flat_state(changed))


def named(tree: Any) -> dict[str, np.ndarray]:
    """Leaves of a tree as numpy arrays, by their path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def assert_trees_equal(actual: Any, expected: Any) -> None:
    """Same names, same bits."""
    actual, expected = named(actual), named(expected)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def assert_trees_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Same names; each array within `tolerance` of its own largest value."""
    actual, expected = named(actual), named(expected)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        atol = tolerance * np.abs(value).max(initial=0)
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=atol, err_msg=name)


def assert_parts_add_up(run: Callable[..., tuple], arrays: dict[str, np.ndarray], logits: np.ndarray) -> None:
    """Losses of single rows, with the totals of the batch, add up to its loss; `run(arrays, logits, totals_of)`."""
    rows, texts = arrays["pair_mask"].shape
    parts = 0.0
    for row in range(rows):
        part = {name: array[row : row + 1] for name, array in arrays.items()}
        parts += run(part, logits[row * texts : (row + 1) * texts], arrays)[0]
    assert parts == pytest.approx(run(arrays, logits)[0], rel=1e-6)


def assert_learned(
    task: TaskConfig,
    batch: dict[str, np.ndarray],
    metric: str,
    *,
    steps: int,
    devices: int = 8,
    accumulation: int = 1,
    **options: Any,
) -> None:
    """After `steps` steps on one batch an evaluation metric on it is 1.

    The first step is the same on `devices` devices, in `accumulation` micro-batches.
    """
    trainer = make_small_trainer(task=task, **options)
    placed = jax.device_put(batch, batch_sharding(trainer.mesh))
    state = trainer.init()
    begun = jax.device_get(state)
    state, metrics = trainer.train_step(state, placed)
    first = jax.device_get((state, metrics))
    for _ in range(steps - 1):
        state, _ = trainer.train_step(state, placed)
    total, count = trainer.eval_step(state, placed)[metric]
    assert first[1][metric] < 1 and total == count > 0
    other = make_small_trainer(task=task, devices=devices, accumulation=accumulation, **options)
    again = other.train_step(jax.device_put(begun, other.shardings), jax.device_put(batch, batch_sharding(other.mesh)))
    assert_trees_close(jax.device_get(again), first, 1e-4)
