"""The work of a compiled step on one chip: matrix operations, bytes moved, the compiler's cycles, loops included.

JAX's `cost_analysis` counts the body of a loop (the scan over the layers, the micro-batches) once. So the counting is
done here, on the program's text, times the iterations of each loop. Without loops both agree (see the tests).
"""

import math
import re
from collections.abc import Iterable

from experiments.preflighting.hlo import Array, Computation, Instruction, Program

_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_GROUPS = re.compile(r"batch_group_count=(\d+)")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NO_TRAFFIC = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "async-start", "async-update"),
}
_VIEWS = ('"ConcatBitcast"', '"AllocateBuffer"')  # custom calls of a TPU's compiler that move nothing
_RECOMPUTED = "rematted_computation"
_PARTIAL_READS = {"dynamic-slice", "slice", "gather"}


def matrix_operations(program: Program, *, recomputed: bool = True) -> float:
    """Floating-point operations of the matrix products and convolutions, two per multiply-add.

    With recomputed=False, what the backward pass recomputes to save memory does not count. JAX notes it in the
    metadata, which the program's text must have: `as_text(dialect="hlo", debug_info=True)`.
    """
    return float(
        sum(
            times * (_dot(computation, instruction) if instruction.opcode == "dot" else _conv(computation, instruction))
            for computation, instruction, times in program.executed()
            if instruction.opcode in ("dot", "convolution")
            and (recomputed or _RECOMPUTED not in instruction.attributes)
        )
    )


def memory_bytes(program: Program) -> float:
    """Bytes read from and written to main memory, with the padding of the layouts.

    Each instruction that is not inside a fusion reads its operands and writes its result once. If an operand is only
    sliced, only the slices count. An in-place update counts what it writes.
    """
    fused = program.fused()
    return float(
        sum(
            times * (_read(program, computation, instruction) + _written(program, computation, instruction))
            for computation, instruction, times in program.executed()
            if computation.name not in fused
            and instruction.opcode not in _NO_TRAFFIC
            and not instruction.opcode.endswith("-done")
            and not any(view in instruction.attributes for view in _VIEWS)
        )
    )


def compiler_cycles(program: Program) -> float:
    """Clock cycles that the compiler estimated for its program, without transfers between chips; 0: no estimate.

    TPU compilers note them at each fusion, copy and convolution, from tile sizes and memory bandwidth.
    """
    fused = program.fused()
    total = 0
    for computation, instruction, times in program.executed():
        cycles = None if computation.name in fused else _CYCLES.search(instruction.attributes)
        total += times * int(cycles[1]) if cycles else 0
    return float(total)


def _operand(computation: Computation, instruction: Instruction, number: int) -> Array:
    return computation.instructions[instruction.operands[number]].arrays[0]


def _dot(computation: Computation, instruction: Instruction) -> int:
    contracted = _CONTRACTED.search(instruction.attributes)
    sides = _operand(computation, instruction, 0).sides
    axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
    return 2 * instruction.arrays[0].elements * math.prod(sides[axis] for axis in axes)


def _conv(computation: Computation, instruction: Instruction) -> int:
    """As XLA's cost analysis counts: positions that fall on padding or between dilated elements cost nothing."""
    input_labels, kernel_labels, output_labels = _LABELS.search(instruction.attributes).groups()
    inputs, kernel = _operand(computation, instruction, 0).sides, _operand(computation, instruction, 1).sides
    outputs = instruction.arrays[0].sides
    window = _window(instruction.attributes, len(input_labels) - 2)
    positions = 1
    for axis in range(len(input_labels) - 2):
        label = str(axis)
        positions *= _valid_positions(
            inputs[input_labels.index(label)],
            kernel[kernel_labels.index(label)],
            outputs[output_labels.index(label)],
            **{name: values[axis] for name, values in window.items()},
        )
    groups = _GROUPS.search(instruction.attributes)
    batch = inputs[input_labels.index("b")] // (int(groups[1]) if groups else 1)
    # The kernel's input axis holds the inputs of one feature group.
    return 2 * positions * batch * kernel[kernel_labels.index("i")] * outputs[output_labels.index("f")]


def _window(attributes: str, axes: int) -> dict[str, list[int]]:
    """Stride, padding before, dilations of a convolution along each spatial axis."""
    found = _WINDOW.search(attributes)
    parts = dict(part.split("=") for part in found[1].split()) if found and found[1] else {}

    def numbers(name: str, default: int) -> list[int]:
        return [int(number) for number in parts[name].split("x")] if name in parts else [default] * axes

    pads = [int(pad.split("_")[0]) for pad in parts["pad"].split("x")] if "pad" in parts else [0] * axes
    return {
        "stride": numbers("stride", 1),
        "pad": pads,
        "input_dilation": numbers("lhs_dilate", 1),
        "kernel_dilation": numbers("rhs_dilate", 1),
    }


def _valid_positions(
    inputs: int, kernel: int, outputs: int, *, stride: int, pad: int, input_dilation: int, kernel_dilation: int
) -> int:
    """Number of pairs of an output index and a kernel index along one axis that meet an element of the input."""
    count, last = 0, (inputs - 1) * input_dilation
    for tap in range(kernel):
        shift = tap * kernel_dilation - pad
        for output in range(outputs):
            at = output * stride + shift
            count += 0 <= at <= last and at % input_dilation == 0
    return count


def _read(program: Program, computation: Computation, instruction: Instruction) -> int:
    if instruction.opcode in _PARTIAL_READS:
        return _padded(instruction.arrays) if _operand(computation, instruction, 0).in_main_memory else 0
    if instruction.opcode == "slice-start":
        in_memory = _operand(computation, instruction, 0).in_main_memory
        return _padded(_started(computation, instruction)) if in_memory else 0
    if instruction.opcode == "dynamic-update-slice":
        return _in_memory(computation.instructions[instruction.operands[1]].arrays)
    inside = _inside(program, instruction)
    total = 0
    for number, name in enumerate(instruction.operands):
        size = _in_memory(computation.instructions[name].arrays)
        total += min(size, _used(inside, number)) if inside and size else size
    return total


def _written(program: Program, computation: Computation, instruction: Instruction) -> int:
    if instruction.opcode == "dynamic-update-slice":
        return _in_memory(computation.instructions[instruction.operands[1]].arrays)
    if instruction.opcode.endswith("-start"):
        return _in_memory(_started(computation, instruction))
    inside = _inside(program, instruction)
    if inside is None:
        return _in_memory(instruction.arrays)
    root = inside.root
    parts = [inside.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(parts) != len(instruction.arrays):
        return _in_memory(instruction.arrays)
    pairs = zip(instruction.arrays, parts, strict=True)
    return sum(min(_in_memory((array,)), _updated(inside, part)) for array, part in pairs)


def _started(computation: Computation, instruction: Instruction) -> tuple[Array, ...]:
    """Results of an asynchronous instruction: from (result, operand, ...) of a copy, else (operands, result, ...)."""
    arrays = instruction.arrays
    if instruction.opcode == "copy-start":
        return arrays[:1]
    operands = sum(len(computation.instructions[name].arrays) for name in instruction.operands)
    return arrays[operands : 2 * operands] or arrays


def _inside(program: Program, instruction: Instruction) -> Computation | None:
    """The computation of a fusion."""
    if instruction.opcode != "fusion":
        return None
    return program.computations[re.search(r"calls=%?([\w.\-]+)", instruction.attributes)[1]]


def _used(inside: Computation, number: int) -> int | float:
    """Bytes that a fusion reads of one operand, if it only slices it; else infinity."""
    total, names = 0, [inside.parameters[number].name]
    while names:
        name = names.pop()
        for user in inside.users.get(name, ()):
            if user.opcode == "bitcast":
                names.append(user.name)
            elif user.opcode in _PARTIAL_READS and user.operands[0] == name:
                total += _padded(user.arrays)
            elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
                return math.inf
    return total


def _updated(inside: Computation, part: Instruction) -> int | float:
    """Bytes that a fusion writes of one result, if it updates a slice in place; else infinity."""
    while part.opcode == "bitcast":
        part = inside.instructions[part.operands[0]]
    if part.opcode != "dynamic-update-slice":
        return math.inf
    return _padded(inside.instructions[part.operands[1]].arrays)


def _padded(arrays: Iterable[Array]) -> int:
    return sum(array.padded_bytes for array in arrays)


def _in_memory(arrays: Iterable[Array]) -> int:
    return _padded(array for array in arrays if array.in_main_memory)
