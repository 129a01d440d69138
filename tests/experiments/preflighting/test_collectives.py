"""Transfers between devices, from program texts and from a program on eight devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments.preflighting import hlo, work
from experiments.preflighting.collectives import Transfer, by_kind, group_size, transfers
from experiments.preflighting.program import memory_of
from pixelbert_jax.training.sharding import MeshConfig, make_mesh
from tests.experiments.preflighting.programs import KNOWN, LOOPS, read


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['axis_0'=64,'axis_1'=1] {'axis_0'}", 64),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0','axis_2'}", 8),
        ("replica_groups=mesh['axis_0'=8] {'axis_0':(2)4}", 4),
        ("replica_groups={}", 8),
        ("channel_id=1", 8),
    ],
)
def test_size_of_a_group(attributes, size):
    assert group_size(attributes, 8) == size


def test_collectives_inside_loops_count_once_per_iteration():
    found = transfers(hlo.parse(LOOPS.replace("KNOWN", KNOWN)), 8)
    assert found == [Transfer("all-reduce", 4 * 8 * 4, 4, 15)]
    assert by_kind(found) == {"all-reduce": {"count": 15, "bytes": 15 * 128}}


def test_bytes_of_each_kind():
    group = "replica_groups=[2,4]<=[8]"
    program = read(
        "  %x = f32[16,8]{1,0} parameter(0)",
        f"  %g = (f32[16,8]{{1,0}}, f32[64,8]{{1,0}}) all-gather-start(%x), {group}, dimensions={{0}}",
        "  %gd = f32[64,8]{1,0} all-gather-done(%g)",
        f"  %s = f32[4,8]{{1,0}} reduce-scatter(%x), {group}, dimensions={{0}}, to_apply=%add",
        f"  %n = bf16[16,8]{{1,0}} all-reduce(%x), {group}, to_apply=%add",
        f"  %t = (f32[16,8]{{1,0}}, f32[16,8]{{1,0}}) all-reduce(%x, %x), {group}, to_apply=%add",
        "  %p = f32[16,8]{1,0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}",
        f"  ROOT %a = f32[16,8]{{1,0}} all-to-all(%x), {group}, dimensions={{0}}",
    )
    size = 16 * 8 * 4
    assert transfers(program, 8) == [
        Transfer("all-gather", 4 * size, 4, 1, overlapped=True),
        Transfer("reduce-scatter", size, 4, 1),
        Transfer("all-reduce", size // 2, 4, 1),  # made narrower on the way
        Transfer("all-reduce", 2 * size, 4, 1),
        Transfer("collective-permute", size, 8, 1),
        Transfer("all-to-all", size, 4, 1),
    ]


def test_what_a_tpu_compiler_makes_of_collectives():
    """A reduce-scatter is an all-reduce in a fusion; a transfer beside other work is three fusions of one chain."""
    inside = """%all-reduce-scatter.3 (p: f32[8,8]) -> f32[2,8] {
  %p = f32[8,8]{1,0} parameter(0)
  %i = s32[] constant(0)
  %r = f32[8,8]{1,0} all-reduce(%p), channel_id=4, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %d = f32[2,8]{1,0} dynamic-slice(%r, %i, %i), dynamic_slice_sizes={2,8}
}

"""
    for name in ("start", "middle", "end"):
        inside += f"""%{name} (q: f32[2,8]) -> f32[8,8] {{
  %q = f32[2,8]{{1,0}} parameter(0)
  ROOT %g = f32[8,8]{{1,0}} all-gather(%q), channel_id=9, replica_groups=[2,4]<=[8], x={{chain_id="2"}}
}}

"""
    program = read(
        "  %x = f32[8,8]{1,0} parameter(0)",
        "  %s = f32[2,8]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.3",
        *[f"  %{n}.1 = f32[8,8]{{1,0}} fusion(%s), kind=kCustom, calls=%{n}" for n in ("start", "middle", "end")],
        before=inside,
    )
    assert transfers(program, 8) == [
        Transfer("reduce-scatter", 256, 4, 1),
        Transfer("all-gather", 256, 4, 1, overlapped=True),
    ]


def small_step(mesh, turns=1):
    """A step whose gradient, 64x32 numbers, is the only transfer between the devices, once per iteration."""
    rows, same = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())

    def step(w, x):
        def turn(w, _):
            return w - jax.grad(lambda w: jnp.tanh(x @ w).sum())(w), None

        return jax.lax.scan(turn, w, None, length=turns)[0]

    jitted = jax.jit(step, in_shardings=(same, rows), out_shardings=same, donate_argnums=0)
    shapes = (jax.ShapeDtypeStruct((64, 32), jnp.float32), jax.ShapeDtypeStruct((128, 64), jnp.float32))
    return jitted.lower(*shapes).compile()


@pytest.mark.parametrize("turns", [1, 6])
def test_a_program_on_eight_devices(turns):
    compiled = small_step(make_mesh(MeshConfig()), turns)
    program = hlo.parse(compiled.as_text())
    assert by_kind(transfers(program, 8)) == {"all-reduce": {"count": turns, "bytes": turns * 64 * 32 * 4}}
    assert work.matrix_operations(program) == turns * 2 * (2 * 16 * 64 * 32)
    memory = memory_of(compiled)
    assert (memory.arguments, memory.outputs, memory.aliased) == (64 * 32 * 4 + 16 * 64 * 4, 8192, 8192)
    assert memory.temporaries >= 8192 and memory.total == memory.arguments + memory.temporaries + memory.program
