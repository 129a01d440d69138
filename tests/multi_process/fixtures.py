"""Fixtures of runs in processes of their own: programs that are compiled once, and an undisturbed run."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.multi_process.launching import CONFIG, Run, launched, program


@pytest.fixture(scope="session")
def programs_of_processes(tmp_path_factory) -> Path:
    """Where compiled programs are kept."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="session")
def start(data_dir, programs_of_processes) -> Callable[..., contextlib.AbstractContextManager[Run]]:
    """`start(workdir, processes, devices, *overrides, ...)`: train with `processes` processes of `devices` devices.

    `by` is a command that runs it, such as `nice`. If `uri` is a workdir in a bucket, `workdir` has only the records of
    `recorded_pretrain`. Other arguments are those of `launched`.
    """

    def start(
        workdir,
        processes,
        devices,
        *overrides,
        environments=({},),
        heartbeat=60,
        data=data_dir,
        config=CONFIG,
        by=(),
        uri=None,
    ):
        workdir.mkdir(parents=True, exist_ok=True)
        kept = {"PROGRAMS": str(programs_of_processes), "RECORDS": str(workdir)}
        module = "tests.multi_process.recorded_pretrain"
        return launched(
            [*by, *program(module, uri or workdir, data, *overrides, config=config)],
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
