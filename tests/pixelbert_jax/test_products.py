"""Products for CPUs with AMX compute what others do; the forms are plain, so that any machine can run them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax import conv, products
from pixelbert_jax.encoder import Encoder
from tests.pixelbert_jax.helpers import randomize, small_model
from tests.pixelbert_jax.test_conv import CASES, arrays, run


@pytest.mark.parametrize("shape", [(128, 64), (97, 12), (1, 5), (130, 131)])  # 97 and 131 are prime
def test_transposed(shape):
    x = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(products.transposed)(x), x.T)


@pytest.mark.parametrize(("size", "stride", "groups", "inputs", "outputs"), [case for case in CASES if case[2] == 1])
def test_a_convolution_of_products_is_the_same(monkeypatch, size, stride, groups, inputs, outputs):
    monkeypatch.setattr(conv, "uses_amx", lambda platform, dtype: True)
    monkeypatch.setattr(conv, "_AMX_CHANNELS", 1)
    calls = []
    monkeypatch.setattr(conv, "by_products", lambda *a, by=conv.by_products: calls.append(a) or by(*a))
    x, kernel = arrays(size, groups, inputs, outputs)
    ours = run(x, kernel, stride=stride, groups=groups, platform="cpu")
    for actual, expected in zip(ours, run(x, kernel, stride=stride, groups=groups, platform="gpu"), strict=True):
        np.testing.assert_allclose(actual, expected, atol=2e-5, rtol=1e-5)
    assert bool(calls) == (size > 1 and stride <= size and inputs >= 16)


def test_the_encoder_is_the_same(monkeypatch):
    module = Encoder(small_model(), platform="cpu", rngs=nnx.Rngs(params=0))
    randomize(module)
    graphdef, state = nnx.split(module)
    rng = np.random.default_rng(0)
    x, mask = rng.normal(0, 1, (3, 7, 32)).astype(np.float32), np.ones((3, 7), bool)

    def gradients(graphdef):
        def loss(state, x):
            return (nnx.merge(graphdef, state).at(x, mask)[:, 0] * jnp.arange(32.0)[None]).sum()

        return jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1)))(nnx.as_pure(state), x))

    plain = gradients(graphdef)
    calls = []
    monkeypatch.setattr(products, "uses_amx", lambda platform, dtype: platform == "cpu")
    monkeypatch.setattr(products, "_amx_linear", lambda *a, by=products._amx_linear: calls.append(a) or by(*a))
    for actual, expected in zip(gradients(graphdef), plain, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-4 * max(1.0, float(jnp.abs(expected).max())))
    assert len(calls) > 6


def test_only_bfloat16_on_a_cpu_that_has_it(monkeypatch):
    monkeypatch.setattr(products, "_amx_is_used", lambda: True)
    assert products.uses_amx("cpu", jnp.bfloat16)
    assert not products.uses_amx("cpu", jnp.float32)
    assert not products.uses_amx("tpu", jnp.bfloat16)
    monkeypatch.setattr(products, "_amx_is_used", lambda: False)
    assert not products.uses_amx("cpu", "bfloat16")


def test_not_with_a_jax_that_does_not_use_it(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 11, 9))
    assert not products._amx_is_used.__wrapped__()


def test_modules_made_alike_have_equal_graphs():
    made = [Encoder(small_model(), platform="cpu", rngs=nnx.Rngs(params=0)) for _ in range(2)]
    assert nnx.graphdef(made[0]) == nnx.graphdef(made[1])
