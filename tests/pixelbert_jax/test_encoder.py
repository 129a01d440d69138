"""The encoder: parity with PyTorch's BERT, masks, dropout, memory-saving variants."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.dropout import dropout
from pixelbert_jax.encoder import Encoder
from pixelbert_jax.weights.bert import bert_parameters
from tests.pixelbert_jax.helpers import assert_trees_close, named, randomize, small_model

LAYERS, WIDTH, HEADS, LENGTH = 2, 32, 4, 7


def make_encoder(**fields):
    module = Encoder(small_model(encoder=fields), rngs=nnx.Rngs(params=0))
    randomize(module)
    return module


def sequence(seed=0, rows=3):
    """Vectors and a mask with 7, 4 and 2 valid positions, not all at the front."""
    x = np.random.default_rng(seed).normal(0, 1, (rows, LENGTH, WIDTH)).astype(np.float32)
    mask = np.ones((rows, LENGTH), bool)
    mask[1, [2, 3, 6]] = False
    mask[2, 2:] = False
    return x, mask


def call(module, *arguments):
    graphdef, state = nnx.split(module)
    return jax.jit(lambda state, *arguments: nnx.merge(graphdef, state)(*arguments))(nnx.as_pure(state), *arguments)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_parity_with_torch(tmp_path, activation):
    torch = pytest.importorskip("torch")
    from tests.pixelbert_jax.weights.references import filled, run, torch_bert

    config = small_model(encoder={"activation": activation})
    reference = torch_bert(config.encoder, config.text.vocabulary_size, config.text.max_positions)
    reference.save_pretrained(tmp_path)
    arrays = bert_parameters(str(tmp_path), config).arrays
    graph_and_state = filled(lambda rngs: Encoder(config, rngs=rngs), arrays, "model.encoder")
    x, mask = sequence()
    additive = torch.from_numpy(np.where(mask, 0, -1e30).astype(np.float32))[:, None, None]
    with torch.no_grad():
        expected = reference.encoder(torch.from_numpy(x), attention_mask=additive).last_hidden_state
    actual = run(*graph_and_state, lambda module, x, mask: module(x, mask), x, mask)
    np.testing.assert_allclose(actual, expected, atol=3e-5)


def test_masked_positions_have_no_influence():
    module, (x, mask) = make_encoder(), sequence()
    expected = call(module, x, mask)
    garbage = np.where(mask[..., None], x, 1e3 * sequence(1)[0])
    actual = call(module, garbage, mask)
    np.testing.assert_array_equal(actual[mask], expected[mask])
    unmasked = call(module, garbage, np.ones_like(mask))
    assert np.abs(unmasked[mask] - expected[mask]).max() > 0.1


def test_shorter_sequence_is_the_same():
    module, (x, mask) = make_encoder(), sequence()
    short = call(module, x[2:, :2], mask[2:, :2])
    np.testing.assert_allclose(call(module, x, mask)[2:, :2], short, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_some_positions_alone_are_those_of_the_whole(layers, remat):
    """Values and gradients, by the program of evaluation (no key) and that of training (a key, no dropout)."""
    module, (x, mask) = make_encoder(layers=layers, remat=remat), sequence()
    graphdef, state = nnx.split(module)
    index = np.array([[0, 4, 4], [0, 1, 5], [1, 0, 1]])
    weight = np.random.default_rng(3).normal(size=(3, 3, WIDTH)).astype(np.float32)

    def loss(read):
        def total(state, x):
            hidden = read(nnx.merge(graphdef, state), x)
            return (hidden * weight).sum(), hidden

        return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(nnx.as_pure(state), x)

    expected = loss(lambda encoder, x: jnp.take_along_axis(encoder(x, mask), index[..., None], axis=1))
    for key in (None, jax.random.key(0)):
        found = loss(lambda encoder, x, key=key: encoder.at(x, mask, index, key))
        assert_trees_close(found, expected, 1e-4)
    first = loss(lambda encoder, x: jnp.repeat(encoder.at(x, mask), 3, axis=1))[1]
    np.testing.assert_allclose(first[:2], expected[1][:2, [0, 0, 0]], atol=1e-5)


def test_dropout_of_the_last_layer_at_some_positions():
    """With one layer, its dropout is all there is."""
    module, (x, mask) = make_encoder(layers=1, dropout=0.5), sequence()
    graphdef, state = nnx.split(module)
    read = jax.jit(lambda state, x, mask, key: nnx.merge(graphdef, state).at(x, mask, None, key))
    one, other, again = (np.asarray(read(nnx.as_pure(state), x, mask, jax.random.key(seed))) for seed in (0, 1, 0))
    assert np.abs(one - other).max() > 0.1
    np.testing.assert_array_equal(one, again)


def compiled_alone(module, method):
    """A method of the encoder as a program of its own."""
    graphdef, state = nnx.split(module)
    return jax.jit(lambda *arguments: getattr(nnx.merge(graphdef, state), method)(*arguments), static_argnums=2)


@pytest.mark.parametrize("fields", [{}, {"scan_unroll": 2}, {"layers": 3, "scan_unroll": 3}, {"layers": 1}])
def test_first_position_alone(fields):
    """The same hidden state, and nothing computed for the other positions of the last layer."""
    module, (x, mask) = make_encoder(activation="relu", **fields), sequence()
    expected = call(module, x, mask)[:, 0]
    np.testing.assert_allclose(compiled_alone(module, "at")(x, mask)[:, 0], expected, atol=2e-5)
    garbage = np.where(mask[..., None], x, 1e3 * sequence(1)[0])
    np.testing.assert_allclose(compiled_alone(module, "at")(garbage, mask)[:, 0], expected, atol=2e-5)


def test_first_position_alone_takes_fewer_operations():
    """Of a loop the compiler counts one turn, so the layers are unrolled; all of them are counted."""
    x, mask = sequence()

    def operations(method, layers):
        module = make_encoder(layers=layers, scan_unroll=layers)
        return compiled_alone(module, method).lower(x, mask).cost_analysis()["flops"]

    one, two, four = (operations("__call__", layers) for layers in (1, 2, 4))
    layer = two - one
    assert four - two == pytest.approx(2 * layer, rel=0.01)
    products = 2 * x[..., 0].size * WIDTH * (3 * WIDTH + WIDTH + 2 * 64)  # without attention
    assert products < layer < 1.5 * products
    keys_and_values = 2 * x[..., 0].size * WIDTH * 2 * WIDTH
    assert keys_and_values < operations("at", 4) - 3 * layer < 0.45 * layer


def test_attention_of_each_layer():
    """By hand, from what the layers before it gave."""
    module, (x, mask) = make_encoder(), sequence()
    attention, linear = compiled_alone(module, "attention"), module.layers.query_key_value
    graphdef, state = nnx.split(module.layers)
    hidden = x
    for number in range(LAYERS):
        layer = nnx.merge(graphdef, jax.tree.map(lambda array, i=number: array[i], nnx.as_pure(state)))
        both = np.asarray(hidden @ linear.kernel[...][number] + linear.bias[...][number][None, None])
        query, key, _ = np.moveaxis(both.reshape(3, LENGTH, 3, HEADS, -1), (2, 3), (0, 2))
        scores = query @ key.swapaxes(2, 3) / np.sqrt(WIDTH // HEADS)
        weights = np.exp(scores - scores.max(-1, keepdims=True)) * mask[:, None, None]
        expected = weights / weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(attention(x, mask, number), expected, atol=1e-5)
        hidden = call(layer, hidden, mask, None)


def test_layers_start_differently():
    kernel = Encoder(small_model(), rngs=nnx.Rngs(params=0)).layers.mlp_inner.kernel[...]
    assert kernel.shape == (LAYERS, WIDTH, 64)
    assert not np.array_equal(kernel[0], kernel[1])
    assert np.abs(kernel).max() <= 0.2  # truncated at two deviations
    assert 0.085 < kernel.std() < 0.09


def value_and_gradients(module, x, mask, key):
    graphdef, state = nnx.split(module)

    @jax.jit
    def run(state):
        def loss(state):
            out = nnx.merge(graphdef, state)(x, mask, key)
            return jnp.sin(out).sum(), out

        return jax.grad(loss, has_aux=True)(state)

    return run(nnx.as_pure(state))


def test_unroll_and_remat_change_nothing():
    x, mask = sequence()
    fields = {"dropout": 0.2, "attention_dropout": 0.2}
    key = jax.random.key(5)
    expected, out = value_and_gradients(make_encoder(**fields), x, mask, key)
    assert all(np.abs(gradient).max() > 0 for gradient in named(expected).values())
    for remat, unroll in (("none", 2), ("dots", 1), ("full", 2)):
        module = make_encoder(**fields, remat=remat, scan_unroll=unroll)
        gradients, other = value_and_gradients(module, x, mask, key)
        np.testing.assert_allclose(other, out, atol=1e-5)
        assert_trees_close(gradients, expected, 1e-4)


@pytest.mark.parametrize("kind", ["dropout", "attention_dropout"])
def test_dropout_follows_its_key(kind):
    module, (x, mask) = make_encoder(**{kind: 0.3}), sequence()
    plain = call(make_encoder(), x, mask)
    np.testing.assert_array_equal(call(module, x, mask), plain)
    keys = [jax.random.key(seed) for seed in (1, 1, 2)]
    first, again, other = (call(module, x, mask, key) for key in keys)
    np.testing.assert_array_equal(first, again)
    for one, two in itertools.combinations((np.asarray(first), np.asarray(other), plain), 2):
        assert np.abs(one - two).max() > 0.01


def test_every_layer_drops_its_own_positions():
    """Two layers with equal parameters: the second does not repeat the first one's draw."""
    module, (x, mask) = make_encoder(dropout=0.5), sequence()
    graphdef, state = nnx.split(module.layers)
    first = jax.tree.map(lambda array: array[0], nnx.as_pure(state))
    nnx.update(module.layers, jax.tree.map(lambda array: jnp.stack([array] * LAYERS), first))
    layer = nnx.merge(graphdef, first)
    key = jax.random.key(0)
    out = call(module, x, mask, key)
    keys = jax.random.split(key, LAYERS)
    apart, together = (call(layer, call(layer, x, mask, keys[0]), mask, keys[i]) for i in (1, 0))
    np.testing.assert_allclose(out, apart, atol=1e-5)
    assert np.abs(out - together).max() > 0.1


def test_dropout_by_hand():
    x = jnp.full((200, 500), 3.0)
    dropped = np.asarray(dropout(x, 0.25, jax.random.key(0)))
    assert set(np.unique(dropped)) == {0.0, 4.0}
    assert abs((dropped == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / dropped.size)
    assert dropout(x, 0.25, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x
