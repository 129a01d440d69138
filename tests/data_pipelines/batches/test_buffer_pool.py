"""The buffer pool reuses memory after the last reference to it is gone, and not before."""

import sys
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from data_pipelines.batches import buffer_pool
from data_pipelines.batches.buffer_pool import BufferPool
from data_pipelines.batches.loader import load_batches
from data_pipelines.config import DataConfig, SourceConfig
from tests.data_pipelines.fakes import filled_batch

SHAPE = (8, 1 << 9, 1 << 9)  # rows of 256 KiB, so that those of each device are aligned too


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def held_while_others_write(hold):
    """Result of `hold` for an array full of 7, after other arrays were taken and filled with 9."""
    memory = BufferPool()
    array = memory.take(SHAPE)
    array[:] = 7
    held = hold(array)
    del array
    for _ in range(3):
        memory.take(SHAPE)[:] = 9
    return held


def test_memory_is_used_again():
    memory = BufferPool()
    first = memory.take(SHAPE)
    assert first.shape == SHAPE and first.dtype == np.uint8 and first.flags.writeable and first.flags.c_contiguous
    old_address = address(first)
    second = memory.take(SHAPE)
    assert not np.shares_memory(first, second)
    del first
    smaller = memory.take((6, 1 << 9, 1 << 9))
    assert address(smaller) == old_address and smaller.shape == (6, 1 << 9, 1 << 9)


@pytest.mark.parametrize(
    "hold",
    [
        lambda array: array[1, 5:7],
        lambda array: array.reshape(-1)[:3],
        lambda array: memoryview(array),
        lambda array: {"images": array.view(np.int8)},
    ],
    ids=["view", "reshaped", "buffer", "inside"],
)
def test_what_somebody_holds_is_left_alone(hold):
    held = held_while_others_write(hold)
    assert all((np.asarray(leaf) == 7).all() for leaf in jax.tree.leaves(held))


def on_devices(array: np.ndarray, partition: PartitionSpec | None = None) -> jax.Array:
    """As the training loop does it, on one or several devices; the JAX array uses the memory of the array."""
    cpus = jax.devices("cpu")
    sharding = SingleDeviceSharding(cpus[0])
    if partition is not None:
        sharding = NamedSharding(Mesh(np.array(cpus[:4]), "d"), partition)
    placed = jax.make_array_from_process_local_data(sharding, array)
    for shard in placed.addressable_shards:
        assert shard.data.unsafe_buffer_pointer() == address(array[shard.index])
    return placed


@pytest.mark.parametrize(
    "hold",
    [
        on_devices,
        lambda array: on_devices(array, PartitionSpec("d")),
        lambda array: on_devices(array, PartitionSpec()),
        lambda array: on_devices(array, PartitionSpec("d")).addressable_shards[2].data,
        lambda array: jax.jit(lambda x: x)(on_devices(array)),
        lambda array: np.asarray(on_devices(array))[1:2],
        lambda array: np.from_dlpack(on_devices(array)),
        lambda array: jax.jit(lambda x: x, donate_argnums=0)(on_devices(array)),
    ],
    ids=["one", "sharded", "replicated", "shard", "forwarded", "read", "exported", "donated"],
)
def test_what_a_device_reads_is_left_alone(hold):
    """The JAX array uses the block without a copy, so writing to the block would change it."""
    held = held_while_others_write(hold)
    assert (np.asarray(held) == 7).all()


@pytest.mark.parametrize("partition", [None, PartitionSpec("d")])
def test_nobody_writes_into_a_donated_array(partition):
    """A computation with a donated argument uses other memory for its result, because JAX does not own the block."""
    memory = BufferPool()
    array = memory.take(SHAPE)
    array[:] = 7
    changed = jax.jit(lambda x: x + 1, donate_argnums=0)(on_devices(array, partition)).block_until_ready()
    assert (array == 7).all()
    del array
    for _ in range(3):
        memory.take(SHAPE)[:] = 9
    assert (np.asarray(changed) == 8).all()


def test_a_block_serves_again_when_the_device_has_let_it_go():
    memory, addresses = BufferPool(), set()
    for _ in range(12):
        array = memory.take(SHAPE)
        addresses.add(address(array))
        jax.block_until_ready(on_devices(array) + 1)
        del array
        deadline = time.monotonic() + 60
        while sys.getrefcount(memory._blocks[0]) > 2 and time.monotonic() < deadline:
            jnp.zeros(()).block_until_ready()  # JAX releases memory at its next call, in a thread of its own
    assert len(addresses) == 1


def test_what_a_computation_still_reads_is_left_alone():
    """There is no reference to the batch, but a computation that reads it is still running."""

    @jax.jit
    def read_late(batch, matrix):
        matrix = jax.lax.fori_loop(0, 40, lambda _, x: jnp.tanh(x @ x), matrix)
        return batch.astype(jnp.int32) + matrix[0, 0].astype(jnp.int32)

    memory, matrix = BufferPool(), jnp.zeros((400, 400))
    read_late(np.zeros(SHAPE, np.uint8), matrix).block_until_ready()
    for _ in range(3):
        array = memory.take(SHAPE)
        array[:] = 7
        found = read_late(on_devices(array), matrix)
        del array
        memory.take(SHAPE)[:] = 9
        assert (np.asarray(found) == 7).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_a_stream_stay_what_they_are(workers):
    """Batches on the devices do not change while threads or a process make later ones."""
    config = DataConfig(train=(SourceConfig("fake"),), workers=workers, threads=4, prefetch=4)
    stream = load_batches(range(12), filled_batch, config, place=lambda batch: jax.device_put(batch["images"]))
    try:
        held = list(stream)
    finally:
        stream.close()
    for step, array in enumerate(held):
        assert (np.asarray(array) == step).all()


def test_blocks_grow_with_what_is_asked_for():
    memory = BufferPool()
    for size in (1 << 20, (1 << 20) + 63, 1 << 21, 1 << 22):
        assert memory.take((size,)).size == size
    assert [block.size >> 20 for block in memory._blocks] == [4]


def test_no_more_blocks_are_kept_than_a_few():
    memory = BufferPool()
    held = [memory.take((1 << 20,)) for _ in range(20)]
    assert len({address(array) for array in held}) == 20 and len(memory._blocks) == 8
    assert memory.take((10,)).size == 10 and len(memory._blocks) == 8  # small arrays are not from the pool


def test_threads_never_share_memory(monkeypatch):
    """All threads take memory at once, pause before they check that a block is free, and keep their arrays."""
    memory, workers, rounds = BufferPool(), 4, 5
    taken = np.zeros((rounds, workers), np.int64)
    together = threading.Barrier(workers, timeout=60)

    own = 0  # this function adds references

    def counted_late(block: object) -> int:
        time.sleep(1e-3)
        return sys.getrefcount(block) - own

    free = [object()]
    own = counted_late(free[0]) - sys.getrefcount(free[0])
    monkeypatch.setattr(buffer_pool, "sys", types.SimpleNamespace(getrefcount=counted_late))

    def work(worker: int) -> None:
        for turn in range(rounds):
            together.wait()
            array = memory.take((1 << 20,))
            taken[turn, worker] = address(array)
            together.wait()
            del array

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken.all() and all(len(set(row)) == workers for row in taken.tolist())
    assert len(np.unique(taken)) == workers == len(memory._blocks)  # the blocks were found to be free
