"""Adam, momentum and learning rates as in optax, except that their state stays as it was where a step is skipped.

The choice between the new and the old state is made inside, before the update is computed. The compiler can then work
on the state in place. A choice after the update needs a copy of every moment.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Finite = jax.Array | bool  # False: the gradients are not finite, the step is skipped


def choose(finite: Finite, new: Any, old: Any) -> Any:
    """The new tree, or the old one where a step is skipped."""
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)


def scale_by_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformationExtraArgs:
    """`optax.scale_by_adam`; `update` takes `finite`."""

    def update(
        gradients: Any, state: optax.ScaleByAdamState, params: Any = None, *, finite: Finite = True, **_: Any
    ) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        state = choose(
            finite,
            optax.ScaleByAdamState(
                optax.safe_increment(state.count),
                optax.tree.update_moment(gradients, state.mu, beta1, 1),
                optax.tree.update_moment_per_elem_norm(gradients, state.nu, beta2, 2),
            ),
            state,
        )
        mean = optax.tree.bias_correction(state.mu, beta1, state.count)
        square = optax.tree.bias_correction(state.nu, beta2, state.count)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mean, square), state

    return optax.GradientTransformationExtraArgs(optax.scale_by_adam(beta1, beta2, epsilon).init, update)


def momentum(decay: float) -> optax.GradientTransformationExtraArgs:
    """`optax.trace`; `update` takes `finite`."""

    def update(
        gradients: Any, state: optax.TraceState, params: Any = None, *, finite: Finite = True, **_: Any
    ) -> tuple[Any, optax.TraceState]:
        del params
        trace = jax.tree.map(lambda gradient, trace: gradient + decay * trace, gradients, state.trace)
        trace = choose(finite, trace, state.trace)
        return trace, optax.TraceState(trace)

    return optax.GradientTransformationExtraArgs(optax.trace(decay).init, update)


def scale_by_learning_rate(schedule: Callable[[jax.Array], jax.Array]) -> optax.GradientTransformationExtraArgs:
    """`optax.scale_by_learning_rate`, whose step count does not include skipped steps; `update` takes `finite`."""
    plain = optax.scale_by_learning_rate(schedule)

    def update(updates: Any, state: Any, params: Any = None, *, finite: Finite = True, **_: Any) -> tuple[Any, Any]:
        updates, counted = plain.update(updates, state, params)
        return updates, choose(finite, counted, state)

    return optax.GradientTransformationExtraArgs(plain.init, update)
