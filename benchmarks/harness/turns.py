"""Ways of doing the same, timed in turn (A B A B ...), so that what else the machine does meets all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from benchmarks.harness.measuring import rounded

TURNS = flags.DEFINE_integer("turns", 3, "Timed turns; those that compile come before them.", lower_bound=1)


def in_turn(
    ways: Mapping[str, Callable[[], Any]],
    turns: int,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each way in each turn; `warm_up` turns before do not count. A way returns when its work is done.

    With `clock=time.process_time` they are processor seconds, which other programs on the same cores change less.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm_up + turns):
        for name, way in ways.items():
            begun = clock()
            way()
            if turn >= warm_up:
                seconds[name].append(clock() - begun)
    return seconds


def compared(seconds: Mapping[str, list[float]], ours: str, peer: str) -> dict[str, Any]:
    """Spread of each way, and of the ratio of ours to the peer, turn by turn."""
    ratios = [a / b for a, b in zip(seconds[ours], seconds[peer], strict=True)]
    return {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratio": spread(ratios),
        "ratio_of_least": rounded(min(seconds[ours]) / min(seconds[peer])),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest, to four digits."""
    return {
        "median": rounded(statistics.median(values)),
        "least": rounded(min(values)),
        "greatest": rounded(max(values)),
    }
