"""Small programs as text, and a chip whose numbers are easy to calculate with."""

from experiments.preflighting.chips import GIB, Chip
from experiments.preflighting.hlo import Program, parse

CHIP = Chip("t", ("T",), 100e12, 50_000, 10 * GIB, 1e12, 25e9, 2, 4, 64, (4,))
LOOPS = """HloModule loops, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[], f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4,8]{1,0} get-tuple-element(%p), index=1
  %summed = f32[4,8]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %w = f32[8,8]{1,0} constant({...})
  %y = f32[4,8]{1,0} dot(%summed, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (s32[], f32[4,8]{1,0}) tuple(%i, %y)
}

%inner_condition (p.1: (s32[], f32[4,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  %p.1 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)S(1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

%outer_body (q: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %q = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %inner = (s32[], /*index=1*/f32[4,8]{1,0}) while(%q), condition=%inner_condition, body=%inner_body
}

%outer_condition (q.1: (s32[], f32[4,8])) -> pred[] {
  %q.1 = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %go = pred[] custom-call(%q.1), custom_call_target="decide"
}

ENTRY %main (start: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %start = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %outer = (s32[], f32[4,8]{1,0}) while(%start), condition=%outer_condition, body=%outer_body, KNOWN
}
"""
KNOWN = 'backend_config={"known_trip_count":{"n":"3"},"other":{"n":"7"}}'


def read(*lines: str, before: str = "") -> Program:
    """A program whose entry holds these lines."""
    return parse("HloModule m\n\n" + before + "ENTRY %main (x: f32[]) -> f32[] {\n" + "\n".join(lines) + "\n}\n")
