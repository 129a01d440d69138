"""The search for changes to the config that make a step fit a chip's memory, one on top of the other."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax

from data_pipelines.images.resize import Canvas
from experiments.preflighting.program import Compiled, TooLarge, compile_step, mesh_of
from experiments.run.config import RunConfig
from experiments.run.config_flags import override
from pixelbert_jax.errors import ConfigError

_FIRST_SHARE = 8  # chips that the parameters are split over first; all of them next

Overrides = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A changed config and the result of compiling it."""

    overrides: Overrides  # by dotted name, as on the command line
    result: Compiled | TooLarge

    @property
    def flags(self) -> str:
        return " ".join(f"--config.{name}={value}" for name, value in self.overrides.items())


def changes(config: RunConfig, devices: Sequence[jax.Device]) -> Iterator[Overrides]:
    """Overrides that make a step smaller, the cheapest first; each keeps those before it.

    They are: recomputing in the backward pass; parameters split over more chips; fewer pairs per chip at a time.
    """
    kept: Overrides = {}
    remat = {}
    if config.model.encoder.remat != "full":
        remat["model.encoder.remat"] = "full"
    if not getattr(getattr(config.model, "backbone", None), "remat", True):
        remat["model.backbone.remat"] = "true"
    if remat:
        kept = remat
        yield dict(kept)
    for share in _shares(config, devices):
        kept = kept | {"mesh.data": "-1", "mesh.fsdp": str(share)}
        yield dict(kept)
    rows = config.data.batch_images // len(devices)
    turns = config.train.accumulation * 2
    while turns <= rows:
        if rows % turns == 0:
            kept = kept | {"train.accumulation": str(turns)}
            yield dict(kept)
        turns *= 2


def search(
    config: RunConfig,
    devices: Sequence[jax.Device],
    canvas: Canvas,
    fits: Callable[[Compiled | TooLarge], bool],
    limit: int,
    attempted: Callable[[Attempt], None] = lambda attempt: None,
    compile_: Callable[..., Compiled | TooLarge] = compile_step,
) -> Attempt | None:
    """Compile one change after the other until one fits; None: none of the first `limit` does.

    Args:
      config: complete; does not fit as it is.
      devices: the devices of the slice.
      canvas: the canvas to compile for.
      fits: whether a compiled step fits.
      limit: most compilations.
      attempted: called with each attempt.
      compile_: replaces the compiler in tests.
    """
    for number, overrides in enumerate(changes(config, devices)):
        if number == limit:
            return None
        changed = override(config, overrides)
        attempt = Attempt(overrides, compile_(changed, mesh_of(changed, devices), canvas))
        attempted(attempt)
        if fits(attempt.result):
            return attempt
    return None


def _shares(config: RunConfig, devices: Sequence[jax.Device]) -> list[int]:
    """Sizes of mesh.fsdp to try: a few chips, then all."""
    larger = [size for size in range(config.mesh.fsdp + 1, len(devices) + 1) if len(devices) % size == 0]
    possible = [size for size in larger if _accepted(config, devices, size)]
    few = [size for size in possible if size >= min(_FIRST_SHARE, len(devices))][:1]
    return sorted({*few, *possible[-1:]})


def _accepted(config: RunConfig, devices: Sequence[jax.Device], size: int) -> bool:
    try:
        mesh_of(dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, data=-1, fsdp=size)), devices)
    except ConfigError:
        return False
    return True
