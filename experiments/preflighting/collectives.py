"""The transfers between the chips in a compiled step, by kind: how often, how many bytes, the least time."""

import dataclasses
import math
import re

from experiments.preflighting.chips import Slice
from experiments.preflighting.hlo import Computation, Instruction, Program

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
HOP_SECONDS = 1e-6  # from one chip to the next, about; a collective waits for it twice along its longest way
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_COUNTED = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=")
_CHAIN = re.compile(r'chain_id="([^"]*)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Transfer:
    """One collective instruction."""

    kind: str
    bytes: int  # of the whole array: an all-reduce's sum, an all-gather's output, a reduce-scatter's input
    group: int  # chips that take part in it together
    times: int  # per step
    overlapped: bool = False  # the compiler runs it beside other work

    @property
    def sent(self) -> float:
        """Bytes that each chip passes on each time, in the best algorithm for a ring."""
        share = (self.group - 1) / self.group
        if self.kind == "all-reduce":
            return 2 * share * self.bytes
        return self.bytes if self.kind == "collective-permute" else share * self.bytes

    def seconds(self, slice_: Slice) -> float:
        """Least time on a slice, all times together: the links' rate, plus the way to the farthest chip and back."""
        if self.group == 1:
            return 0.0
        one = self.sent / slice_.rate(self.group) + 2 * slice_.hops(self.group) * HOP_SECONDS
        return self.times * one


def transfers(program: Program, devices: int) -> list[Transfer]:
    """The collectives of a program that runs on `devices` chips; those inside loops count once per iteration."""
    found, chains = [], set()
    for computation, instruction, times in program.executed():
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        chain = _CHAIN.search(instruction.attributes)
        if chain:
            # A TPU's compiler writes the start, the middle and the end of such a transfer as three fusions.
            identity = (chain[1], _channel(instruction), times)
            if identity in chains:
                continue
            chains.add(identity)
        group = group_size(instruction.attributes, devices)
        # The sum of an all-reduce may have a narrower type than its input: it is converted on the way.
        parts = [instruction] if kind == "all-reduce" else [computation.instructions[n] for n in instruction.operands]
        size = sum(part.bytes for part in parts) * (group if kind == "all-gather" else 1)
        overlapped = bool(chain) or instruction.opcode.endswith("-start")
        found.append(Transfer(_kind(computation, kind), size, group, times, overlapped))
    return found


def by_kind(found: list[Transfer]) -> dict[str, dict[str, int]]:
    """Count and bytes per step, by kind."""
    sums: dict[str, dict[str, int]] = {}
    for transfer in found:
        entry = sums.setdefault(transfer.kind, {"count": 0, "bytes": 0})
        entry["count"] += transfer.times
        entry["bytes"] += transfer.times * transfer.bytes
    return dict(sorted(sums.items()))


def group_size(attributes: str, devices: int) -> int:
    """Chips of one group of a collective.

    The compiler writes groups as lists {{0,1},{2,3}}, as [groups,size]<=[...], or as axes of a mesh.
    """
    listed = _LISTED.search(attributes)
    if listed:
        return len([number for number in listed[1].split(",") if number])
    counted = _COUNTED.search(attributes)
    if counted:
        return int(counted[2])
    mesh = _MESH.search(attributes)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        used = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part) if part else sizes[name] for name, part in used)
    return devices


def _channel(instruction: Instruction) -> str:
    found = _CHANNEL.search(instruction.attributes)
    return found[1] if found else instruction.name


def _kind(computation: Computation, kind: str) -> str:
    """A TPU's compiler writes a reduce-scatter as an all-reduce inside a fusion that keeps a slice of it."""
    slices = any(i.opcode == "dynamic-slice" for i in computation.instructions.values())
    return "reduce-scatter" if kind == "all-reduce" and "reduce-scatter" in computation.name and slices else kind
