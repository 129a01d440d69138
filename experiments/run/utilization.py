"""Operations per second of the training step, and their share of what the devices can do (MFU)."""

import functools
import math
import time

import jax
import jax.numpy as jnp

from experiments.preflighting import hlo, work
from experiments.preflighting.chips import find_chip
from experiments.run.progress import warn
from pixelbert_jax.tasks.task import Batch
from pixelbert_jax.training.step import Trainer

_REPEATS = 5
_CPU_SIDE, _SIDE = 1024, 8192  # of the measured product


class Utilization:
    """Counts the operations of a training step, once for each shape of its batch."""

    def __init__(self, trainer: Trainer, dtype: str) -> None:
        """Find the peak of a device.

        Args:
          trainer: its `train_step` is counted.
          dtype: the model's; where the chip is not in preflight's table, the peak is that of a product of this type.
        """
        self._trainer, self._operations = trainer, {}
        device = trainer.mesh.local_devices[0]
        chip = find_chip(device.device_kind)
        self.peak = chip.peak if chip else measured_peak(device, dtype)
        origin = f"the peak of {chip.name}" if chip else f"as measured, a {dtype} matrix product"
        self.description = f"MFU is relative to {self.peak / 1e12:.3g} TFLOP/s per device ({origin})"

    def operations(self, batch: Batch) -> float:
        """Operations of a step per device, for a batch that `train_step` was called with: nothing is compiled here.

        NaN if the program cannot be read, or if another function took the place of the compiled one.
        """
        shapes = tuple((name, array.shape) for name, array in batch.items())
        if shapes not in self._operations:
            self._operations[shapes] = math.nan
            if hasattr(self._trainer.train_step, "lower"):
                try:
                    self._operations[shapes] = step_operations(self._trainer, batch)
                except Exception as error:  # a metric must not end a run
                    warn(f"the operations of a step cannot be counted: {type(error).__name__}: {error}")
        return self._operations[shapes]

    def rates(self, operations: float, steps_per_second: float) -> dict[str, float]:
        """The metrics of a step with so many operations per device."""
        rate = operations * steps_per_second
        return {"rate/tflops_per_device": rate / 1e12, "rate/model_flops_utilization": rate / self.peak}


def step_operations(trainer: Trainer, batch: Batch) -> float:
    """Operations of the step's matrix products and convolutions per device, without recomputation.

    They are counted in the program that the compiler gets. Compiled programs hide products in library calls, and JAX's
    cost analysis counts the body of a loop once.
    """
    like = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for name, x in batch.items()}
    lowered = trainer.train_step.lower(trainer.abstract_state, like)  # kept by JAX from the call
    program = hlo.parse(lowered.as_text(dialect="hlo", debug_info=True))
    return work.matrix_operations(program, recomputed=False) / trainer.mesh.devices.size


@functools.cache
def measured_peak(device: jax.Device, dtype: str) -> float:
    """Operations per second of a square matrix product on one device, the best of a few."""
    side = _CPU_SIDE if device.platform == "cpu" else _SIDE
    matrix = jax.device_put(jax.random.normal(jax.random.key(0), (side, side), dtype), device)
    product = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    seconds = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        seconds.append(time.perf_counter() - begun)
    return 2 * side**3 / min(seconds)


def peak_memory(trainer: Trainer) -> dict[str, float]:
    """The largest peak of the memory of this process's devices since it began; empty where JAX cannot tell (CPUs)."""
    stats = [device.memory_stats() or {} for device in trainer.mesh.local_devices]
    peaks = [of_device["peak_bytes_in_use"] for of_device in stats if "peak_bytes_in_use" in of_device]
    return {"rate/peak_memory_gib": max(peaks) / 2**30} if peaks else {}
