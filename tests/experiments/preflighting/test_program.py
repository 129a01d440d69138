"""The step of a config: shapes, memory, what does not fit the devices."""

import dataclasses
from pathlib import Path

import jax
import pytest

from experiments.preflighting.chips import GIB
from experiments.preflighting.collectives import by_kind
from experiments.preflighting.program import (
    abstract_batch,
    compile_step,
    complete,
    make_step,
    mesh_of,
    needed_bytes,
    refusal,
)
from experiments.run.build import assemble
from experiments.run.config_flags import load_config, override
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.registry import TASKS, task_name
from pixelbert_jax.tasks.vqa import VqaConfig
from pixelbert_jax.training.checkpoint import Checkpoints
from pixelbert_jax.training.sharding import make_mesh
from tests.experiments.tiny_config import get_config

CONFIGS = Path(__file__).parents[3] / "experiments/configs"


@pytest.fixture(scope="module")
def config():
    return complete(override(get_config(), {"model.backbone.depths": "[1, 1]"}))


@pytest.fixture(scope="module")
def compiled(config):
    return compile_step(config, mesh_of(config, jax.devices()), (48, 48))


def test_batches_have_the_shapes_of_the_pipeline(config, data_dir, tmp_path):
    """Names, types and sizes, without a data set."""
    real = override(get_config(), {"data.data_dir": str(data_dir)})
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    run = assemble(real, tmp_path, checkpoints)
    checkpoints.close()
    batch = run.train.make_batch(run.train.plan[0])
    mesh = mesh_of(config, jax.devices())
    shapes = abstract_batch(config, make_step(config, mesh)[0], mesh, (48, 48))
    assert {name: (s.shape, s.dtype) for name, s in shapes.items()} == {n: (a.shape, a.dtype) for n, a in batch.items()}


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("[a-z]*.py")), ids=lambda file: file.stem)
def test_shapes_of_every_config_are_known(file):
    given = load_config(str(file), {})
    answers = {"task.answers": "3129"} if isinstance(given.task, VqaConfig) else {}
    config = complete(override(given, answers))
    mesh = make_mesh(config.mesh)
    task = TASKS[task_name(config.task)][1](config.model, config.task)
    shapes = abstract_batch(config, task, mesh, config.data.all_canvases[0])
    assert {shape.shape[0] for shape in shapes.values()} == {config.data.batch_images}
    assert all(min(shape.shape) > 0 for shape in shapes.values())


def test_memory_of_the_step_is_that_of_its_state_and_batch(config, compiled):
    mesh = mesh_of(config, jax.devices())
    task, trainer = make_step(config, mesh)
    state = jax.tree.leaves(trainer.abstract_state)
    batch = abstract_batch(config, task, mesh, (48, 48)).values()
    expected = sum(a.size * a.dtype.itemsize for a in state) + sum(a.size * a.dtype.itemsize for a in batch) // 8
    assert compiled.memory.arguments == pytest.approx(expected, rel=0.01)
    assert compiled.memory.aliased == pytest.approx(sum(a.size * a.dtype.itemsize for a in state), rel=0.01)
    assert compiled.memory.temporaries > 0 and compiled.unknown_loops == ()


def test_the_step_sums_each_gradient_once(config, compiled):
    """But that of the token embeddings twice, once for each of its uses."""
    trainer = make_step(config, mesh_of(config, jax.devices()))[1]
    parameters = sum(array.size for array in jax.tree.leaves(trainer.abstract_state.params))
    reduced = by_kind(list(compiled.counts.transfers))["all-reduce"]["bytes"]
    tokens = config.model.text.vocabulary_size * config.model.encoder.width
    assert reduced == pytest.approx(4 * (parameters + tokens), rel=0.001)
    assert {transfer.group for transfer in compiled.counts.transfers} == {8}


def test_split_parameters_take_less_and_are_gathered(config, compiled):
    split = override(config, {"mesh.fsdp": "8", "mesh.min_split_size": "256"})
    found = compile_step(split, mesh_of(split, jax.devices()), (48, 48))
    assert found.memory.arguments < 0.2 * compiled.memory.arguments
    moved, summed = (by_kind(list(step.counts.transfers)) for step in (found, compiled))
    parameters = summed["all-reduce"]["bytes"]
    assert 0 < moved["all-gather"]["bytes"] < 1.1 * parameters  # and no activations
    assert set(moved) <= {"all-gather", "all-reduce", "reduce-scatter"}


def test_micro_batches_do_the_same_work(config, compiled):
    """Two turns of half the rows; the compiler's own count has one of them."""
    turns = override(config, {"data.batch_images": "16", "train.accumulation": "2"})
    found = compile_step(turns, mesh_of(turns, jax.devices()), (48, 48))
    assert found.counts.operations == pytest.approx(2 * compiled.counts.operations, rel=0.01)


def test_misfits_of_rows_and_devices(config):
    devices = jax.devices()
    with pytest.raises(ConfigError, match=r"data.batch_images=12 is not a multiple of the 8 chips"):
        mesh_of(override(config, {"data.batch_images": "12"}), devices)
    with pytest.raises(ConfigError, match=r"evaluation.batch_images=12 is not a multiple of the 8 chips"):
        mesh_of(override(config, {"evaluation.batch_images": "12"}), devices)
    with pytest.raises(ConfigError, match="accumulation=2 does not divide the 1 rows per chip"):
        mesh_of(override(config, {"train.accumulation": "2"}), devices)
    with pytest.raises(ConfigError, match=r"mesh.fsdp=3 does not fit 8 device"):
        mesh_of(override(config, {"mesh.fsdp": "3"}), devices)


def test_a_mesh_that_jax_cannot_lay_is_refused_with_those_it_can(config, monkeypatch):
    def laid(mesh_config, devices):
        if mesh_config.fsdp in (2, 4):
            raise NotImplementedError("Failed to find assignment")
        return make_mesh(mesh_config, devices)

    monkeypatch.setattr("experiments.preflighting.program.make_mesh", laid)
    with pytest.raises(ConfigError, match=r"mesh.fsdp=4: JAX cannot .* choose one of 1, 8, or another slice"):
        mesh_of(override(config, {"mesh.fsdp": "4"}), jax.devices())


def test_what_the_run_would_refuse_is_found(config, monkeypatch):
    trainer = make_step(config, mesh_of(config, jax.devices()))[1]
    assert refusal(config, trainer) is None

    def refuse(trainer, rows):
        raise ConfigError(f"{rows} rows lie badly")

    monkeypatch.setattr("experiments.preflighting.program.host_rows", refuse)
    assert refusal(config, trainer) == "8 rows lie badly"


def test_numbers_that_come_from_data_are_filled_in_or_requested():
    config = get_config()
    assert config.model.text.vocabulary_size == 0
    assert complete(config).model.text.vocabulary_size == config.data.vocabulary_size == 30522
    assert complete(override(config, {"model.text.vocabulary_size": "99"})).model.text.vocabulary_size == 99
    with pytest.raises(ConfigError, match=r"--config\.task\.answers=3129"):
        complete(dataclasses.replace(config, task=VqaConfig()))


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        ("RESOURCE_EXHAUSTED: memory required for HLO temporaries (25.00G) exceeds available HBM (15.75G).", 25),
        ("Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm. Exceeded by 1.75G", 17.5),
        ("Used 512.00M of 256.00M hbm", 0.5),
        ("something else", None),
    ],
)
def test_memory_that_the_compiler_reports_as_needed(message, needed):
    assert needed_bytes(message) == (None if needed is None else needed * GIB)
