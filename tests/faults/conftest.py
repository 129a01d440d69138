"""Each test of a fault adds its result to one table; `make faults` runs all of them and writes the table."""

import os
from pathlib import Path

import pytest

from tests.faults.table import Table, facts

_TABLE = pytest.StashKey[Table]()
_WRITE_TO = "FAULTS_TABLE"  # the file that has the table; unset: none is written


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = Table()


@pytest.fixture(scope="session")
def table(pytestconfig) -> Table:
    """The table so far."""
    return pytestconfig.stash[_TABLE]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    target = os.environ.get(_WRITE_TO)
    if not target:
        return
    try:
        if exitstatus:
            raise ValueError(f"{target} is left as it is: a test failed")
        session.config.stash[_TABLE].write(Path(target), facts(session.config.rootpath))
    except ValueError as error:
        session.exitstatus = exitstatus or 1
        print(f"\n{error}")
