"""What the runs of several processes share: data that is prepared once, programs that are compiled once."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.metric_writer import read_metrics
from tests.multi_process.launching import Run, launched, program


@pytest.fixture(scope="session")
def programs_of_processes(tmp_path_factory) -> Path:
    """Where compiled programs are kept."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="session")
def start(data_dir, programs_of_processes) -> Callable[..., contextlib.AbstractContextManager[Run]]:
    """`start(workdir, processes, devices, *overrides, ...)`: train with so many processes of so many devices each."""

    def start(workdir, processes, devices, *overrides, environments=({},), heartbeat=60):
        workdir.mkdir(parents=True, exist_ok=True)
        kept = {"PROGRAMS": str(programs_of_processes)}
        return launched(
            program("tests.multi_process.recorded_pretrain", workdir, data_dir, *overrides),
            workdir.with_name(f"{workdir.name}-logs"),
            processes=processes,
            devices=devices,
            heartbeat=heartbeat,
            environments=[kept | more for more in environments],
        )

    return start


@pytest.fixture(scope="session")
def one_process(tmp_path_factory, start) -> Path:
    """The workdir of a run of one process with four devices; not to be changed."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    with start(workdir, 1, 4) as run:
        run.succeed()
    return workdir


def last_step(workdir: Path) -> int:
    """The last step whose figures are written."""
    return max((record["step"] for record in read_metrics(workdir / "metrics.jsonl")), default=0)


def figures(workdir: Path) -> list[dict[str, float]]:
    """All records without the rates, which depend on the clock."""
    records = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in record.items() if not k.startswith("rate/")} for record in records]


def assert_same_figures(workdir: Path, other: Path, tolerance: float) -> None:
    """The same records in the same order, numbers equal within a relative tolerance (absolute below 1)."""
    mine, theirs = figures(workdir), figures(other)
    assert [record.keys() for record in mine] == [record.keys() for record in theirs]
    for one, two in zip(mine, theirs, strict=True):
        assert one == pytest.approx(two, rel=tolerance, abs=tolerance), one["step"]


def rows(workdir: Path) -> dict[int, dict[str, str]]:
    """step -> row of the global batch -> digest of what lay on the devices; processes and runs must agree."""
    found: dict[int, dict[str, str]] = {}
    for path in workdir.glob("rows-*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            known = found.setdefault(line["step"], {})
            assert all(known.get(row, digest) == digest for row, digest in line["rows"].items())
            known |= line["rows"]
    return found
