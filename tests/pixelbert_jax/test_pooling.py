"""Both lowerings of max pooling agree, in value and gradient, with each other and with PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixelbert_jax.pooling import max_pool

CASES = [(3, 2, (1, 1)), (2, 2, (0, 0)), (3, 1, (1, 1))]  # size, stride, padding


def value_and_gradient(x, platform, *window):
    def weighed(x):
        out = max_pool(x, *window, platform=platform)
        return (out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)).sum(), out

    gradient, out = jax.grad(weighed, has_aux=True)(x)
    return np.asarray(out), np.asarray(gradient)


@pytest.mark.parametrize(("size", "stride", "padding"), CASES)
def test_agree_where_cells_are_equal(size, stride, padding):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).integers(-2, 3, (2, 8, 10, 3)).astype(np.float32)  # most windows hold equal cells
    compared = value_and_gradient(x, "cpu", size, stride, padding)
    native = value_and_gradient(x, "gpu", size, stride, padding)
    there = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    out = torch.nn.functional.max_pool2d(there, size, stride, padding[0]).permute(0, 2, 3, 1)
    (out * torch.cos(torch.arange(out.numel()).float()).reshape(out.shape)).sum().backward()
    expected = out.detach().numpy(), there.grad.permute(0, 2, 3, 1).numpy()
    for ours, other, reference in zip(compared, native, expected, strict=True):
        np.testing.assert_array_equal(ours, other)
        np.testing.assert_allclose(ours, reference, atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_nan_is_kept(platform):
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 1, 2] = np.nan
    out = max_pool(x, 2, 2, (0, 0), platform=platform)
    np.testing.assert_array_equal(np.isnan(out[0, :, :, 0]), [[False, True], [False, False]])


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_half_precision_stays(platform):
    x = np.random.default_rng(0).integers(-2, 3, (2, 8, 10, 3)).astype(np.float32)
    half = value_and_gradient(jnp.array(x, jnp.bfloat16), platform, *CASES[0])
    assert half[0].dtype == half[1].dtype == jnp.bfloat16
    np.testing.assert_array_equal(half[0].astype(np.float32), value_and_gradient(x, platform, *CASES[0])[0])
