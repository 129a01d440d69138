"""The prediction of scaling: rows between compiled steps, transfers among other numbers of chips, the tables."""

import dataclasses
import json

import pytest

from benchmarks import scaling
from benchmarks.scaling import Step, between, make_row, read_steps, spread, step_of, table
from experiments.preflighting.chips import parse_topology
from experiments.preflighting.collectives import Transfer
from experiments.preflighting.estimate import estimate
from pixelbert_jax.errors import ConfigError


def step(topology, images, *, fsdp=1, work=1.0, model="m"):
    chips = parse_topology(topology).chips
    gathered = (Transfer("all-gather", 500, fsdp, 2),) if fsdp > 1 else ()
    transfers = (Transfer("all-reduce", 1000, chips // fsdp if fsdp > 1 else chips, 3), *gathered)
    return Step(model, topology, images, fsdp, 10, 1.0, work * 1e12, work * 1e11, work * 1e9, transfers)


STEPS = [step("v5p:2x2x2", 128, work=150), step("v5p:4x4x4", 16, work=18), step("v5p:8x8x16", 1, work=3)]


def test_a_compiled_row_is_the_estimate_of_its_step():
    row = make_row(STEPS, parse_topology("v5p:4x4x4"), 16)
    assert row.compiled and row.times == estimate(STEPS[1].counts, STEPS[1].slice)
    assert row.images_per_second == 16 * 64 / row.times.likely


def test_a_row_between_lies_on_the_line():
    counts = between(STEPS, 128, 8)
    share = (8 - 1) / (16 - 1)
    assert counts.operations == pytest.approx((3 + share * 15) * 1e12)
    assert (counts.memory_bytes, counts.cycles) == pytest.approx((counts.operations / 10, counts.operations / 1000))
    assert counts.transfers == (Transfer("all-reduce", 1000, 128, 3),)
    assert between(STEPS, 16, 64).operations == pytest.approx((18 + (64 - 16) / (128 - 16) * (150 - 18)) * 1e12)
    assert not make_row(STEPS, parse_topology("v5p:4x4x8"), 8).compiled
    assert not make_row(STEPS, parse_topology("v5p:4x4x8"), 16).compiled  # as many images, other chips
    assert between(STEPS[:1], 4, 256) is None and between(STEPS, 4096, 0.5) is None
    assert between(STEPS, 128, 16).operations == 18e12


def test_a_row_with_more_images_than_were_compiled_lies_on_the_line_through_the_last_two():
    counts = between(STEPS, 4, 256)
    assert counts.operations == pytest.approx((150 + (150 - 18) / (128 - 16) * 128) * 1e12)
    assert counts.transfers == (Transfer("all-reduce", 1000, 4, 3),)
    assert between(STEPS[1:], 8, 128).operations == pytest.approx((18 + (18 - 3) / (16 - 1) * 112) * 1e12)
    assert make_row(STEPS[1:], parse_topology("v5p:2x2x2"), 128).beyond
    assert not make_row(STEPS, parse_topology("v5p:2x2x2"), 128).beyond
    assert not make_row([step("v5p:4x4x8", 16, fsdp=8)], parse_topology("v5p:2x2x2"), 128, STEPS).beyond
    assert [line[:6] for line in table(STEPS[1:], "v5p", strong=True)[2:6]] == ["| 8 ~ ", "| 16 ~", "| 32 ~", "| 64 *"]


def test_the_nearest_step_gives_the_transfers():
    other = dataclasses.replace(STEPS[2], transfers=(Transfer("all-to-all", 7, 1024, 1),))
    assert between([STEPS[1], other], 64, 3).transfers == (Transfer("all-to-all", 7, 64, 1),)
    assert between([STEPS[1], other], 64, 14).transfers == (Transfer("all-reduce", 1000, 64, 3),)


def test_groups_that_share_parameters_keep_their_size():
    found = spread(step("v5p:4x4x4", 16, fsdp=16), 512)
    assert found == (Transfer("all-reduce", 1000, 32, 3), Transfer("all-gather", 500, 16, 2))


def test_split_parameters_outside_of_what_was_compiled():
    """The data-parallel row at as many images, plus what splitting changed at 16 images a chip."""
    whole, split = STEPS, [step("v5p:4x4x8", 16, fsdp=8, work=20)]
    row = make_row(split, parse_topology("v5p:2x2x2"), 128, whole)
    counts = scaling.beside(split, whole, 8, 128)
    assert (counts.operations, counts.memory_bytes, counts.cycles) == pytest.approx((152e12, 152e11, 152e9))
    assert counts.transfers == (Transfer("all-reduce", 1000, 1, 3), Transfer("all-gather", 500, 8, 2))
    assert row.times == estimate(counts, row.slice) and (row.fsdp, row.compiled) == (8, False)
    inside = make_row(split, parse_topology("v5p:8x8x8"), 16, whole)
    assert inside.times.matrix == 20e12 / inside.slice.chip.peak  # 16 images a chip were compiled
    assert make_row(split, parse_topology("v5p:2x2x2"), 128) is None
    assert scaling.beside([step("v5p:4x4x8", 12, fsdp=8)], whole, 8, 128) is None  # nowhere both
    assert scaling.beside(split, whole, 4096, 0.25) is None


def test_tables():
    strong = table(STEPS, "v5p", strong=True)
    assert [line.split(" | ")[0] for line in strong[2:]] == [
        *("| 8 *", "| 16", "| 32", "| 64 *", "| 128", "| 256", "| 512", "| 1,024 *")
    ]  # with more chips a chip has less than one image
    assert " 100% |" in strong[2] and strong[0].count("|") == strong[2].count("|") == strong[1].count("|")
    row = make_row(STEPS, parse_topology("v5p:4x4x4"), 16)
    hours = scaling.STEPS * row.times.likely / 3600
    assert strong[5].endswith(f"| {hours:.3g} | {64 * hours:,.0f} |")
    split = table([step("v5p:4x4x8", 16, fsdp=8, work=20)], "v5p", True, STEPS)
    assert len(split) == len(strong) and "*" not in split[5] + split[6]  # 128 chips have 8 images here
    weak = table(STEPS, "v5p", strong=False)
    assert len(weak) == 2 + 10 and weak[-1].startswith("| 4,096 | 16x16x16 | 16 |")
    assert f" {row.images_per_second / 16:,.0f} |" in weak[5]  # 16 hosts of 4 chips


def test_what_a_preflight_found_becomes_a_step(tmp_path, monkeypatch, capsys):
    one = {"kind": "all-reduce", "bytes": 8, "group": 64, "times": 2, "overlapped": False}
    canvas = {
        **{"memory": {"total": 5}, "compile_seconds": 2.0, "operations": 1e12, "bytes_moved": 1e9},
        **{"compiler_cycles": 1e6, "transfers": [one, {**one, "times": 3}, {**one, "bytes": 9}]},
    }
    canvas["fits"] = True
    found = {"topology": "v5p:4x4x4", "devices": 64, "images": 1024, "mesh": {"data": 64, "fsdp": 1}}
    new = step_of("r50", {**found, "canvases": [canvas]})
    assert new.transfers == (Transfer("all-reduce", 8, 64, 5), Transfer("all-reduce", 9, 64, 2))
    assert (new.images_a_chip, new.fsdp, new.memory) == (16, 1, 5)
    with pytest.raises(ConfigError, match="v5p:4x4x4 does not fit"):
        step_of("r50", {**found, "canvases": [{"fits": False}]})
    with pytest.raises(ConfigError, match=r"mesh\.fsdp=8 on 64 chips .* another number"):
        step_of("r50", {**found, "mesh": {"data": 8, "fsdp": 8}, "canvases": [canvas]})

    monkeypatch.setattr(scaling, "FILE", tmp_path / "scaling.json")
    (tmp_path / "found.json").write_text(json.dumps({**found, "canvases": [canvas]}))
    for _ in range(2):  # the second takes the place of the first
        monkeypatch.setattr(scaling, "_ADD", type("Flag", (), {"value": f"r50={tmp_path / 'found.json'}"}))
        monkeypatch.setattr(scaling, "_KIND", type("Flag", (), {"value": "v5p"}))
        scaling.main([])
    assert read_steps(tmp_path / "scaling.json") == [new]
    printed = capsys.readouterr().out
    assert "Weak scaling, r50, data-parallel, 16 images a chip:" in printed and "| 64 * | 4x4x4 | 16 |" in printed

    split = {**found, "topology": "v5p:4x4x8", "devices": 128, "images": 2048, "mesh": {"data": 16, "fsdp": 8}}
    (tmp_path / "found.json").write_text(json.dumps({**split, "canvases": [canvas]}))
    scaling.main([])
    whole, split = capsys.readouterr().out.split("Weak scaling, r50, ")[1:]
    assert whole.startswith("data-parallel") and "| 64 * |" in whole and "| 128 |" in whole
    assert split.startswith("parameters split over 8 chips") and "| 64 |" in split and "| 128 * |" in split
