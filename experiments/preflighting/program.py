"""A config's own train step, compiled for devices that need not exist on this machine."""

import dataclasses
import re
import time
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from data_pipelines.images.resize import Canvas
from experiments.preflighting import hlo, work
from experiments.preflighting.chips import Slice
from experiments.preflighting.collectives import transfers
from experiments.preflighting.estimate import Counts
from experiments.run.build import host_rows, trainer_of
from experiments.run.config import RunConfig, evaluation_rows
from experiments.tasks.registry import recipe_of
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.registry import TASKS, task_name
from pixelbert_jax.tasks.task import Task
from pixelbert_jax.training.optimizer import make_schedule
from pixelbert_jax.training.sharding import batch_sharding, make_mesh
from pixelbert_jax.training.step import Trainer

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NEEDED = re.compile(r"Used ([\d.]+)([KMGT]?) of|temporaries \(([\d.]+)([KMGT]?)\) exceeds")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip's main memory that a step takes."""

    arguments: int  # state and batch
    outputs: int
    aliased: int  # outputs that reuse the memory of donated arguments
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.program


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The compiled step for one canvas."""

    canvas: Canvas
    seconds: float  # of compiling
    memory: Memory
    counts: Counts
    unknown_loops: tuple[str, ...]  # loops whose number of iterations is unknown; counted as one


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """The compiler could not lay the step out in a chip's memory."""

    canvas: Canvas
    seconds: float
    needed: float | None  # bytes, if the compiler reports them; of the temporaries alone if those are too many


def devices_of(slice_: Slice) -> list[jax.Device]:
    """The devices of a slice, which only a compiler can use.

    Raises:
      ConfigError: libtpu does not know the slice.
    """
    from jax.experimental import topologies

    options = {"chip_config_name": "megacore"} if slice_.chip.name == "v4" else {}  # one device per chip
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=slice_.name, **options).devices)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--topology={slice_.name}: libtpu does not know it ({reason}); take another.") from None


def complete(config: RunConfig) -> RunConfig:
    """The config with a vocabulary size, if it takes the size from a vocabulary.

    Raises:
      ConfigError: the number of answers would be taken from data.
    """
    recipe_of(config).check_complete(config)
    size = config.model.text.vocabulary_size or config.data.vocabulary_size
    text = dataclasses.replace(config.model.text, vocabulary_size=size)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, text=text))


def mesh_of(config: RunConfig, devices: Sequence[jax.Device]) -> Mesh:
    """The run's mesh over `devices`.

    Raises:
      ConfigError: the mesh, or the rows of a batch, do not fit the devices.
    """
    count, data = len(devices), config.data
    for name, rows in (("data.batch_images", data.batch_images), ("evaluation.batch_images", evaluation_rows(config))):
        if rows % count:
            raise ConfigError(f"{name}={rows} is not a multiple of the {count} chips; change it, or take other chips.")
    if data.batch_images % (count * config.train.accumulation):
        raise ConfigError(
            f"train.accumulation={config.train.accumulation} does not divide the {data.batch_images // count} rows per "
            "chip that data.batch_images gives; change one of the two."
        )
    try:
        return make_mesh(config.mesh, list(devices))
    except NotImplementedError:
        sizes = [size for size in range(1, count + 1) if count % size == 0 and _can_be_laid(config, devices, size)]
        raise ConfigError(
            f"mesh.fsdp={config.mesh.fsdp}: JAX cannot lay it along the axes of this slice; choose one of "
            f"{', '.join(map(str, sizes))}, or another slice."
        ) from None


def make_step(config: RunConfig, mesh: Mesh) -> tuple[Task, Trainer]:
    """The task and trainer that a run of the (complete) config has."""
    task = TASKS[task_name(config.task)][1](config.model, config.task)
    # The length of the schedule is a constant of the program. It changes neither its size nor its speed.
    schedule = make_schedule(config.optimizer.schedule, 1000, 100)
    return task, trainer_of(config, task, schedule, mesh)


def abstract_batch(config: RunConfig, task: Task, mesh: Mesh, canvas: Canvas) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a training batch on a canvas, as the task's fields and the config state them."""
    data = config.data
    sides = {
        "B": data.batch_images,
        "K": data.texts_per_image,
        "T": data.max_text_length,
        "M": data.mask_slots,
        "R": data.regions,
        "H": canvas[0],
        "W": canvas[1],
    }
    rows = batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(
            tuple(side if isinstance(side, int) else sides[side] for side in field.shape), field.dtype, sharding=rows
        )
        for name, field in task.fields().items()
    }


def refusal(config: RunConfig, trainer: Trainer) -> str | None:
    """The reason why a run would not start on these devices although its step compiles; None: it would start."""
    try:
        host_rows(trainer, config.data.batch_images)
        host_rows(trainer, evaluation_rows(config))
    except ConfigError as error:
        return str(error)
    return None


def compile_step(config: RunConfig, mesh: Mesh, canvas: Canvas) -> Compiled | TooLarge:
    """Compile the step of a complete config for the mesh's devices, and count what it does."""
    task, trainer = make_step(config, mesh)
    begun = time.monotonic()
    platform = mesh.devices.flat[0].platform
    batch = abstract_batch(config, task, mesh, canvas)
    lowered = trainer.train_step.trace(trainer.abstract_state, batch).lower(lowering_platforms=(platform,))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return TooLarge(canvas, time.monotonic() - begun, needed_bytes(str(error)))
    seconds = time.monotonic() - begun
    program = hlo.parse(compiled.as_text())
    requested = work.matrix_operations(hlo.parse(lowered.as_text(dialect="hlo"))) / mesh.devices.size
    counts = Counts(
        # A product that the compiler replaces by a library call is visible only in the program before compilation.
        operations=max(requested, work.matrix_operations(program)),
        memory_bytes=work.memory_bytes(program),
        cycles=work.compiler_cycles(program),
        transfers=tuple(transfers(program, mesh.devices.size)),
    )
    return Compiled(canvas, seconds, memory_of(compiled), counts, tuple(program.unknown_loops))


def memory_of(compiled: jax.stages.Compiled) -> Memory:
    """What a compiled program takes of one device's memory."""
    found = compiled.memory_analysis()
    return Memory(
        arguments=found.argument_size_in_bytes,
        outputs=found.output_size_in_bytes,
        aliased=found.alias_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        program=found.generated_code_size_in_bytes,
    )


def needed_bytes(message: str) -> float | None:
    """The memory in bytes that a compiler's error names; None: it names none."""
    found = _NEEDED.search(message)
    if not found:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return float(number) * _UNITS[unit]


def _can_be_laid(config: RunConfig, devices: Sequence[jax.Device], fsdp: int) -> bool:
    try:
        make_mesh(dataclasses.replace(config.mesh, data=-1, fsdp=fsdp), list(devices))
    except (NotImplementedError, ConfigError):
        return False
    return True
