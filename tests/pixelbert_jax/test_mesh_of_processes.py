"""A mesh whose devices belong to several processes: those of each are neighbours, for the rows that it reads are."""

import dataclasses

import numpy as np
import pytest

from pixelbert_jax.training import sharding
from pixelbert_jax.training.sharding import MeshConfig, are_together, make_mesh


@dataclasses.dataclass(frozen=True)
class Device:
    id: int
    process_index: int


class FakeMesh:
    def __init__(self, devices, axes, axis_types):
        self.devices, self.axis_names = devices, axes


@pytest.mark.parametrize(
    ("owners", "together"),
    [([0, 0, 1, 1], True), ([1, 1, 0, 0], True), ([0, 1, 0, 1], False), ([0, 0, 1, 0], False), ([3], True)],
)
def test_devices_of_a_process_are_together_or_apart(owners, together):
    assert are_together(owners) == together


@pytest.mark.parametrize(
    ("owners", "order"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 4, 5, 2, 3, 6, 7]),  # hosts that are tiles of a slice
        ([1, 1, 1, 1, 0, 0, 0, 0], list(range(8))),  # JAX's own order, where it will do
    ],
)
def test_devices_of_a_process_become_neighbours(monkeypatch, owners, order):
    devices = [Device(number, process) for number, process in enumerate(owners)]
    monkeypatch.setattr(sharding, "Mesh", FakeMesh)
    monkeypatch.setattr(
        sharding.jax,
        "make_mesh",
        lambda shape, axes, kinds, devices: FakeMesh(np.array(devices).reshape(shape), axes, kinds),
    )
    mesh = make_mesh(MeshConfig(fsdp=4), devices)
    assert mesh.devices.shape == (2, 4)
    assert [device.id for device in mesh.devices.flat] == order
