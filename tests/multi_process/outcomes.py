"""The files of a run, and comparisons with those of another run."""

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from experiments.run.metric_writer import read_metrics
from pixelbert_jax.training.checkpoint import newest_checkpoint


def last_step(workdir: Path) -> int:
    """The last step whose metrics are written."""
    return max((record["step"] for record in read_metrics(workdir / "metrics.jsonl")), default=0)


def metrics(workdir: Path) -> list[dict[str, float]]:
    """All records without the rates, which depend on the clock."""
    records = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in record.items() if not k.startswith("rate/")} for record in records]


def assert_same_metrics(workdir: Path, other: Path, tolerance: float) -> None:
    """The same records in the same order, numbers equal within a relative tolerance (absolute below 1)."""
    mine, theirs = metrics(workdir), metrics(other)
    assert [record.keys() for record in mine] == [record.keys() for record in theirs]
    for one, two in zip(mine, theirs, strict=True):
        assert one == pytest.approx(two, rel=tolerance, abs=tolerance), one["step"]


def recorded_rows(workdir: Path) -> Iterator[dict]:
    """The lines of all processes: a step, and the digests of the rows of its batch."""
    for path in sorted(workdir.glob("rows-*.jsonl")):
        yield from map(json.loads, path.read_text().splitlines())


def rows(workdir: Path) -> dict[int, dict[str, str]]:
    """step -> row of the global batch -> digest of what lay on the devices; processes and runs must agree."""
    found: dict[int, dict[str, str]] = {}
    for line in recorded_rows(workdir):
        known = found.setdefault(line["step"], {})
        assert all(known.get(row, digest) == digest for row, digest in line["rows"].items())
        known |= line["rows"]
    return found


def newest_step(workdir: Path) -> int:
    """The step of the newest whole checkpoint, 0 if there is none."""
    newest = newest_checkpoint(workdir / "checkpoints")
    return int(newest.name) if newest else 0


def saved_arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint of one process, by name: parameters, statistics, optimizer, counters."""
    loaded = ocp.load_checkpointables(workdir / "checkpoints" / str(step))
    items = {name: loaded[name] for name in ("model", "training")}
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(items)}


def assert_same_checkpoint(workdir: Path, other: Path, step: int) -> None:
    """Equal to the bit, names, types and all."""
    mine, theirs = saved_arrays(workdir, step), saved_arrays(other, step)
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        assert (array.dtype, array.shape) == (theirs[name].dtype, theirs[name].shape), name
        assert array.tobytes() == theirs[name].tobytes(), name
