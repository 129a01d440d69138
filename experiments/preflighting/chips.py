"""The peak rates of each kind of chip, and the links between the chips of a slice.

Peak rates, memory bandwidth and links: the key specifications on docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, where
"bidirectional ICI bandwidth" is both directions of all links; v4's links (50 GB/s each way) from Jouppi et al. 2023.
Memory is what the compiler of libtpu 0.0.42 lets a program use ("exceeds available HBM (15.75G)"), a little less than
what is sold. Clock: the peak divided by the operations per cycle of the matrix units.
"""

import dataclasses
import math
import re

from pixelbert_jax.errors import ConfigError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip."""

    name: str  # as in the name of a topology
    device_kinds: tuple[str, ...]  # as JAX names it
    peak: float  # bfloat16 floating-point operations per second of the matrix units
    operations_a_cycle: int  # of the matrix units
    memory: float  # bytes of main memory (HBM) that a program may use
    memory_rate: float  # bytes per second
    link_rate: float  # bytes per second of one link between two chips, one way
    axes: int  # of the grid of chips
    ring_multiple: int  # an axis whose length is a multiple of it closes to a ring
    largest: int  # chips of the largest slice
    host_chips: tuple[int, ...]  # chips per host

    @property
    def clock(self) -> float:
        """Cycles per second."""
        return self.peak / self.operations_a_cycle

    @property
    def host_sides(self) -> tuple[int, ...]:
        """The chips that libtpu assigns to a host, along each axis."""
        return (2, 2, 1)[: self.axes]


_FLAT = "2x2 2x4 4x4 4x8 8x8 8x16 16x16"
_SOLID = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16"
_MATRIX_UNIT = 2 * 128 * 128  # operations per cycle of a 128 x 128 unit
CHIPS = (
    Chip("v4", ("TPU v4",), 275e12, 8 * _MATRIX_UNIT, 30.75 * GIB, 1.2e12, 50e9, 3, 4, 4096, (4,)),
    Chip("v5e", ("TPU v5 lite",), 197e12, 4 * _MATRIX_UNIT, 15.75 * GIB, 819e9, 50e9, 2, 16, 256, (4, 8)),
    Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 8 * _MATRIX_UNIT, 95.74 * GIB, 2765e9, 100e9, 3, 4, 6144, (4,)),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 16 * _MATRIX_UNIT, 31.25 * GIB, 1640e9, 100e9, 2, 16, 256, (4, 8)),
)


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips of one kind in a grid."""

    chip: Chip
    sides: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.sides))}"

    @property
    def chips(self) -> int:
        return math.prod(self.sides)

    def axes_of(self, group: int) -> tuple[int, ...]:
        """Lengths of the axes that a group of `group` chips is taken to span: the longest ones first."""
        spanned, left = [], group
        for side in sorted(self.sides, reverse=True):
            if left > 1:
                spanned.append(side)
                left = -(-left // side)
        return tuple(spanned)

    def rate(self, group: int) -> float:
        """Bytes per second that each chip of a group passes on: both ways round a ring, one way along a line."""
        return sum(self.chip.link_rate * (2 if self._closes(side) else 1) for side in self.axes_of(group) if side > 1)

    def hops(self, group: int) -> int:
        """Links between the two chips of a group that are farthest apart."""
        return sum(side // 2 if self._closes(side) else side - 1 for side in self.axes_of(group))

    def _closes(self, side: int) -> bool:
        return side % self.chip.ring_multiple == 0


def find_chip(device_kind: str) -> Chip | None:
    """The chip with that name in JAX; None: not in the table."""
    return next((chip for chip in CHIPS if device_kind in chip.device_kinds), None)


def parse_topology(name: str) -> Slice:
    """The slice that a name such as v5e:8x8 or v5p:4x4x4 stands for.

    Raises:
      ConfigError: an unknown kind of chip, or a grid that is no slice of it.
    """
    kind, _, grid = name.partition(":")
    chip = next((chip for chip in CHIPS if chip.name == kind), None)
    if chip is None:
        known = ", ".join(chip.name for chip in CHIPS)
        raise ConfigError(
            f"--topology={name}: no chip {kind!r} in the table; write KIND:GRID with one of {known}, such as v5e:8x8 "
            "or v5p:4x4x4, or 'local' for the devices of this machine."
        )
    sides = tuple(map(int, grid.split("x"))) if re.fullmatch(r"\d+(x\d+)+", grid) else ()
    fits = len(sides) == chip.axes and all(
        side > 0 and side % least == 0 for side, least in zip(sides, chip.host_sides, strict=True)
    )
    if not fits or math.prod(sides) > chip.largest:
        raise ConfigError(
            f"--topology={name}: no slice of {kind}; its slices are grids of {chip.axes} numbers, multiples of "
            f"{'x'.join(map(str, chip.host_sides))}, of at most {chip.largest} chips: {', '.join(known_slices(chip))}."
        )
    return Slice(chip, sides)


def known_slices(chip: Chip) -> list[str]:
    """Names of the usual slices of a chip."""
    grids = (_FLAT if chip.axes == 2 else _SOLID).split()
    return [f"{chip.name}:{grid}" for grid in grids if math.prod(map(int, grid.split("x"))) <= chip.largest]
