"""The training step: golden numbers, meshes, accumulation, bad gradients, compilations."""

import jax
import numpy as np
import optax
import pytest

from pixelbert_jax.tasks.pretraining import PretrainingConfig
from pixelbert_jax.training.optimizer import OptimizerConfig, ScheduleConfig
from pixelbert_jax.training.sharding import MeshConfig, batch_sharding
from tests.pixelbert_jax.helpers import (
    assert_trees_close,
    assert_trees_equal,
    make_batch,
    make_small_trainer,
    named,
    small_model,
)

# Metrics of the first step of `trainer` on make_batch(). They change when initial values, random draws or the
# mathematics of the model are changed on purpose: then update them, and state the reason.
GOLDEN = {
    "loss": 4.702720,
    "mlm_loss": 3.902601,
    "itm_loss": 0.800119,
    "gradient_norm": 2.710626,
}

MODEL = small_model(
    backbone={"batch_statistics": "train"},
    encoder={"dropout": 0.1, "attention_dropout": 0.1},
)
SPLIT = 64  # elements from which on arrays are split over fsdp


@pytest.fixture(scope="module")
def trainer():
    """One device, BatchNorm in training mode, dropout, sampling, a moving average."""
    return make_small_trainer(MODEL, ema_decay=0.5)


@pytest.fixture(scope="module")
def batch():
    return make_batch()


def place(trainer, batch):
    """The batch on the trainer's devices."""
    return jax.device_put(batch, batch_sharding(trainer.mesh))


def run(trainer, batch, count=1, state=None):
    """States after each of `count` steps, on the host, and the metrics of the last."""
    state = jax.device_put(state, trainer.shardings) if state is not None else trainer.init()
    batch, states = place(trainer, batch), []
    for _ in range(count):
        state, metrics = trainer.train_step(state, batch)
        states.append(jax.device_get(state))
    return states, jax.device_get(metrics)


@pytest.fixture(scope="module")
def two_steps(trainer, batch):
    """The first two states of `trainer`, and the metrics of the second step."""
    return run(trainer, batch, 2)


def test_golden_numbers(trainer, batch):
    _, metrics = run(trainer, batch)
    assert {name: float(metrics[name]) for name in GOLDEN} == pytest.approx(GOLDEN, rel=1e-4)
    assert metrics["loss"] == pytest.approx(metrics["mlm_loss"] + metrics["itm_loss"], rel=1e-6)
    assert metrics["learning_rate_factor"] == 1


def test_same_seed_gives_the_same_run(trainer, batch, two_steps):
    again, _ = run(trainer, batch, 2)
    assert_trees_equal(again[-1], two_steps[0][-1])


def test_a_batch_can_be_learned_by_heart(trainer, batch):
    states, _ = run(trainer, batch, 100)
    sums = jax.device_get(trainer.eval_step(states[-1], place(trainer, batch)))
    metrics = {name: total / count for name, (total, count) in sums.items()}
    assert metrics["mlm_loss"] < 0.1 and metrics["itm_loss"] < 0.1
    assert metrics["mlm_accuracy"] == metrics["itm_accuracy"] == 1


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (2, 4), (1, 8)])
def test_every_mesh_takes_the_same_steps(two_steps, batch, data, fsdp):
    """Global BatchNorm statistics, dropout and pixel samples included."""
    mesh = MeshConfig(data=data, fsdp=fsdp, min_split_size=SPLIT)
    trainer = make_small_trainer(MODEL, mesh=mesh, devices=8, ema_decay=0.5)
    live = trainer.init()
    assert_really_split(live, fsdp)
    live, _ = trainer.train_step(live, place(trainer, batch))
    assert_really_split(live, fsdp)
    states, metrics = run(trainer, batch, 2)
    assert trainer.train_step._cache_size() == 1
    expected_states, expected_metrics = two_steps
    assert_trees_close(metrics, expected_metrics, 1e-6)
    assert_trees_close(states[0], expected_states[0], 1e-4)
    assert_trees_close(states[1], expected_states[1], 1e-4)


def assert_really_split(state, fsdp):
    """Parameters, moving average and optimizer moments lie in parts on the devices of `fsdp`."""
    for part in (state.params, state.ema, state.opt_state):
        split = 0
        for array in jax.tree.leaves(part):
            divisible = any(side % fsdp == 0 for side in array.shape)
            expected = array.size // fsdp if array.size >= SPLIT and divisible else array.size
            assert {shard.data.size for shard in array.addressable_shards} == {expected}
            split += expected < array.size
        assert split > 20 or fsdp == 1


def test_initial_values_do_not_depend_on_the_mesh(trainer):
    mesh = MeshConfig(data=1, fsdp=8, min_split_size=SPLIT)
    other = make_small_trainer(MODEL, mesh=mesh, devices=8, ema_decay=0.5)
    assert_trees_equal(jax.device_get(other.init()), jax.device_get(trainer.init()))


def test_seed_changes_initial_values(trainer):
    other = make_small_trainer(MODEL, seed=1, ema_decay=0.5)
    embeddings = [t.init().params["model"]["text_embedding"]["word"] for t in (trainer, other)]
    assert not np.array_equal(*embeddings)


@pytest.fixture(scope="module")
def plain_step(batch):
    """One step without dropout and without micro-batches."""
    return run(make_small_trainer(), batch)


@pytest.mark.parametrize(("accumulation", "devices"), [(2, 1), (4, 2)])
def test_micro_batches_add_up_to_the_batch(plain_step, batch, accumulation, devices):
    """The same step to rounding, sampled pixels included, although tokens are counted unevenly."""
    mesh = MeshConfig(data=1, fsdp=devices, min_split_size=SPLIT)
    trainer = make_small_trainer(mesh=mesh, devices=devices, accumulation=accumulation)
    states, metrics = run(trainer, batch)
    expected_states, expected_metrics = plain_step
    assert_trees_close(metrics, expected_metrics, 1e-6)
    assert_trees_close(states[0], expected_states[0], 1e-4)


def test_moving_average_by_hand(trainer, two_steps):
    params = [named(jax.device_get(trainer.init().params))]
    params += [named(state.params) for state in two_steps[0]]
    averages = named(two_steps[0][-1].ema)
    for name, average in averages.items():
        expected = 0.5 * (0.5 * params[0][name] + 0.5 * params[1][name]) + 0.5 * params[2][name]
        np.testing.assert_allclose(average, expected, rtol=1e-6, atol=1e-7, err_msg=name)


def test_bad_gradient_changes_nothing_but_the_counters(trainer, batch, two_steps):
    before = two_steps[0][-1]
    bad = batch | {"text": np.full_like(batch["text"], 10**6)}  # no such token: its embedding is NaN
    (first, second), metrics = run(trainer, bad, 2, before)
    assert not np.isfinite(metrics["loss"]) and not np.isfinite(metrics["gradient_norm"])
    for state, count in ((first, 1), (second, 2)):
        assert (state.step, state.skipped, state.skipped_in_a_row) == (2 + count, count, count)
        for part in ("params", "rest", "opt_state", "ema"):
            assert_trees_equal(getattr(state, part), getattr(before, part))
    (after,), metrics = run(trainer, batch, 1, second)
    assert (after.step, after.skipped, after.skipped_in_a_row) == (5, 2, 0)
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (2, 0)
    changed = named(after.params)
    moved = [name for name, old in named(before.params).items() if (changed[name] != old).any()]
    assert len(moved) > 20


def test_reported_learning_rate_is_the_optimizers_after_a_skipped_step(batch):
    """Both schedules of the optimizer count the steps that were not skipped."""
    warmup = ScheduleConfig(kind="constant", warmup_steps=10, warmup_start=0.0)
    trainer = make_small_trainer(optimizer=OptimizerConfig(schedule=warmup))
    bad = batch | {"text": np.full_like(batch["text"], 10**6)}
    state, factors = trainer.init(), []
    for taken in (batch, bad, batch, batch):
        counts = {int(count) for count in optax.tree.get_all_with_path(state.opt_state, "count") for count in count[1:]}
        assert len(counts) == 1
        state, metrics = trainer.train_step(state, place(trainer, taken))
        factors.append(float(metrics["learning_rate_factor"]))
        assert factors[-1] == pytest.approx(counts.pop() / 10)
    assert factors == pytest.approx([0, 0.1, 0.1, 0.2])


def test_evaluation_reads_the_average_and_changes_nothing(trainer, batch, two_steps):
    state = jax.device_put(two_steps[0][-1], trainer.shardings)
    batch = place(trainer, batch)
    sums = jax.device_get(trainer.eval_step(state, batch))
    assert_trees_equal(jax.device_get(state), two_steps[0][-1])
    zeros = jax.tree.map(np.zeros_like, two_steps[0][-1].params)
    assert_trees_equal(trainer.eval_step(state._replace(params=zeros), batch), sums)
    without = trainer.eval_step(state._replace(ema=zeros), batch)
    assert without["mlm_loss"][0] != sums["mlm_loss"][0]


def test_metrics_of_evaluation_add_up(trainer, batch, two_steps):
    """Over the rows that count, whatever the other rows are: nothing is shared within a batch."""
    whole = trainer.eval_step(two_steps[0][-1], place(trainer, batch))
    parts = []
    for rows in (np.arange(8) < 3, np.arange(8) >= 3):
        images = np.where(rows[:, None, None, None], batch["images"], 255).astype(np.uint8)
        part = batch | {"images": images, "pair_mask": batch["pair_mask"] & rows[:, None]}
        parts.append(trainer.eval_step(two_steps[0][-1], place(trainer, part)))
    assert_trees_close(jax.tree.map(np.add, *jax.device_get(parts)), jax.device_get(whole), 1e-5)


def test_frozen_part_stays_bit_by_bit(trainer, two_steps):
    """The stem, which also gets no decay and no statistics; all other parts move."""
    before = jax.device_get(trainer.init())
    after = two_steps[0][-1]
    for part in ("params", "rest"):
        old, new = named(getattr(before, part)), named(getattr(after, part))
        for name in old:
            assert (old[name] == new[name]).all() == ("backbone/stem" in name), name


def test_module_has_the_average(trainer, two_steps):
    state = two_steps[0][-1]
    embedding = trainer.module(state).model.text_embedding.word[...]
    np.testing.assert_array_equal(embedding, state.ema["model"]["text_embedding"]["word"])


def test_compiles_once_per_canvas():
    trainer = make_small_trainer(task=PretrainingConfig(sampled_pixels=0))
    state = trainer.init()
    for canvases, canvas in enumerate([(32, 48), (48, 32)], start=1):
        for seed in range(3):
            small = place(trainer, make_batch(rows=2, canvas=canvas, seed=seed))
            state, _ = trainer.train_step(state, small)
        assert trainer.train_step._cache_size() == canvases
