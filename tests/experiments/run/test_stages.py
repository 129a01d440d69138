"""Runs in stages: their order and schedules, the optimizer at a boundary, stopped and resumed, refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipelines.config import SourceConfig
from data_pipelines.errors import DataError
from experiments.pretrain import pretrain
from experiments.run.build import assemble
from experiments.run.canvases import canvas_of
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, StageConfig, TrainConfig
from experiments.run.metric_writer import read_metrics
from experiments.run.stages import make_plan, open_sources, stages_of
from experiments.run.validation import validate
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.pretraining import PretrainingConfig
from pixelbert_jax.training.checkpoint import Checkpoints
from pixelbert_jax.training.optimizer import ScheduleConfig, make_optimizer, make_schedule, restarted
from pixelbert_jax.training.sharding import batch_sharding
from tests.experiments.fine_tuning import (
    config_of,
    fine_tune,
    on_one_device,
    regions_config,
    stopped_at,
    with_whole_image,
)
from tests.multi_process.outcomes import assert_same_checkpoint, metrics
from tests.pixelbert_jax import test_optimizer
from tests.pixelbert_jax.helpers import assert_trees_equal, named

pytestmark = pytest.mark.usefixtures("compiled_once")

FIRST, STEPS = 3, 7  # the boundary, and the length of the run
SCHEDULES = (
    ScheduleConfig(kind="linear", warmup_steps=1, warmup_start=0.5, final=0.2),
    ScheduleConfig(kind="constant", warmup_steps=3, warmup_start=0.1),
)


def staged(config: RunConfig, *stages: StageConfig) -> RunConfig:
    """The config with stages instead of its data and length."""
    data, train = dataclasses.replace(config.data, train=()), dataclasses.replace(config.train, steps=0)
    return dataclasses.replace(config, data=data, train=train, stages=stages)


@pytest.fixture(scope="module")
def config(region_data) -> RunConfig:
    """Three steps on two splits, then four on two others; the model reads a feature of the whole image too."""
    first = StageConfig((SourceConfig("shapes", "train+validation"),), steps=FIRST, schedule=SCHEDULES[0])
    second = (SourceConfig("shapes", "test"), SourceConfig("shapes", weight=0.5))
    config = with_whole_image(regions_config(region_data))
    config = staged(config, first, StageConfig(second, steps=STEPS - FIRST, schedule=SCHEDULES[1]))
    return dataclasses.replace(config, evaluation=EvaluationConfig(every=0))


def saved_every(config: RunConfig, steps: int) -> RunConfig:
    return dataclasses.replace(config, checkpoint=CheckpointConfig(every=steps, keep_last=10))


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory, programs):
    """A run with a checkpoint of every step."""
    workdir = tmp_path_factory.mktemp("staged") / "run"
    fine_tune(saved_every(config, 1), workdir)
    return workdir


# Plans and schedules.


def plan_of(config):
    return make_plan(config, [open_sources(config.data, stage.train) for stage in stages_of(config)])


def rows_of(batch):
    return list(zip(batch.source_B, batch.record_B, batch.pass_B, batch.visit_B, strict=True))


def test_one_plan_after_the_other(config, capsys):
    """The first stage as a run of its own; the second over its own sources, which count from there on."""
    plan, _ = plan_of(config)
    assert (len(plan), plan.boundaries) == (STEPS, (FIRST,))
    data = dataclasses.replace(config.data, train=config.stages[0].train)
    alone, _ = plan_of(dataclasses.replace(config, stages=(), data=data, train=TrainConfig(steps=FIRST)))
    assert alone.boundaries == ()
    for step in range(FIRST):
        assert rows_of(plan[step]) == rows_of(alone[step])
    sources = np.concatenate([plan[step].source_B for step in range(FIRST, STEPS)])
    assert set(sources) == {2, 3} and 0.2 < (sources == 2).mean() < 0.6
    printed = capsys.readouterr().out
    assert "stage 1: 53 images, 13.2 steps per epoch, 3 steps; 8 regions per image" in printed
    assert "stage 2: 52 images, 8.0 steps per epoch, 4 steps; 8 regions per image" in printed
    assert "\n53 images, 13.2 steps per epoch, 3 steps" in printed


def test_the_same_data_comes_in_another_order_in_each_stage(config):
    stage = dataclasses.replace(config.stages[0], steps=2)
    twice = dataclasses.replace(config, stages=(stage, stage, stage))
    plan, _ = plan_of(twice)
    orders = [[record for step in (first, first + 1) for record in plan[step].record_B] for first in (0, 2, 4)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    other, _ = plan_of(dataclasses.replace(twice, seed=1))
    again, _ = plan_of(twice)
    for step in range(6):
        assert rows_of(plan[step]) == rows_of(again[step]) != rows_of(other[step])


def test_stages_of_epochs(config):
    """Each has as many steps as its own data needs, and its schedule counts its own epochs."""
    schedule = ScheduleConfig(kind="step", decay_at=(0.5,), warmup_steps=0)
    stages = tuple(dataclasses.replace(stage, steps=0, epochs=1.0, schedule=schedule) for stage in config.stages)
    plan, factor = plan_of(dataclasses.replace(config, stages=stages))
    assert (len(plan), plan.boundaries) == (21, (13,))
    factors = [float(factor(jnp.array(step))) for step in range(21)]
    assert factors == pytest.approx([1.0] * 7 + [0.1] * 6 + [1.0] * 4 + [0.1] * 4)
    short = dataclasses.replace(config, stages=(config.stages[0], dataclasses.replace(stages[1], epochs=0.1)))
    with pytest.raises(ConfigError, match=r"stages\.1\.epochs=0\.1 is less than one step: an epoch has 8\.00 steps"):
        plan_of(short)


FACTORS = [0.5, 1.0, 0.6, 0.1, 0.4, 0.7, 1.0]


def test_each_schedule_counts_from_the_first_step_of_its_stage(config, undisturbed):
    """In the plan and in the run; each is what it would be in a run of its own."""
    _, factor = plan_of(config)
    assert [float(factor(jnp.array(step))) for step in range(STEPS)] == pytest.approx(FACTORS)
    assert [r["learning_rate_factor"] for r in read_metrics(undisturbed / "metrics.jsonl")] == pytest.approx(FACTORS)
    first, second = (make_schedule(s, n, 1) for s, n in zip(SCHEDULES, (FIRST, STEPS - FIRST), strict=True))
    alone = [*map(first, map(jnp.array, range(FIRST))), *map(second, map(jnp.array, range(STEPS - FIRST)))]
    assert [float(value) for value in alone] == pytest.approx(FACTORS)


# The boundary.


def test_moments_start_anew_and_the_schedule_goes_on():
    """Two steps of both optimizers, then a step after the restart by hand: no momentum, no memory, the third factor."""
    config, gradients = test_optimizer.config(), [test_optimizer.tree(seed) for seed in (1, 2, 3)]
    optimizer = make_optimizer(config, test_optimizer.BACKBONE, lambda step: jnp.array([1.0, 0.5, 0.25, 9.0])[step])
    params = jax.tree.map(jnp.array, test_optimizer.tree(0))
    state = optimizer.init(params)
    for gradient in gradients[:2]:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    updates, _ = optimizer.update(gradients[2], restarted(state, optimizer.init(params)), params)
    frozen, sgd, adam = test_optimizer.three(updates)
    _, w, v = map(np.asarray, test_optimizer.three(params))
    _, g, h = test_optimizer.three(gradients[2])
    assert not frozen.any()
    np.testing.assert_allclose(sgd, -0.1 * 0.25 * (g + 0.05 * w), rtol=1e-5)
    np.testing.assert_allclose(adam, -0.01 * 0.25 * (h / (np.abs(h) + 1e-4) + 0.3 * v), rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def opened(config, undisturbed):
    """The undisturbed run, assembled again, and its saved states by step."""
    checkpoints = Checkpoints(undisturbed / "checkpoints", keep_last=10)
    with on_one_device():
        run = assemble(saved_every(config, 1), undisturbed, checkpoints)
    yield run, lambda step: checkpoints.restore(step, run.trainer.abstract_state)
    checkpoints.close()


def adam_of(state):
    """Adam's state, on the host."""
    is_adam = lambda node: isinstance(node, optax.ScaleByAdamState)  # noqa: E731
    (found,) = filter(is_adam, jax.tree.leaves(state.opt_state, is_leaf=is_adam))
    return jax.device_get(found)


def test_a_stage_begins_with_the_weights_and_fresh_moments(opened):
    """The run's step over the boundary is a step after a restart, and no other."""
    run, saved = opened
    batch = jax.device_put(run.train.make_batch(run.train.plan[FIRST]), batch_sharding(run.trainer.mesh))
    assert run.train.restarts == (FIRST,)
    before, fresh = jax.device_get(saved(FIRST)), jax.device_get(run.trainer.restart(saved(FIRST)))
    for field in ("step", "params", "rest", "ema", "skipped", "skipped_in_a_row"):
        assert_trees_equal(getattr(fresh, field), getattr(before, field))
    assert adam_of(before).count == FIRST and adam_of(fresh).count == 0
    assert all(array.any() for array in jax.tree.leaves(adam_of(before).nu)[:3])
    assert not any(array.any() for array in jax.tree.leaves((adam_of(fresh).mu, adam_of(fresh).nu)))
    after, _ = run.trainer.train_step(run.trainer.restart(saved(FIRST)), batch)
    assert_trees_equal(jax.device_get(after), jax.device_get(saved(FIRST + 1)))
    assert [int(adam_of(saved(step)).count) for step in range(1, STEPS + 1)] == [1, 2, 3, 1, 2, 3, 4]
    without, _ = run.trainer.train_step(saved(FIRST), batch)
    moved = [(a != b).any() for a, b in zip(named(without.params).values(), named(after.params).values(), strict=True)]
    assert sum(moved) > 20


def test_updates_have_the_rate_of_their_stage(opened, config):
    """Adam's first step is the rate times the sign, so the largest change gives the factor."""
    _, saved = opened
    old, new = (named(saved(step).params) for step in (FIRST, FIRST + 1))
    rate, decay = (getattr(config.optimizer.transformer, name) for name in ("learning_rate", "weight_decay"))
    rate *= FACTORS[FIRST]
    changes = [np.abs(new[name] - old[name] * (1 - rate * decay)).max() for name in old]
    assert max(changes) == pytest.approx(rate, rel=1e-2)


# Stopped and resumed.


@pytest.mark.parametrize(
    ("every", "stopped", "resumed"),
    [(FIRST, FIRST + 1, FIRST), (5, 6, 5)],
    ids=["at the boundary", "in the second stage"],
)
def test_a_stopped_run_goes_on_to_the_bit(config, undisturbed, tmp_path, capsys, every, stopped, resumed):
    workdir = tmp_path / "run"
    with stopped_at(stopped):
        fine_tune(saved_every(config, every), workdir)
    assert [r["step"] for r in read_metrics(workdir / "metrics.jsonl")] == list(range(1, stopped))
    fine_tune(saved_every(config, every), workdir)
    assert f"resuming {workdir} at step {resumed}\n" in capsys.readouterr().out
    assert metrics(workdir) == metrics(undisturbed)
    assert_same_checkpoint(workdir, undisturbed, STEPS)


def changed(config, number, **fields):
    """The config with other fields of one stage."""
    stages = [dataclasses.replace(s, **fields) if i == number else s for i, s in enumerate(config.stages)]
    return dataclasses.replace(config, stages=tuple(stages))


def test_changed_stages_are_refused_on_resume(config, undisturbed, monkeypatch):
    monkeypatch.setattr("experiments.run.build.make_trainer", lambda *_, **__: pytest.fail("built a model"))
    cases = [
        (changed(config, 1, steps=5), r"stages\.1\.steps: 4 in the checkpoint, 5 now"),
        (
            changed(config, 0, steps=0, epochs=1.0),
            r"stages\.0\.epochs: 0\.0 in the checkpoint, 1\.0 now; stages\.0\.steps",
        ),
        (
            changed(config, 1, train=config.stages[1].train[:1]),
            r"stages\.1\.train\.1\.name: 'shapes' .*'\(absent\)' now",
        ),
        (
            changed(config, 1, schedule=SCHEDULES[0]),
            r"stages\.1\.schedule\.kind: 'constant' in the checkpoint, 'linear' now",
        ),
        (
            dataclasses.replace(config, stages=config.stages[:1]),
            r"stages\.1\.epochs: 0\.0 in the checkpoint, '\(absent\)' now",
        ),
        (dataclasses.replace(config, stages=config.stages + config.stages[:1]), r"stages\.2\.epochs: '\(absent\)'"),
        (
            dataclasses.replace(
                config,
                stages=(),
                data=dataclasses.replace(config.data, train=config.stages[0].train),
                train=TrainConfig(steps=7),
            ),
            r"data\.train",
        ),
    ]
    for other, message in cases:
        with pytest.raises(ConfigError, match=f"holds a run of another configuration: .*{message}") as error:
            pretrain(other, undisturbed)
        assert "\n" not in str(error.value)


def test_bad_stages_are_refused(config):
    with_data = dataclasses.replace(config, data=dataclasses.replace(config.data, train=(SourceConfig("shapes"),)))
    both = r"stages is set, and data\.train, train\.epochs or train\.steps too; leave those empty"
    cases = [
        (dataclasses.replace(config, train=TrainConfig(steps=5)), both),
        (dataclasses.replace(config, train=TrainConfig(epochs=5)), both),
        (with_data, both),
        (changed(config, 1, train=()), r"stages\.1\.train names no data set; give at least one source"),
        (
            changed(config, 0, epochs=2.0),
            r"stages\.0\.epochs=2\.0 and stages\.0\.steps=3: set exactly one of them above 0",
        ),
        (
            changed(config, 1, steps=0),
            r"stages\.1\.epochs=0\.0 and stages\.1\.steps=0: set exactly one of them above 0",
        ),
        (dataclasses.replace(config, stages=(), train=TrainConfig(steps=5)), r"data\.train names no data set"),
        (dataclasses.replace(with_data, stages=()), r"train\.epochs=0\.0 and train\.steps=0: set exactly one"),
        (
            changed(config, 1, train=(SourceConfig("shapes", weight=0.0),)),
            r"The weight 0\.0 of 'shapes' must be positive",
        ),
    ]
    validate(config)
    for bad, message in cases:
        with pytest.raises((ConfigError, DataError), match=message) as error:
            validate(bad)
        assert "\n" not in str(error.value)


# Stages of images.


def test_pixelbert_in_stages(own_data, small_run, tmp_path):
    """The images of every stage lie on their canvases, and the run goes through both stages."""
    config = config_of(PretrainingConfig(sampled_pixels=4), own_data, small_run, "vqa", canvases=((40, 40), (48, 48)))
    config = dataclasses.replace(config, evaluation=EvaluationConfig(every=0))
    first = StageConfig((SourceConfig("vqa", "train", weight=2.0),), steps=3, schedule=SCHEDULES[1])
    second = StageConfig((SourceConfig("image_pairs", "val", weight=4.0),), steps=1, schedule=SCHEDULES[1])
    config = staged(config, first, second)
    plan, _ = plan_of(config)
    for step in range(4):
        stage = config.stages[step // 3]
        ((_, records),) = open_sources(config.data, stage.train)
        assert set(plan[step].source_B) == {step // 3}
        assert (canvas_of(records, config.data)[plan[step].record_B] <= plan[step].canvas).all()
    assert {plan[step].canvas for step in range(4)} == {0, 1}
    on_one = dataclasses.replace(config, data=dataclasses.replace(config.data, canvases=((48, 48),)))  # one program
    fine_tune(on_one, tmp_path / "run")
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [r["learning_rate_factor"] for r in records] == pytest.approx([0.1, 0.4, 0.7, 0.1])
    assert all(np.isfinite(r["loss"]) for r in records)
