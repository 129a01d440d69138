"""Operations of a training step: the same however they are run, without a second compilation."""

import dataclasses
import math
from types import SimpleNamespace

import jax
import jax.monitoring
import pytest

from experiments.preflighting import hlo, work
from experiments.run.utilization import Utilization, measured_peak, peak_memory, step_operations
from pixelbert_jax.tasks.pretraining import PretrainingConfig
from pixelbert_jax.training.sharding import MeshConfig, batch_sharding
from tests.pixelbert_jax.helpers import make_batch, make_small_trainer, small_model


def counted(model=None, **more):
    """The trainer, a batch on its devices, and our count for one device."""
    trainer = make_small_trainer(model, **more)
    batch = jax.device_put(make_batch(), batch_sharding(trainer.mesh))
    return trainer, batch, step_operations(trainer, batch)


def xla_count(trainer, batch):
    """JAX's own count, of all operations, which takes each loop's body once."""
    return trainer.train_step.lower(trainer.abstract_state, batch).cost_analysis()["flops"]


@pytest.fixture(scope="module")
def unrolled():
    return counted(small_model(encoder={"layers": 4, "scan_unroll": 4}))


def test_without_loops_it_is_most_of_what_xla_counts(unrolled):
    trainer, batch, operations = unrolled
    assert 0.8 < operations / xla_count(trainer, batch) < 1


def test_layers_in_a_loop_count_as_often_as_they_run(unrolled):
    trainer, batch, operations = counted(small_model(encoder={"layers": 4, "scan_unroll": 1}))
    assert operations == unrolled[2]
    assert xla_count(trainer, batch) < 0.8 * xla_count(*unrolled[:2])  # the error that is corrected


def test_recomputation_does_not_count(unrolled):
    remat = small_model(backbone={"remat": True}, encoder={"layers": 4, "scan_unroll": 1, "remat": "full"})
    trainer, batch, operations = counted(remat)
    assert operations == unrolled[2]
    lowered = trainer.train_step.lower(trainer.abstract_state, batch)
    program = hlo.parse(lowered.as_text(dialect="hlo", debug_info=True))
    assert work.matrix_operations(program) > 1.2 * operations


def test_micro_batches_and_devices_share_the_work():
    operations = counted()[2]
    assert counted(accumulation=2)[2] == operations
    split = counted(mesh=MeshConfig(data=1, fsdp=4, min_split_size=64), devices=4)[2]
    assert split == pytest.approx(operations / 4, rel=0.01)


def test_counting_compiles_nothing_and_each_canvas_has_its_own_count(monkeypatch):
    trainer = make_small_trainer(task=PretrainingConfig(sampled_pixels=0))
    utilization, state = Utilization(trainer, "float32"), trainer.init()
    begun, counts = [], []

    def listen(event, *_, **__):
        begun.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for canvas in ((32, 48), (64, 48)):
            batch = jax.device_put(make_batch(rows=2, canvas=canvas), batch_sharding(trainer.mesh))
            state, _ = trainer.train_step(state, batch)
            assert any("backend_compile" in event for event in begun)
            begun.clear()
            counts += [utilization.operations(batch), utilization.operations(batch)]
            assert [event for event in begun if "compile" in event or "jaxpr" in event] == []
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert counts[0] == counts[1] < counts[2] == counts[3]
    monkeypatch.setattr(hlo, "parse", lambda text: pytest.fail("read the program again"))
    assert utilization.operations(batch) == counts[2]


def stand_in(**device):
    return SimpleNamespace(mesh=SimpleNamespace(local_devices=[SimpleNamespace(**device)]))


def test_peak_of_a_known_chip_and_of_another():
    known = Utilization(stand_in(device_kind="TPU v5p"), "bfloat16")
    assert known.peak == 459e12 and "459 TFLOP/s per device (the peak of v5p)" in known.description
    assert known.rates(459e10, 50.0) == {"rate/tflops_per_device": 229.5, "rate/model_flops_utilization": 0.5}
    (device,) = jax.devices()[:1]
    other = Utilization(SimpleNamespace(mesh=SimpleNamespace(local_devices=[device])), "float32")
    assert other.peak == measured_peak(device, "float32") > 1e7
    assert "as measured, a float32 matrix product" in other.description


def test_a_program_that_cannot_be_read_does_not_end_the_run(capsys, monkeypatch):
    trainer = make_small_trainer()
    batch = jax.device_put(make_batch(), batch_sharding(trainer.mesh))
    wrapped = dataclasses.replace(trainer, train_step=lambda state, batch: trainer.train_step(state, batch))
    assert math.isnan(Utilization(wrapped, "float32").operations(batch))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(hlo, "parse", lambda text: 1 / 0)
    assert math.isnan(Utilization(trainer, "float32").operations(batch))
    assert "operations of a step cannot be counted: ZeroDivisionError" in capsys.readouterr().err


def test_peak_memory_only_where_jax_reports_it():
    assert peak_memory(stand_in(memory_stats=lambda: {"peak_bytes_in_use": 3 * 2**30})) == {"rate/peak_memory_gib": 3}
    assert peak_memory(stand_in(memory_stats=lambda: None)) == {}
