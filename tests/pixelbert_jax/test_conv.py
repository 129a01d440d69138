"""Both lowerings of a convolution compute the same, and what PyTorch computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixelbert_jax.conv import convolve

CASES = [  # size, stride, groups, inputs, outputs
    (1, 1, 1, 3, 8),
    (1, 2, 1, 8, 5),
    (1, 1, 4, 8, 16),
    (3, 1, 1, 5, 7),
    (3, 2, 1, 8, 8),
    (3, 1, 4, 8, 8),
    (3, 2, 4, 256, 8),  # groups of 64 channels: nothing to merge
    (3, 1, 32, 32, 64),
    (3, 2, 32, 128, 128),
    (3, 1, 6, 12, 18),  # a number of groups that can be halved once only
    (3, 1, 1, 16, 7),  # enough channels for gradients by products
    (3, 2, 1, 20, 8),
    (5, 1, 1, 16, 4),
    (5, 2, 1, 16, 4),
    (3, 3, 1, 16, 4),
    (3, 4, 1, 16, 4),  # some cells in no window
    (7, 2, 1, 3, 8),
    (7, 1, 4, 4, 8),
]


def arrays(size, groups, inputs, outputs):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (2, 9, 6, inputs)).astype(np.float32)
    kernel = rng.normal(0, 0.3, (size, size, inputs // groups, outputs)).astype(np.float32)
    return x, kernel


def run(x, kernel, **options):
    """Output and both gradients of a sum that weighs every output differently."""

    @jax.jit
    def outputs(x, kernel):
        def loss(x, kernel):
            out = convolve(x, kernel, **options)
            weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
            return (out * weights).sum(), out

        gradients, out = jax.grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)
        return out, *gradients

    return outputs(x, kernel)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize(("size", "stride", "groups", "inputs", "outputs"), CASES)
def test_lowerings_agree(platform, size, stride, groups, inputs, outputs):
    x, kernel = arrays(size, groups, inputs, outputs)
    ours = run(x, kernel, stride=stride, groups=groups, platform=platform)
    native = run(x, kernel, stride=stride, groups=groups, platform="gpu")
    assert ours[0].shape == (2, -(-9 // stride), -(-6 // stride), outputs)
    for actual, expected in zip(ours, native, strict=True):
        np.testing.assert_allclose(actual, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize(("size", "stride", "groups", "inputs", "outputs"), CASES[1::3])
def test_agrees_with_torch(platform, size, stride, groups, inputs, outputs):
    torch = pytest.importorskip("torch")
    x, kernel = arrays(size, groups, inputs, outputs)
    ours = run(x, kernel, stride=stride, groups=groups, platform=platform)
    torch_x = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    torch_kernel = torch.tensor(kernel.transpose(3, 2, 0, 1), requires_grad=True)
    out = torch.nn.functional.conv2d(
        torch_x, torch_kernel, stride=stride, padding=(size - 1) // 2, groups=groups
    ).permute(0, 2, 3, 1)
    (out * torch.cos(torch.arange(out.numel()).float()).reshape(out.shape)).sum().backward()
    expected = (
        out.detach().numpy(),
        torch_x.grad.numpy().transpose(0, 2, 3, 1),
        torch_kernel.grad.numpy().transpose(2, 3, 1, 0),
    )
    for actual, reference in zip(ours, expected, strict=True):
        np.testing.assert_allclose(actual, reference, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_computes_in_the_type_of_the_activations(platform):
    x, kernel = arrays(3, 4, 8, 8)
    out = convolve(jnp.array(x, jnp.bfloat16), jnp.array(kernel), groups=4, platform=platform)
    assert out.dtype == jnp.bfloat16


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_by_products_in_half_precision(stride):
    """Those of bfloat16 numbers, against the same in float32."""
    x, kernel = (np.asarray(jnp.array(array, jnp.bfloat16), np.float32) for array in arrays(3, 1, 16, 8))
    half = run(jnp.array(x, jnp.bfloat16), kernel, stride=stride, platform="cpu")
    assert [array.dtype for array in half] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    for actual, expected in zip(half, run(x, kernel, stride=stride, platform="cpu"), strict=True):
        np.testing.assert_allclose(actual.astype(jnp.float32), expected, atol=0.01 * float(jnp.abs(expected).max()))
