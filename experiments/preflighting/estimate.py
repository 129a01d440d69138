"""The least and the likely time of a step on a slice: a roofline from the counts of the compiled program.

It has three terms: matrix operations over the chips' peak, bytes over the memory's rate, transfers over the links'
rate. Matrix units and memory work at the same time. Transfers add to them unless the compiler runs them beside other
work. No real program reaches the peaks, so the likely time is longer by an assumed efficiency. Where the compiler
estimates cycles for its program, the larger of the two times counts.
"""

import dataclasses

from experiments.preflighting.chips import Slice
from experiments.preflighting.collectives import Transfer

CHIP_EFFICIENCY = 0.5  # of the peak rates of the matrix units and of memory
LINK_EFFICIENCY = 0.8  # of the links' rate


@dataclasses.dataclass(frozen=True)
class Counts:
    """The work of one step on one chip."""

    operations: float  # of matrix products and convolutions
    memory_bytes: float
    cycles: float  # as the compiler estimates; 0: unknown
    transfers: tuple[Transfer, ...]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step."""

    matrix: float  # at the peak rate
    memory: float  # at the peak rate
    network: float  # transfers that hold up the chip, at the peak rate
    hidden_network: float  # transfers beside other work, at the peak rate
    compiler: float  # the compiler's cycles over the clock, without transfers; 0: unknown
    least: float  # the roofline
    likely: float

    @property
    def limit(self) -> str:
        """The term that is most of the least time."""
        terms = {"matrix units": self.matrix, "memory": self.memory, "network": self.network + self.hidden_network}
        return max(terms, key=terms.__getitem__)


def estimate(
    counts: Counts,
    slice_: Slice,
    *,
    chip_efficiency: float = CHIP_EFFICIENCY,
    link_efficiency: float = LINK_EFFICIENCY,
) -> Estimate:
    """Seconds of a step on a slice."""
    chip = slice_.chip
    matrix, memory = counts.operations / chip.peak, counts.memory_bytes / chip.memory_rate
    network = sum(t.seconds(slice_) for t in counts.transfers if not t.overlapped)
    hidden = sum(t.seconds(slice_) for t in counts.transfers if t.overlapped)
    compiler = counts.cycles / chip.clock
    busy = max(max(matrix, memory) / chip_efficiency, compiler)
    return Estimate(
        matrix=matrix,
        memory=memory,
        network=network,
        hidden_network=hidden,
        compiler=compiler,
        least=max(matrix, memory, hidden) + network,
        likely=max(busy, hidden / link_efficiency) + network / link_efficiency,
    )
