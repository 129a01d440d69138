"""Shared fixtures of the tests of the data pipelines."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import Record, open_records


@pytest.fixture(scope="session")
def shapes_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with a small data set of drawn scenes; tests must not change it."""
    data_dir = tmp_path_factory.mktemp("data")
    options = {"num_train": 40, "num_validation": 5, "num_test": 0}
    prepare("shapes", data_dir, options=options, num_threads=2)
    return data_dir


@pytest.fixture
def read_all(tmp_path: Path) -> Callable[..., dict[str, list[Record]]]:
    """A function that prepares a data set in a temporary folder and reads all of its splits."""

    def prepare_and_read(name: str, source_dir: Path, **options) -> dict[str, list[Record]]:
        data_dir = tmp_path / "data"
        folder = prepare(name, data_dir, source_dir, options=options, num_threads=2)
        splits = [path.stem.removeprefix("index-") for path in folder.glob("index-*.npz")]
        return {split: list(open_records(data_dir, name, split)) for split in splits}

    return prepare_and_read
