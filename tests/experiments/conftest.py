"""A small prepared data set and a run that takes seconds."""

from pathlib import Path

import pytest

from data_pipelines.preparing import prepare


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes: 48 to train on, 13 held out."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(
        "shapes",
        folder,
        options={"num_train": 48, "num_validation": 13, "num_test": 0},
        num_threads=2,
    )
    return folder
