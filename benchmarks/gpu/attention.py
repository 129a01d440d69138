"""Our attention against the library's forms of it, one by one on the card, for the GPU benchmark."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.harness.measuring import rounded
from benchmarks.harness.turns import in_turn

# Pairs, tokens with sampled pixels or all pixels (800 x 1333), heads and their width.
CASES = ((256, 164, 12, 64), (64, 337, 12, 64))


def ours(query: jax.Array, key: jax.Array, value: jax.Array, mask_NxS: jax.Array) -> jax.Array:
    """As in the encoder: scores and probabilities are written to memory."""
    scores_NxHxQxS = jnp.einsum("nqhd,nshd->nhqs", query, key, preferred_element_type=jnp.float32)
    scores_NxHxQxS = scores_NxHxQxS / jnp.sqrt(jnp.float32(query.shape[-1]))
    scores_NxHxQxS = jnp.where(mask_NxS[:, None, None], scores_NxHxQxS, jnp.finfo(jnp.float32).min)
    return jnp.einsum("nhqs,nshd->nqhd", jax.nn.softmax(scores_NxHxQxS).astype(query.dtype), value)


def library(implementation: str) -> Callable[..., jax.Array]:
    """`jax.nn.dot_product_attention` in one of its implementations."""

    def attention(query: jax.Array, key: jax.Array, value: jax.Array, mask_NxS: jax.Array) -> jax.Array:
        mask = mask_NxS[:, None, None]
        return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation=implementation)

    return attention


WAYS = {"ours": ours, "xla": library("xla"), "cudnn": library("cudnn")}


def attention(until: float, cases: tuple[tuple[int, ...], ...] = CASES) -> Iterator[dict[str, Any]]:
    """Milliseconds of each way, forward and with gradients, in bfloat16; a way that fails says why.

    Args:
      until: `time.monotonic()` after which nothing is begun.
      cases: N pairs, S tokens, heads and width of a head.
    """
    for case in cases:
        if time.monotonic() > until:
            yield {"ended": "no time for more"}
            return
        rows, length, heads, width = case
        keys = jax.random.split(jax.random.key(0), 4)
        inputs = [jax.random.normal(key, (rows, length, heads, width), jnp.bfloat16) for key in keys]
        mask_NxS = jnp.arange(length)[None] < length - jnp.arange(rows)[:, None] % 16
        ways, errors = {}, {}
        for name, way in WAYS.items():
            run = _forward_and_gradients(way, inputs, mask_NxS)
            try:
                run()
                ways[name] = run
            except Exception as error:
                errors[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        milliseconds = {n: rounded(statistics.median(times) * 1e3 / 4) for n, times in in_turn(ways, 7).items()}
        yield {"attention": list(case), "milliseconds": milliseconds} | ({"errors": errors} if errors else {})


def _forward_and_gradients(way: Callable, inputs: list[jax.Array], mask_NxS: jax.Array) -> Callable[[], Any]:
    """Four runs of a way with the gradients of its inputs, compiled."""
    *given, dy = inputs

    @jax.jit
    def both(*given: jax.Array) -> tuple:
        y, pull = jax.vjp(lambda *arrays: way(*arrays, mask_NxS), *given)
        return y, pull(dy)

    def run() -> None:
        found = [both(*given) for _ in range(4)]
        jax.block_until_ready(found)

    return run
