"""Operations, bytes and cycles, against JAX's own count where there are no loops."""

import jax
import jax.numpy as jnp
import pytest

from experiments.preflighting import hlo, work
from tests.experiments.preflighting.programs import KNOWN, LOOPS, read


def test_operations_of_products_are_those_of_cost_analysis():
    def function(a, b, c):
        return jnp.einsum("bij,bjk->bik", a, b) @ c

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 4, 5), (3, 5, 6), (6, 7))]
    lowered = jax.jit(function).lower(*shapes)
    counted = work.matrix_operations(hlo.parse(lowered.as_text(dialect="hlo")))
    assert counted == lowered.cost_analysis()["flops"] == 2 * 3 * 4 * 5 * 6 + 2 * 3 * 4 * 6 * 7


@pytest.mark.parametrize(
    ("stride", "padding", "groups", "dilation", "kernel_dilation"),
    [(1, 0, 1, 1, 1), (1, 1, 1, 1, 1), (2, 1, 1, 1, 1), (2, 3, 4, 1, 1), (1, 2, 1, 2, 1), (1, 2, 2, 1, 2)],
)
def test_operations_of_convolutions_are_those_of_cost_analysis(stride, padding, groups, dilation, kernel_dilation):
    """Forward and both gradients."""

    def convolution(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, 1),
            [(padding, padding), (1, 2)],
            lhs_dilation=(dilation, 1),
            rhs_dilation=(kernel_dilation, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    x, kernel = jnp.ones((2, 9, 7, 8)), jnp.ones((3, 2, 8 // groups, 12))

    def gradients(x, kernel, cotangent):
        return jax.vjp(convolution, x, kernel)[1](cotangent)

    given = (x, kernel, convolution(x, kernel))
    for function, arguments in ((convolution, given[:2]), (gradients, given)):
        lowered = jax.jit(function).lower(*arguments)
        counted = work.matrix_operations(hlo.parse(lowered.as_text(dialect="hlo")))
        assert counted == lowered.cost_analysis()["flops"] > 0


def test_bytes_are_those_of_cost_analysis_where_all_is_read_and_written_once():
    compiled = jax.jit(lambda a, b: jnp.tanh(a) * 2 + b).lower(jnp.ones((64, 32)), jnp.ones((64, 32))).compile()
    assert work.memory_bytes(hlo.parse(compiled.as_text())) == compiled.cost_analysis()["bytes accessed"] == 3 * 8192


def test_bytes_of_parts_and_of_other_memories():
    before = """%sliced (p0: f32[12,64], p1: s32[]) -> f32[1,64] {
  %p0 = f32[12,64]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %b = f32[12,64]{1,0} bitcast(%p0)
  ROOT %d = f32[1,64]{1,0} dynamic-slice(%b, %p1, %p1), dynamic_slice_sizes={1,64}
}

%updated (p0.1: f32[12,64], p1.1: f32[1,64], p2.1: s32[]) -> f32[12,64] {
  %p0.1 = f32[12,64]{1,0} parameter(0)
  %p1.1 = f32[1,64]{1,0} parameter(1)
  %p2.1 = s32[] parameter(2)
  ROOT %u = f32[12,64]{1,0} dynamic-update-slice(%p0.1, %p1.1, %p2.1, %p2.1)
}

"""
    stack, index = "  %x = f32[12,64]{1,0} parameter(0)", "  %i = s32[] parameter(1)"
    row = 64 * 4

    def moved(*lines):
        return work.memory_bytes(read(stack, index, *lines, before=before))

    one = "  %s = f32[1,64]{1,0} dynamic-slice(%x, %i, %i), dynamic_slice_sizes={1,64}"
    assert moved(one) == 2 * row
    assert moved("  %f = f32[1,64]{1,0} fusion(%x, %i), kind=kLoop, calls=%sliced") == 2 * row + 4
    update = "  %f = f32[12,64]{1,0} fusion(%x, %s, %i), kind=kLoop, calls=%updated"
    assert moved(one, update) == 2 * row + (row + 4) + row
    assert moved(one, "  %u = f32[12,64]{1,0} dynamic-update-slice(%x, %s, %i, %i)") == 2 * row + 2 * row
    near = "  %c = (f32[12,64]{1,0:S(1)}, f32[12,64]{1,0}, u32[]{:S(2)}) copy-start(%x)"
    done = "  %d = f32[12,64]{1,0:S(1)} copy-done(%c)"
    assert moved(near, done, "  %n = f32[12,64]{1,0:S(1)} negate(%d)") == 12 * row
    part = "  %p = ((f32[12,64]{1,0}), f32[3,64]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:3], [0:64]}"
    assert moved(part) == 3 * row
    assert moved('  %v = f32[12,64]{1,0} custom-call(%x), custom_call_target="ConcatBitcast"') == 0
    assert moved("  %l = f32[12,64]{1,0} negate(%x)") == 2 * 12 * row


def test_bytes_and_cycles_inside_loops_count_once_per_iteration():
    cycles = 'backend_config={"window_config":{"estimated_cycles":"1000"}}'
    text = LOOPS.replace("KNOWN", KNOWN).replace("rhs_contracting_dims={0}", f"rhs_contracting_dims={{0}}, {cycles}")
    program = hlo.parse(text)
    assert work.compiler_cycles(program) == 15 * 1000
    body = 128 + 128 + (128 + 256) + 128  # all-reduce, then product
    assert work.memory_bytes(program) == 15 * body + 18 * (4 + 4 + 1) + 4 * (132 + 1)


def test_cycles_inside_a_fusion_are_part_of_its_own():
    inside = """%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%p), backend_config={"estimated_cycles":"70"}
}

"""
    fusion = '  %f = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"100"}'
    program = read("  %x = f32[8]{0} parameter(0)", fusion, before=inside)
    assert work.compiler_cycles(program) == 100
    assert work.compiler_cycles(read("  %x = f32[8]{0} parameter(0)")) == 0
