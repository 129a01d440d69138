"""The table in docs/reliability.md: what was done to runs, how often, and what it cost."""

import dataclasses
import os
import subprocess
from collections.abc import Collection
from pathlib import Path

import jax

BEGIN, END = "<!-- make faults writes from here -->\n", "<!-- to here -->\n"
FAULTS = (  # in the table's order; each is recorded by at least one test
    "kill -9 at a random moment",
    "kill -9 while a checkpoint is being saved",
    "half a checkpoint beside the whole ones",
    "SIGTERM to one process of several; resumed on another topology",
    "one process of several killed",
    "one process of several frozen",
    "one process of several fails",
    "disk full while saving",
    "disk full while writing metrics.jsonl",
    "folder read-only from the start",
    "folder read-only under the run",
    "checkpoints/ deleted under the run",
    "workdir deleted under the run",
    "NaN or Inf in a gradient",
    "NaN or Inf in a batch",
    "a streak of them",
    "flipped bits, a truncated shard, an undecodable image",
    "more of them than data.max_bad_records",
    "a source that blocks",
    "a second run in one workdir",
    "bucket: 5% of the answers are 503 or 429",
    "bucket: 5% of the connections are cut in mid-body",
    "bucket: each answer takes 200 ms longer",
    "bucket: the server is away for 20 s",
    "bucket: permission is refused (403)",
    "bucket: deleted under the run",
    "bucket: one of two processes killed",
)


@dataclasses.dataclass
class Row:
    """One fault, over all times that it was tried."""

    outcome: str
    tried: int = 0
    lost_steps: list[int] = dataclasses.field(default_factory=list)  # of each time: computed again, or skipped
    lost_rows: int = 0  # rows of batches that are not those of an undisturbed run

    def cells(self, fault: str) -> str:
        """A line of the table."""
        total = sum(self.lost_steps)
        steps = f"{total}, at most {max(self.lost_steps)} at a time" if total and len(self.lost_steps) > 1 else total
        return f"| {fault} | {self.tried} | {self.outcome} | {steps} | {self.lost_rows or 'none'} |\n"


class Table:
    """Rows by fault."""

    def __init__(self, faults: Collection[str] = FAULTS) -> None:
        self.rows: dict[str, Row] = {}
        self._faults = faults

    def add(self, fault: str, outcome: str, *, lost_steps: list[int], lost_rows: int = 0) -> None:
        """Count one fault more; `lost_steps` has a number for each time that it was tried."""
        assert fault in self._faults, fault
        row = self.rows.setdefault(fault, Row(outcome))
        assert row.outcome == outcome, (row.outcome, outcome)
        row.tried += len(lost_steps)
        row.lost_steps += lost_steps
        row.lost_rows += lost_rows

    def missing(self) -> list[str]:
        """Faults without a row."""
        return [fault for fault in self._faults if fault not in self.rows]

    def write(self, path: Path, facts: str) -> None:
        """Put the table between the two marks of a file; a ValueError unless all is there."""
        text = path.read_text()
        if self.missing() or text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
            raise ValueError(f"{path} is left as it is; without a row: {self.missing()}")
        head = "| fault | times tried | outcome | lost steps | lost data |\n|---|---|---|---|---|\n"
        lines = "".join(self.rows[fault].cells(fault) for fault in self._faults)
        before, rest = text.split(BEGIN)
        path.write_text(f"{before}{BEGIN}{facts}\n\n{head}{lines}{END}{rest.split(END)[1]}")


def facts(root: Path) -> str:
    """Where the rows come from: commit, version of JAX, machine."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True).stdout.strip()

    changed = " and changes on top of it" if git("status", "--porcelain", "--untracked-files=no") else ""
    cores = len(os.sched_getaffinity(0))
    number = {1: "one CPU core", 2: "two CPU cores", 4: "four CPU cores"}.get(cores, f"{cores} CPU cores")
    return f"Commit {git('rev-parse', '--short', 'HEAD') or 'unknown'}{changed}, jax {jax.__version__}, {number}."
