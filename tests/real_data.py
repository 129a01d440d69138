"""Real photographs and sentences beside the repository; tests that need them skip without."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


def real_data(name: str) -> Path:
    """Folder of one data set, such as "coco"; skips the test where it is absent."""
    folder = FOLDER / name
    if not folder.is_dir():
        pytest.skip(f"needs real data that is not there: {folder}")
    return folder
