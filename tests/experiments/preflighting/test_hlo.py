"""Programs as text: instructions, sizes, iterations of loops."""

import jax
import jax.numpy as jnp
import pytest

from experiments.preflighting import hlo, work
from tests.experiments.preflighting.programs import KNOWN, LOOPS, read


def test_iterations_of_nested_loops_multiply():
    program = hlo.parse(LOOPS.replace("KNOWN", KNOWN))
    assert program.entry == "main" and program.unknown_loops == []
    assert program.runs == {
        **{"main": 1, "outer_body": 3, "outer_condition": 4},
        **{"inner_body": 15, "inner_condition": 18, "add": 0},
    }


def test_a_loop_that_cannot_be_counted_is_named():
    program = hlo.parse(LOOPS.replace(", KNOWN", ""))
    assert program.unknown_loops == ["outer"]
    assert program.runs["inner_body"] == 5
    elsewhere = LOOPS.replace("ROOT %outer = (s32[], f32[4,8]{1,0}) while(%start)", "ROOT %x = f32[] negate(%start)")
    assert hlo.parse(elsewhere).unknown_loops == []  # it has one, but runs none


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("direction=LT", "direction=NE"),  # not how a scan's loop ends
        ("constant(5)", "constant(5)\n  %other = s32[] constant(6)"),  # which of the two?
    ],
)
def test_a_condition_of_another_kind_is_not_guessed(old, new):
    assert hlo.parse(LOOPS.replace("KNOWN", KNOWN).replace(old, new)).unknown_loops == ["inner"]


def test_the_condition_may_be_fused():
    fused = """%less_than (limit.1: s32[], i.2: s32[]) -> pred[] {
  %limit.1 = s32[] parameter(0)
  %i.2 = s32[] parameter(1)
  ROOT %less = pred[] compare(%i.2, %limit.1), direction=LT
}

%inner_body"""
    call = "ROOT %f = pred[] fusion(%limit, %i.1), kind=kLoop, calls=%less_than"
    text = LOOPS.replace("KNOWN", KNOWN).replace(
        "ROOT %less = pred[]{:T(512)} compare(%i.1, %limit), direction=LT", call
    )
    program = hlo.parse(text.replace("%inner_body", fused, 1))
    assert program.unknown_loops == [] and program.runs["inner_body"] == 15


def test_scans_of_jax_are_counted_before_and_after_compiling():
    def function(x):
        def outer(x, _):
            return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=4)[0], None

        return jax.lax.scan(outer, x, None, length=3)[0]

    lowered = jax.jit(function).lower(jnp.ones((16, 16)))
    for text in (lowered.as_text(dialect="hlo"), lowered.compile().as_text()):
        program = hlo.parse(text)
        assert program.unknown_loops == []
        assert work.matrix_operations(program) == 3 * 4 * 2 * 16**3


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule nothing\n")


@pytest.mark.parametrize(
    ("shape", "bytes_", "padded", "in_memory"),
    [
        ("f32[3,5]{1,0}", 60, 60, True),
        ("bf16[16,832,1344,3]{0,3,2,1:T(4,128)(2,1)}", 2 * 16 * 832 * 1344 * 3, 2 * 128 * 832 * 1344 * 4, True),
        ("f32[768]{0:T(1024)S(1)}", 3072, 4096, False),
        ("bf16[12,768]{0,1:T(8,128)(2,1)}", 18432, 2 * 128 * 768, True),
        ("pred[]{:T(512)}", 1, 1, True),
        ("s4[6]", 3, 3, True),
        ("f8e4m3fn[10]{0}", 10, 10, True),
        ("token[]", 0, 0, True),
        ("f32[8]{0:S(5)}", 32, 32, False),  # the host's
    ],
)
def test_sizes_of_arrays(shape, bytes_, padded, in_memory):
    (array,) = hlo.arrays_of(shape)
    assert (array.bytes, array.padded_bytes, array.in_main_memory) == (bytes_, padded, in_memory)


def test_lines_are_taken_apart():
    program = read(
        "  %c = (f32[2,3]{1,0:T(2,128)}, /*index=1*/u32[]{:S(2)}) custom-call(%a.1, f32[2] %b), "
        'metadata={op_name="f(x)"}',
        "  ROOT plain.2 = f32[2] add(a.1, b)",
    )
    first, second = program.computations["main"].instructions.values()
    assert first.opcode == "custom-call" and first.operands == ("a.1", "b") and not first.is_root
    assert [array.sides for array in first.arrays] == [(2, 3), ()] and first.bytes == 28
    assert (second.name, second.operands, second.is_root) == ("plain.2", ("a.1", "b"), True)
