"""Meshes and the rule that splits arrays."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from pixelbert_jax.errors import ConfigError
from pixelbert_jax.training.sharding import (
    MeshConfig,
    batch_sharding,
    make_mesh,
    replicated,
    state_shardings,
)


@pytest.mark.parametrize(("data", "fsdp", "shape"), [(-1, 1, (8, 1)), (-1, 4, (2, 4)), (2, 4, (2, 4)), (-1, 8, (1, 8))])
def test_mesh_shape(data, fsdp, shape):
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp))
    assert mesh.axis_names == ("data", "fsdp") and mesh.devices.shape == shape


@pytest.mark.parametrize(("data", "fsdp"), [(-1, 3), (3, 1), (4, 4), (-1, 16)])
def test_mesh_that_does_not_fit(data, fsdp):
    with pytest.raises(ConfigError, match=r"does not fit 8 device"):
        make_mesh(MeshConfig(data=data, fsdp=fsdp))


def test_mesh_of_some_devices():
    mesh = make_mesh(MeshConfig(), jax.devices()[2:4])
    assert list(mesh.devices.flat) == jax.devices()[2:4]


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((8, 64), PartitionSpec(None, "fsdp")),  # the longest axis
        ((64, 8), PartitionSpec("fsdp")),
        ((3, 3, 8, 30), PartitionSpec(None, None, "fsdp")),  # 30 is longer but odd to four
        ((9, 9, 9), PartitionSpec()),  # nothing to divide
        ((15,), PartitionSpec()),  # small
        ((16,), PartitionSpec("fsdp")),
        ((), PartitionSpec()),
    ],
)
def test_rule(shape, spec):
    config = MeshConfig(data=2, fsdp=4, min_split_size=16)
    array = jax.ShapeDtypeStruct(shape, np.float32)
    sharding = state_shardings(make_mesh(config), config, {"array": array})["array"]
    assert sharding.spec == spec
    assert sharding.shard_shape(shape) is not None


def test_without_fsdp_all_is_replicated():
    config = MeshConfig(min_split_size=1)
    array = jax.ShapeDtypeStruct((64, 64), np.float32)
    mesh = make_mesh(config)
    assert state_shardings(mesh, config, array) == replicated(mesh)


def test_rows_of_a_batch_lie_on_all_devices():
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    rows = jax.device_put(np.arange(32).reshape(16, 2), batch_sharding(mesh))
    assert len(rows.sharding.device_set) == 8
    assert {shard.data.shape for shard in rows.addressable_shards} == {(2, 2)}
