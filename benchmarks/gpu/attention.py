"""Our attention against the library's forms of it, one by one on the card, for the GPU benchmark."""

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.lowerings import RUNS, forward_and_gradients
from benchmarks.harness.measuring import rounded
from benchmarks.harness.turns import in_turn
from pixelbert_jax.encoder import attention_probabilities

# Pairs, tokens with sampled pixels or all pixels (800 x 1333), heads and their width.
CASES = ((256, 164, 12, 64), (64, 337, 12, 64))


def ours(query: jax.Array, key: jax.Array, value: jax.Array, mask_NxS: jax.Array) -> jax.Array:
    """As in the encoder, with its transpositions: scores and probabilities are written to memory."""
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    probabilities_NxHxQxS = attention_probabilities(query, key, mask_NxS)
    return jnp.einsum("nhqs,nhsd->nhqd", probabilities_NxHxQxS, value).transpose(0, 2, 1, 3)


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
        *given, dy = (jax.random.normal(key, (rows, length, heads, width), jnp.bfloat16) for key in keys)
        mask_NxS = jnp.arange(length)[None] < length - jnp.arange(rows)[:, None] % 16
        ways, errors = {}, {}
        for name, way in WAYS.items():
            run = forward_and_gradients(functools.partial(way, mask_NxS=mask_NxS), *given, dy=dy)
            try:
                run()
                ways[name] = run
            except Exception as error:
                errors[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        milliseconds = {n: rounded(statistics.median(times) * 1e3 / RUNS) for n, times in in_turn(ways, 7).items()}
        yield {"attention": list(case), "milliseconds": milliseconds} | ({"errors": errors} if errors else {})
