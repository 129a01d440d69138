"""The cost of a fault: steps that were computed again, rows of batches that were skipped or repeated."""

import collections
from pathlib import Path

from experiments.run.metric_writer import read_metrics
from tests.multi_process.outcomes import assert_same_checkpoint, metrics, recorded_rows, rows


def steps_begun(workdir: Path) -> int:
    """How many steps were begun by the first process, repeated ones too."""
    path = workdir / "rows-0.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def steps_again(workdir: Path) -> int:
    """How many times steps were begun again."""
    begun = collections.Counter(line["step"] for line in recorded_rows(workdir))
    processes = len(list(workdir.glob("rows-*.jsonl")))
    assert processes == 1, "counts the lines of one process"
    return begun.total() - len(begun)


def lost_rows(workdir: Path, undisturbed: Path) -> int:
    """How many rows of batches differ between the two runs, in either direction."""
    mine, theirs = rows(workdir), rows(undisturbed)
    pairs = [{(step, *row) for step, batch in found.items() for row in batch.items()} for found in (mine, theirs)]
    return len(pairs[0] ^ pairs[1])


def assert_undisturbed(workdir: Path, undisturbed: Path, steps: int) -> None:
    """Metrics, batches, parameters and optimizer are those of the other run, to the bit; no step is missing."""
    assert [r["step"] for r in read_metrics(workdir / "metrics.jsonl") if "loss" in r] == [*range(1, steps + 1)]
    assert metrics(workdir) == metrics(undisturbed)
    assert_same_checkpoint(workdir, undisturbed, steps)
    assert lost_rows(workdir, undisturbed) == 0
