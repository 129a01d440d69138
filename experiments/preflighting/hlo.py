"""A parser of a compiler's program as text (HLO): computations, instructions, and how often each is run."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_CALLERS = {"call", "fusion", "async-start", "conditional"}  # their computations run once whenever they do
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+)(?: \(.*)? \{")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_TILE = re.compile(r":T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape."""

    type: str
    sides: tuple[int, ...]
    layout: str

    @property
    def elements(self) -> int:
        return math.prod(self.sides)

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        return self.elements * _bits(self.type) // 8

    @property
    def padded_bytes(self) -> int:
        """Bytes with the padding that the layout's outer tile, such as T(8,128), adds to the fastest-varying sides."""
        tile = _TILE.search(self.layout)
        if not tile or not self.sides:
            return self.bytes
        order = [int(axis) for axis in self.layout.split(":")[0].split(",") if axis]
        sides = [self.sides[axis] for axis in order]  # the fastest first
        for index, size in enumerate(reversed([int(size) for size in tile[1].split(",")])):
            if index < len(sides):
                sides[index] = -(-sides[index] // size) * size
        return math.prod(sides) * _bits(self.type) // 8

    @property
    def in_main_memory(self) -> bool:
        """False where the layout names another memory, such as a TPU's on-chip memory, S(1)."""
        space = _SPACE.search(self.layout)
        return space is None or space[1] == "0"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]  # names; for a constant its text
    attributes: str
    is_root: bool

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of its result: one, or those of a tuple."""
        return arrays_of(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of its result, without padding."""
        return sum(array.bytes for array in self.arrays)


@dataclasses.dataclass(frozen=True)
class Computation:
    """A named list of instructions."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        return next(instruction for instruction in self.instructions.values() if instruction.is_root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """The parameters by number."""
        found = (instruction for instruction in self.instructions.values() if instruction.opcode == "parameter")
        return {int(instruction.operands[0]): instruction for instruction in found}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that take each instruction's result."""
        found: dict[str, list[Instruction]] = {}
        for instruction in self.instructions.values():
            for name in dict.fromkeys(instruction.operands):
                found.setdefault(name, []).append(instruction)
        return found


@dataclasses.dataclass(frozen=True)
class Program:
    """All computations of a module."""

    computations: dict[str, Computation]
    entry: str

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """How often each computation is run in one call of the program, loops included; fused ones too.

        Functions that a reduction or sort applies to elements are not counted. Every branch of a conditional counts as
        run. A loop whose number of iterations is unknown counts as one iteration (`unknown_loops`).
        """
        counts = dict.fromkeys(self.computations, 0)

        def visit(name: str, times: int) -> None:
            counts[name] += times
            for instruction in self.computations[name].instructions.values():
                for called, turns in self._called(instruction):
                    visit(called, times * turns)

        visit(self.entry, 1)
        return counts

    @property
    def unknown_loops(self) -> list[str]:
        """Names of the loops whose number of iterations is unknown."""
        return [
            instruction.name
            for name, computation in self.computations.items()
            if self.runs[name]
            for instruction in computation.instructions.values()
            if instruction.opcode == "while" and self.turns(instruction) is None
        ]

    def executed(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Every instruction that is run, with its computation and how often it is run."""
        for name, times in self.runs.items():
            if times:
                for instruction in self.computations[name].instructions.values():
                    yield self.computations[name], instruction, times

    def fused(self) -> set[str]:
        """Names of the computations that are the inside of a fusion: their arrays never reach memory."""
        return {
            name
            for computation in self.computations.values()
            for instruction in computation.instructions.values()
            if instruction.opcode == "fusion"
            for name in _CALLED.findall(instruction.attributes)
        }

    def turns(self, loop: Instruction) -> int | None:
        """The iterations of a `while`: the compiler's note, or the constant that its counter is compared with.

        A counter is assumed to begin at 0 and to grow by 1, as those of `jax.lax.scan` do.
        """
        known = _KNOWN_TRIPS.search(loop.attributes)
        if known:
            return int(known[1])
        names = [_attribute(loop, "condition")]
        constants, compares = [], []
        while names:
            for instruction in self.computations[names.pop()].instructions.values():
                names += [name for name, _ in self._called(instruction)]
                if instruction.opcode == "compare":
                    compares.append(instruction.attributes)
                elif instruction.opcode == "constant" and re.fullmatch(r"-?\d+", instruction.operands[0]):
                    constants.append(int(instruction.operands[0]))
        if len(compares) != 1 or len(constants) != 1:
            return None
        if "direction=LT" in compares[0] or "direction=GT" in compares[0]:
            return constants[0]
        return None

    def _called(self, instruction: Instruction) -> list[tuple[str, int]]:
        """The computations that an instruction runs, with how often it runs each."""
        if instruction.opcode == "while":
            turns = self.turns(instruction)
            turns = 1 if turns is None else turns
            return [(_attribute(instruction, "body"), turns), (_attribute(instruction, "condition"), turns + 1)]
        if instruction.opcode not in _CALLERS:
            return []
        branches = _BRANCHES.search(instruction.attributes)
        names = [name.strip().lstrip("%") for name in branches[1].split(",")] if branches else []
        return [(name, 1) for name in _CALLED.findall(instruction.attributes) + names]


def parse(text: str) -> Program:
    """Read the text of a module, before or after the compiler's optimisations.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        if current is None:
            head = _COMPUTATION.fullmatch(line.rstrip()) if not line.startswith((" ", "HloModule")) else None
            if head:
                current = Computation(head[2], {})
                computations[head[2]] = current
                entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        else:
            instruction = _parse_instruction(line)
            if instruction:
                current.instructions[instruction.name] = instruction
    if entry is None:
        raise ValueError("The text has no ENTRY computation.")
    return Program(computations, entry)


def arrays_of(shape: str) -> tuple[Array, ...]:
    """The arrays that a shape's text names."""
    found = []
    for type_, sides, layout in _ARRAY.findall(shape):
        lengths = tuple(int(side.lstrip("<=")) for side in sides.split(",") if side)
        found.append(Array(type_, lengths, layout or ""))
    return tuple(found)


def _parse_instruction(line: str) -> Instruction | None:
    head = _INSTRUCTION.match(line)
    if not head:
        return None
    rest = line[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    opcode = rest[:opening]
    if opcode == "constant":
        operands: tuple[str, ...] = (inside,)
    else:
        operands = tuple(part.split()[-1].lstrip("%") for part in _split(re.sub(r"/\*.*?\*/", "", inside)))
    return Instruction(head[2], shape, opcode, operands, rest[closing + 1 :], bool(head[1]))


def _closing(text: str, opening: int) -> int:
    """Index of the bracket that closes the one at `opening`."""
    depth = 0
    for index in range(opening, len(text)):
        if text[index] == "(":
            depth += 1
        elif text[index] == ")":
            depth -= 1
            if depth == 0:
                return index
    return len(text) - 1


def _split(text: str) -> list[str]:
    """Parts between commas that lie in no bracket."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [part for part in (*parts, text[start:]) if part.strip()]


def _attribute(instruction: Instruction, name: str) -> str:
    """The computation that an attribute names."""
    return re.search(rf"{name}=%?([\w.\-]+)", instruction.attributes)[1]


def _bits(type_: str) -> int:
    """Bits of one element: bf16, s32, pred, f8e4m3fn, ..."""
    if type_ == "pred":
        return 8
    digits = re.search(r"\d+", type_)
    return int(digits[0]) if digits else 0
