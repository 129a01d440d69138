"""Labels, schedules, and steps of the optimizer against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from pixelbert_jax.config import ResNetConfig, pixelbert_r50
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.pretraining import PretrainingConfig, PretrainingTask
from pixelbert_jax.training.optimizer import (
    AdamWConfig,
    OptimizerConfig,
    ScheduleConfig,
    SgdConfig,
    make_optimizer,
    make_schedule,
    parameter_group,
)
from tests.pixelbert_jax.helpers import named, small_model

BACKBONE = ResNetConfig(frozen_parts=1)
SGD = SgdConfig(learning_rate=0.1, momentum=0.9, weight_decay=0.05)
ADAMW = AdamWConfig(learning_rate=0.01, weight_decay=0.3, beta1=0.8, beta2=0.95, epsilon=1e-4)


def tree(seed, scale=1.0):
    """One small array of each group."""
    rng = np.random.default_rng(seed)

    def leaf():
        return rng.normal(0, scale, (3, 2)).astype(np.float32)

    return {
        "model": {
            "backbone": {"stem": {"conv": {"kernel": leaf()}}, "stages": {"0": {"kernel": leaf()}}},
            "encoder": {"kernel": leaf()},
        }
    }


def three(params):
    """The arrays of `tree`: frozen, backbone, transformer."""
    model = params["model"]
    return (
        model["backbone"]["stem"]["conv"]["kernel"],
        model["backbone"]["stages"]["0"]["kernel"],
        model["encoder"]["kernel"],
    )


def run(config, gradients, schedule):
    """Parameters after each step."""
    optimizer = make_optimizer(config, BACKBONE, schedule)
    params = jax.tree.map(jnp.array, tree(0))
    state, history = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        history.append(jax.device_get(params))
    return history


def config(**fields):
    return OptimizerConfig(backbone=SGD, transformer=ADAMW, **{"clip_norm": 0.0} | fields)


def test_three_steps_by_hand():
    """SGD: decay is in the gradient, then momentum. AdamW: decay apart. Both by the factor."""
    factors = [1.0, 0.5, 0.25]
    gradients = [tree(seed) for seed in (1, 2, 3)]
    schedule = lambda step: jnp.array(factors)[step]  # noqa: E731
    history = run(config(), gradients, schedule)
    frozen, w, v = (array.astype(np.float64) for array in three(tree(0)))
    momentum, first, second = 0, 0, 0
    for i, (factor, gradient) in enumerate(zip(factors, gradients, strict=True)):
        _, g, h = (array.astype(np.float64) for array in three(gradient))
        momentum = 0.9 * momentum + (g + 0.05 * w)
        w = w - 0.1 * factor * momentum
        first, second = 0.8 * first + 0.2 * h, 0.95 * second + 0.05 * h**2
        unbiased = first / (1 - 0.8 ** (i + 1)), second / (1 - 0.95 ** (i + 1))
        v = v - 0.01 * factor * (unbiased[0] / (np.sqrt(unbiased[1]) + 1e-4) + 0.3 * v)
        after = three(history[i])
        np.testing.assert_array_equal(after[0], frozen.astype(np.float32))
        np.testing.assert_allclose(after[1], w, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(after[2], v, rtol=1e-5, atol=1e-6)


def test_backbone_can_have_adamw_too():
    both = OptimizerConfig(backbone=ADAMW, transformer=ADAMW, clip_norm=0.0)
    gradient = tree(1)
    (after,) = run(both, [gradient], lambda step: 1.0)
    _, before, _ = three(tree(0))
    _, g, _ = three(gradient)
    expected = before - 0.01 * (g / (np.abs(g) + 1e-4) + 0.3 * before)
    np.testing.assert_allclose(three(after)[1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("scale", "clipped"), [(100.0, True), (0.01, False)])
def test_clipping_by_the_norm_of_all_gradients(scale, clipped):
    gradient = tree(1, scale)
    norm = np.sqrt(sum(np.square(array).sum() for array in jax.tree.leaves(gradient)))
    assert (norm > 10) == clipped
    (after,) = run(config(clip_norm=10.0), [gradient], lambda step: 1.0)
    _, before, _ = three(tree(0))
    g = three(gradient)[1] * min(1, 10 / norm)
    np.testing.assert_allclose(three(after)[1], before - 0.1 * (g + 0.05 * before), rtol=1e-5)


def values(schedule, *steps):
    return [float(schedule(jnp.array(step))) for step in steps]


def test_step_schedule():
    """The paper's: tenths after 25 and 35 epochs, here of 10 steps."""
    schedule = make_schedule(ScheduleConfig(warmup_steps=0), 400, 10)
    actual = values(schedule, 0, 249, 250, 349, 350, 399)
    assert actual == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    fractions = make_schedule(ScheduleConfig(warmup_steps=0), 400, 2.6)
    assert values(fractions, 64, 65, 90, 91) == pytest.approx([1, 0.1, 0.1, 0.01])
    in_steps = ScheduleConfig(warmup_steps=0, unit="steps", decay_at=(3,), decay_factor=0.5)
    assert values(make_schedule(in_steps, 400, 10), 2, 3) == pytest.approx([1, 0.5])


def test_warm_up():
    schedule = make_schedule(ScheduleConfig(decay_at=(80,)), 10**5, 10)
    actual = values(schedule, 0, 500, 799, 800, 1000, 5000)
    expected = [1 / 3, 2 / 3, 1 / 3 + 2 / 3 * 0.799, (1 / 3 + 2 / 3 * 0.8) / 10, 0.1, 0.1]
    assert actual == pytest.approx(expected)
    constant = make_schedule(ScheduleConfig(kind="constant", warmup_steps=4), 100, 10)
    assert values(constant, 0, 2, 4, 99) == pytest.approx([1 / 3, 2 / 3, 1, 1])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("linear", [0, 0.5, 1, 0.6, 0.2]), ("cosine", [0, 0.5, 1, 0.6, 0.2])],
)
def test_decay_to_the_last_step(kind, expected):
    schedule = make_schedule(ScheduleConfig(kind=kind, warmup_steps=10, warmup_start=0, final=0.2), 110, 10)
    assert values(schedule, 0, 5, 10, 60, 110) == pytest.approx(expected, abs=1e-6)


def test_cosine_is_not_linear():
    schedule = make_schedule(ScheduleConfig(kind="cosine", warmup_steps=0), 100, 10)
    assert values(schedule, 25) == pytest.approx([0.5 * (1 + np.cos(np.pi / 4))])


def parameters(model):
    """Parameter shapes of the pre-training module, by name."""
    task = PretrainingTask(model, PretrainingConfig())
    module = nnx.eval_shape(lambda: task.init(platform="cpu", rngs=nnx.Rngs(params=0)))
    return nnx.as_pure(nnx.state(module, nnx.Param))


def names(tree):
    return [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]


@pytest.mark.parametrize("frozen_parts", range(6))
def test_labels_of_resnet50(frozen_parts):
    backbone = ResNetConfig(frozen_parts=frozen_parts)
    parts = ["stem/"] + [f"stages/{i}/" for i in range(4)]
    counts = {"frozen": 0, "backbone": 0, "transformer": 0}
    for name in names(parameters(pixelbert_r50())):
        group = parameter_group(name, backbone)
        counts[group] += 1
        prefix = "model/backbone/"
        if not name.startswith(prefix):
            assert group == "transformer", name
        else:
            frozen = name.removeprefix(prefix).startswith(tuple(parts[:frozen_parts]))
            assert group == ("frozen" if frozen else "backbone"), name
    arrays = [3] + [9 * blocks + 3 for blocks in (3, 4, 6, 3)]  # kernel, scale, bias; shortcuts
    assert counts["frozen"] == sum(arrays[:frozen_parts])
    assert counts["backbone"] == sum(arrays[frozen_parts:])
    assert counts["transformer"] > 20


@pytest.mark.parametrize("decay_vectors", [True, False])
def test_decay_of_vectors(decay_vectors):
    """Without gradients only the decay moves a parameter: vectors only if asked."""
    model = small_model(pixels={"position": "rowcol", "layer_norm": True})
    shapes = parameters(model)
    ones = jax.tree.map(lambda array: jnp.ones(array.shape), shapes)
    zeros = jax.tree.map(jnp.zeros_like, ones)
    optimizer = make_optimizer(config(decay_vectors=decay_vectors), model.backbone, lambda step: 1.0)
    updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(ones), ones)
    matrices = 0
    for name, update in named(updates).items():
        stacked = "encoder/layers/" in name
        is_matrix = update.ndim - stacked >= 2
        matrices += is_matrix
        rate = {"frozen": 0, "backbone": -0.1 * 0.05, "transformer": -0.01 * 0.3}[parameter_group(name, model.backbone)]
        expected = rate if is_matrix or decay_vectors else 0
        np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=name)
    assert 10 < matrices < len(named(updates)) - 10


def test_frozen_parts_have_no_optimizer_state():
    model = small_model()
    optimizer = make_optimizer(config(), model.backbone, lambda step: 1.0)
    state = jax.eval_shape(optimizer.init, parameters(model))
    moments = [name for name in names(state) if "backbone/" in name]
    assert any("stages" in name for name in moments)
    assert not any("stem" in name for name in moments)


def test_average_decay_is_checked():
    with pytest.raises(ConfigError, match="ema_decay"):
        OptimizerConfig(ema_decay=1.0)
