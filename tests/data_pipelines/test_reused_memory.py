"""Memory is used again when nobody can see it any more, and not before."""

import threading

import jax
import numpy as np
import pytest

from data_pipelines.reused_memory import ReusedMemory

SHAPE = (3, 1 << 10, 1 << 9)


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_is_used_again():
    memory = ReusedMemory()
    first = memory.take(SHAPE)
    assert first.shape == SHAPE and first.dtype == np.uint8 and first.flags.writeable and first.flags.c_contiguous
    place = address(first)
    second = memory.take(SHAPE)
    assert not np.shares_memory(first, second)
    del first
    smaller = memory.take((2, 1 << 10, 1 << 9))
    assert address(smaller) == place and smaller.shape == (2, 1 << 10, 1 << 9)


@pytest.mark.parametrize(
    "hold",
    [
        lambda array: array[1, 5:7],
        lambda array: array.reshape(-1)[:3],
        lambda array: memoryview(array),
        lambda array: {"images": array.view(np.int8)},
        lambda array: jax.make_array_from_process_local_data(
            jax.sharding.SingleDeviceSharding(jax.devices()[0]), array[:1]
        ),
        lambda array: jax.device_put(array[:, 1:]),
    ],
    ids=["view", "reshaped", "buffer", "inside", "sharded", "on a device"],
)
def test_what_somebody_holds_is_left_alone(hold):
    memory = ReusedMemory()
    array = memory.take(SHAPE)
    array[:] = 7
    held = hold(array)
    del array
    for _ in range(3):
        memory.take(SHAPE)[:] = 9
    leaves = jax.tree.leaves(held)
    assert all((np.asarray(leaf) == 7).all() for leaf in leaves)


def test_blocks_grow_with_what_is_asked_for():
    memory = ReusedMemory()
    for size in (1 << 20, 1 << 21, 1 << 22):
        assert memory.take((size,)).size == size
    assert [block.size for block in memory._blocks] == [1 << 22]


def test_no_more_blocks_are_kept_than_a_few():
    memory = ReusedMemory()
    held = [memory.take((1 << 20,)) for _ in range(20)]
    assert len({address(array) for array in held}) == 20 and len(memory._blocks) == 8
    assert memory.take((10,)).size == 10 and len(memory._blocks) == 8  # a small one is the allocator's


def test_threads_never_share_memory():
    memory, wrong = ReusedMemory(), []

    def work(value: int) -> None:
        for _ in range(100):
            array = memory.take((1 << 20,))
            array[::4096] = value
            wrong.extend(array[::4096][array[::4096] != value])

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
