"""How arrays lie on the devices: a mesh (data, fsdp) and one rule that depends on shapes only."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pixelbert_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices in a grid; the rows of a batch are split over both axes, parameters over `fsdp` alone."""

    data: int = -1  # -1: all devices that fsdp leaves
    fsdp: int = 1  # 1: parameters are replicated
    min_split_size: int = 2**18  # arrays with fewer elements are replicated

    def __post_init__(self) -> None:
        if self.fsdp < 1 or self.data == 0 or self.data < -1:
            raise ConfigError(
                f"mesh.data={self.data}, mesh.fsdp={self.fsdp}: sizes must be positive, or data=-1 for the rest."
            )


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (all of them if None).

    Raises:
      ConfigError: the sizes do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    data = len(devices) // config.fsdp if config.data == -1 else config.data
    if data * config.fsdp != len(devices):
        raise ConfigError(
            f"mesh.data={config.data} x mesh.fsdp={config.fsdp} does not fit {len(devices)} device(s); "
            "choose sizes whose product is that number (data=-1 takes the rest)."
        )
    axes, kinds = ("data", "fsdp"), (AxisType.Auto,) * 2
    mesh = jax.make_mesh((data, config.fsdp), axes, kinds, devices=devices)
    if are_together([device.process_index for device in mesh.devices.flat]):
        return mesh
    # A process reads neighbouring rows of a batch, so its devices have to be neighbours too.
    by_process = sorted(mesh.devices.flat, key=lambda device: device.process_index)
    return Mesh(np.array(by_process).reshape(mesh.devices.shape), axes, kinds)


def are_together(owners: Sequence[int]) -> bool:
    """Whether the positions of each owner are consecutive."""
    changes = sum(one != other for one, other in itertools.pairwise(owners))
    return changes == len(set(owners)) - 1


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def state_shardings(mesh: Mesh, config: MeshConfig, abstract_state: Any) -> Any:
    """A sharding for each array of a state: split along its longest axis that `fsdp` divides, if it is large."""

    def rule(array: jax.ShapeDtypeStruct) -> NamedSharding:
        if config.fsdp > 1 and array.size >= config.min_split_size:
            axes = sorted(range(array.ndim), key=lambda axis: -array.shape[axis])
            for axis in axes:
                if array.shape[axis] % config.fsdp == 0:
                    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))
        return replicated(mesh)

    return jax.tree.map(rule, abstract_state)
