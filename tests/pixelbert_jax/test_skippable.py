"""The optimizers' parts are optax's, to the bit, and keep their state where a step is skipped."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pixelbert_jax.training import skippable

PAIRS = {
    "adam": (skippable.scale_by_adam(0.9, 0.99, 1e-6), optax.scale_by_adam(0.9, 0.99, 1e-6)),
    "momentum": (skippable.momentum(0.9), optax.trace(0.9)),
    "rate": (
        skippable.scale_by_learning_rate(lambda step: 1.0 / (1 + step)),
        optax.scale_by_learning_rate(lambda step: 1.0 / (1 + step)),
    ),
}


def gradients(step):
    draw = np.random.default_rng(step)
    return {"a": jnp.asarray(draw.normal(size=(3, 4)), jnp.float32), "b": jnp.asarray(draw.normal(size=5), jnp.float32)}


def assert_same(ours, expected):
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.mark.parametrize("name", PAIRS)
def test_equal_to_optax_with_a_skipped_step_between(name):
    ours, expected = PAIRS[name]
    params = jax.tree.map(jnp.ones_like, gradients(0))
    state, expected_state = ours.init(params), expected.init(params)
    for step in range(4):
        updates, state = ours.update(gradients(step), state, params, finite=jnp.array(True))
        expected_updates, expected_state = expected.update(gradients(step), expected_state, params)
        assert_same(updates, expected_updates)
        assert_same(state, expected_state)
        broken = jax.tree.map(lambda array: array * jnp.nan, gradients(step))
        _, state = ours.update(broken, state, params, finite=jnp.array(False))
        assert_same(state, expected_state)


def test_compiled_step_holds_no_copy_of_the_moments():
    """The memory that the compiler plans besides the donated state: less than half of the parameters'."""
    schedule, size = (lambda _: 0.1), (512, 512)
    ours = optax.chain(skippable.scale_by_adam(0.9, 0.99, 1e-6), skippable.scale_by_learning_rate(schedule))
    params = {name: jnp.ones(size) for name in "abcd"}

    def update(params, state, gradients):
        finite = jnp.isfinite(sum(gradient.sum() for gradient in gradients.values()))
        updates, state = ours.update(gradients, state, params, finite=finite)
        return skippable.choose(finite, optax.apply_updates(params, updates), params), state

    compiled = jax.jit(update, donate_argnums=(0, 1)).lower(params, ours.init(params), params).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * sum(leaf.nbytes for leaf in params.values())


def test_a_first_step_that_is_skipped():
    """Adam's count is 0 then, and its correction of the bias a quotient of zeros: none of it may stay."""
    ours, expected = PAIRS["adam"]
    params = jax.tree.map(jnp.ones_like, gradients(0))
    broken = jax.tree.map(lambda array: array * jnp.inf, gradients(0))
    updates, state = ours.update(broken, ours.init(params), params, finite=jnp.array(False))
    assert_same(skippable.choose(jnp.array(False), optax.apply_updates(params, updates), params), params)
    assert_same(state, expected.init(params))
    updates, _ = ours.update(gradients(0), state, params, finite=jnp.array(True))
    assert_same(updates, expected.update(gradients(0), expected.init(params), params)[0])
