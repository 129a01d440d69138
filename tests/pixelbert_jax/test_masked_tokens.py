"""Losses of masked tokens against NumPy, and that logits are computed for few more tokens than count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.tasks.masked_tokens import token_losses
from pixelbert_jax.tasks.pretraining import MaskedLanguageHead
from tests.pixelbert_jax.helpers import small_model

PAIRS, MASKED, WIDTH, VOCABULARY = 8, 3, 5, 11
POSITIONS = PAIRS * MASKED


def given(counted):
    """Hidden states, token embeddings, targets and that many positions that count; half of the tokens are right."""
    rng = np.random.default_rng(counted)
    hidden = rng.normal(size=(PAIRS, MASKED, WIDTH)).astype(np.float32)
    token = rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    right = (hidden @ token.T).argmax(-1)
    target = np.where(rng.random(right.shape) < 0.5, right, 3).astype(np.int32)
    mask = np.zeros(POSITIONS, bool)
    mask[rng.permutation(POSITIONS)[:counted]] = True
    return hidden, token, target, mask.reshape(PAIRS, MASKED)


@pytest.mark.parametrize("gather", [True, False])
@pytest.mark.parametrize("count", [0, 1, 8, 9, 16, 17, 24])
def test_losses_hits_and_gradients(count, gather):
    hidden, token, target, counted = given(count)

    @jax.jit
    def compute(hidden, token):
        def loss(hidden, token):
            loss_NxM, right_NxM = token_losses(
                lambda x: jnp.einsum("nmd,vd->nmv", x, token),
                hidden,
                jnp.array(target),
                jnp.array(counted),
                gather=gather,
            )
            return loss_NxM.sum(), (loss_NxM, right_NxM)

        return jax.grad(loss, (0, 1), has_aux=True)(hidden, token)

    (d_hidden, d_token), (loss, right) = compute(hidden, token)
    logits = hidden.astype(np.float64) @ token.T.astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(probabilities, target[..., None], -1)[..., 0])
    np.testing.assert_allclose(loss, np.where(counted, expected, 0), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(right, (logits.argmax(-1) == target) & counted)
    d_logits = (probabilities - np.eye(VOCABULARY)[target]) * counted[..., None]
    np.testing.assert_allclose(d_hidden, d_logits @ token, atol=1e-5)
    np.testing.assert_allclose(d_token, np.einsum("nmv,nmd->vd", d_logits, hidden), atol=1e-5)


@pytest.mark.parametrize(("count", "computed"), [(8, 8), (9, 16), (16, 16), (17, 24)])
def test_few_more_logits_than_count(count, computed):
    """The number of positions that the head is really called for, in a compiled program."""
    hidden, token, target, counted = given(count)
    seen = []

    def logits_of(x):
        jax.debug.callback(seen.append, x.shape[1])
        return jnp.einsum("nmd,vd->nmv", x, token)

    jax.block_until_ready(
        jax.jit(lambda x: token_losses(logits_of, x, jnp.array(target), jnp.array(counted), gather=True))(hidden)
    )
    jax.effects_barrier()
    assert [int(size) for size in seen] == [computed]


def test_nothing_is_gathered_unless_asked():
    """Positions that are split among devices stay where they are."""
    hidden, token, target, counted = given(8)
    program = jax.make_jaxpr(
        lambda x: token_losses(lambda x: x @ token.T, x, jnp.array(target), jnp.array(counted), gather=False)
    )(hidden)
    assert not {"cond", "sort"} & {str(equation.primitive) for equation in program.eqns}


def test_only_one_cpu_gathers(monkeypatch):
    made = lambda platform: make_head(platform).gathers  # noqa: E731
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert made("cpu") and not made("tpu")
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert not made("cpu")


def make_head(platform):
    return nnx.eval_shape(lambda: MaskedLanguageHead(small_model(), platform=platform, rngs=nnx.Rngs(params=0)))
