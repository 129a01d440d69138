"""benchmarks.cpu.preparing at a tiny size; its numbers are not looked at."""

import json

import pytest

pytest.importorskip("apache_beam", reason="needs Apache Beam, the extra `beam`")

from benchmarks.cpu.preparing import run


def test_both_ways_write_the_same() -> None:
    result = run([6])
    assert [(row["images"], row["way"]) for row in result["rows"]] == [(6, "plain"), (6, "beam")]
    assert result["same_bytes"]
    assert all(row["peak_mib"] > 10 and row["processes"] >= 1 for row in result["rows"])
    assert result["memory_growth"]["plain"]["ratio"] == 1
    assert json.loads(json.dumps(result)) == result
