"""Chips, slices, and the roofline against a computation by hand."""

import dataclasses

import pytest

from experiments.preflighting.chips import CHIPS, Slice, find_chip, known_slices, parse_topology
from experiments.preflighting.collectives import HOP_SECONDS, Transfer
from experiments.preflighting.estimate import Counts, estimate
from pixelbert_jax.errors import ConfigError
from tests.experiments.preflighting.programs import CHIP


def test_names_of_slices():
    assert (parse_topology("v5e:8x8").chips, parse_topology("v5p:4x4x8").chips) == (64, 128)
    assert parse_topology("v6e:2x4").name == "v6e:2x4"
    for chip in CHIPS:
        slices = [parse_topology(name) for name in known_slices(chip)]
        assert [s.chips for s in slices] == [4 * 2**i for i in range(len(slices))] and len(slices) >= 7
        assert all(find_chip(kind) is chip for kind in chip.device_kinds)
    assert find_chip("cpu") is None


@pytest.mark.parametrize(
    "name", ["foo:2x2", "v5e", "v5e:8", "v5e:3x3", "v5e:0x2", "v5e:32x32", "v5p:4x4", "v5e:4x4x4", "v5e:8x", "v5e:-2x2"]
)
def test_unknown_slices_are_refused_with_the_known_ones(name):
    with pytest.raises(ConfigError, match=f"--topology={name}: .*(v5e:8x8|v5p:4x4x4)"):
        parse_topology(name)


def test_rate_of_the_links():
    """Both ways round an axis that closes to a ring, one way along one that does not."""
    ring, line = Slice(CHIP, (4, 8)), Slice(CHIP, (2, 6))
    assert ring.rate(32) == 4 * 25e9 and ring.hops(32) == 4 + 2
    assert line.rate(12) == 2 * 25e9 and line.hops(12) == 5 + 1
    assert ring.axes_of(8) == (8,) and ring.rate(8) == 2 * 25e9 and ring.hops(8) == 4
    assert ring.rate(1) == 0 and Slice(CHIP, (1, 1)).rate(1) == 0


def test_time_of_a_transfer():
    slice_ = Slice(CHIP, (4, 8))
    assert Transfer("all-reduce", 3200, 32, 2).sent == 2 * 3100
    assert Transfer("all-gather", 3200, 32, 1).sent == Transfer("reduce-scatter", 3200, 32, 1).sent == 3100
    assert Transfer("collective-permute", 3200, 32, 1).sent == 3200
    expected = 2 * (2 * 31 / 32 * 1e9 / 100e9 + 2 * 6 * HOP_SECONDS)
    assert Transfer("all-reduce", 10**9, 32, 2).seconds(slice_) == pytest.approx(expected)
    assert Transfer("all-reduce", 10**9, 1, 2).seconds(slice_) == 0


def test_roofline_is_that_of_a_hand_computation():
    slice_ = Slice(CHIP, (4, 8))
    sync = Transfer("all-reduce", 16 * 10**9, 32, 1)  # 31e9 bytes a chip at 100e9 a second, and 12 hops
    network = 0.31 + 12e-6
    counts = Counts(operations=50e12, memory_bytes=0.8e12, cycles=0, transfers=(sync,))
    times = estimate(counts, slice_)
    assert (times.matrix, times.memory, times.compiler) == (0.5, 0.8, 0)
    assert times.network == pytest.approx(network) and times.hidden_network == 0
    assert times.least == pytest.approx(0.8 + network)
    assert times.likely == pytest.approx(0.8 / 0.5 + network / 0.8)
    assert times.limit == "memory"
    assert estimate(counts, slice_, chip_efficiency=0.25).likely == pytest.approx(3.2 + network / 0.8)

    slower = estimate(dataclasses.replace(counts, cycles=4e9), slice_)  # at 2e9 cycles a second
    assert slower.compiler == 2 and slower.likely == pytest.approx(2 + network / 0.8) and slower.least == times.least

    beside = dataclasses.replace(sync, overlapped=True, bytes=160 * 10**9)
    hidden = estimate(dataclasses.replace(counts, transfers=(beside,)), slice_)
    assert hidden.network == 0 and hidden.hidden_network == pytest.approx(3.1 + 12e-6) == hidden.least
    assert hidden.likely == pytest.approx((3.1 + 12e-6) / 0.8) and hidden.limit == "network"


def test_the_table_of_chips_agrees_with_what_is_published():
    v5e, v5p = parse_topology("v5e:16x16"), parse_topology("v5p:4x4x4")
    assert v5e.chip.clock == pytest.approx(1.5e9, rel=0.01) and v5p.chip.clock == pytest.approx(1.75e9, rel=0.01)
    assert 2 * v5e.rate(256) == 400e9 and 2 * v5p.rate(64) == 1200e9  # "bidirectional bandwidth"
    assert 2 * parse_topology("v6e:16x16").rate(256) == 800e9
