"""The losses of masked tokens (BERT's MLM), of those that count."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

_SIZES = 3  # in which logits are computed: for a third of the masked positions, two thirds, all


def token_losses(
    logits_of: Callable[[jax.Array], jax.Array],
    hidden_NxMxD: jax.Array,
    target_NxM: jax.Array,
    counted_NxM: jax.Array,
    *,
    gather: bool,
) -> tuple[jax.Array, jax.Array]:
    """Cross entropy of each masked token, and whether the token with the highest logit is the right one.

    If the positions that count are gathered first, no logits are computed for most of the others.

    Args:
      logits_of: gives float32 logits 1xSxV of hidden states 1xSxD.
      hidden_NxMxD: at M positions of N texts.
      target_NxM: the original tokens.
      counted_NxM: True for tokens that count.
      gather: gather the positions that count. Not where they are split among devices, which would then all compute
        the same.

    Returns:
      Two arrays NxM; 0 and False where a token does not count.
    """
    hidden_SxD, target_S = hidden_NxMxD.reshape(-1, hidden_NxMxD.shape[-1]), jnp.asarray(target_NxM).reshape(-1)
    counted_S = jnp.asarray(counted_NxM).reshape(-1)

    def losses(index_C: jax.Array | slice) -> tuple[jax.Array, jax.Array]:
        logits_CxV, target_C = logits_of(hidden_SxD[index_C][None])[0], target_S[index_C]
        loss_C = optax.softmax_cross_entropy_with_integer_labels(logits_CxV, target_C)
        return loss_C, logits_CxV.argmax(-1) == target_C

    def first(size: int) -> tuple[jax.Array, jax.Array]:
        index_C = counted_first_S[:size]
        loss_S, right_S = (jnp.zeros(len(target_S), x_C.dtype).at[index_C].set(x_C) for x_C in losses(index_C))
        return loss_S, right_S

    if gather:
        sizes = [-(-len(target_S) * part // _SIZES) for part in range(1, _SIZES + 1)]
        counted_first_S = jnp.argsort(~counted_S, stable=True)
        smallest = sum(counted_S.sum() > size for size in sizes[:-1])
        loss_S, right_S = jax.lax.switch(smallest, [functools.partial(first, size) for size in sizes])
    else:
        loss_S, right_S = losses(slice(None))
    return jnp.where(counted_NxM, loss_S.reshape(counted_NxM.shape), 0), (right_S & counted_S).reshape(
        counted_NxM.shape
    )
