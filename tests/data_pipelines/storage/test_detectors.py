"""The description of a detector beside its regions."""

import json
from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.storage.detectors import named, read_detector, same_detector

A = {"name": "a", "revision": "0123456789abcdef", "fingerprint": "1"}
MOVED, B = A | {"name": "moved"}, A | {"fingerprint": "2", "name": "b\nb"}


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, json.dumps(A | {"name": 1}).encode()])
def test_a_damaged_description(content: bytes, tmp_path: Path) -> None:
    assert read_detector(tmp_path) is None
    (tmp_path / "detector.json").write_bytes(content)
    assert read_detector(tmp_path / "detector.json") is None  # a file of regions has no description beside it
    with pytest.raises(DataError, match=r"detector\.json is damaged") as error:
        read_detector(tmp_path)
    assert "\n" not in str(error.value)


def test_known_detectors_must_agree(tmp_path: Path) -> None:
    (tmp_path / "detector.json").write_text(json.dumps(A))
    assert read_detector(tmp_path) == A
    assert same_detector([]) is same_detector([("x", None)]) is None
    assert same_detector([("x", None), ("y", A), ("z", MOVED), ("w", None)]) == A
    assert named(B) == "b b (0123456789ab)"
    with pytest.raises(DataError, match=r"y has regions of the detector a .* and w has those of b b \(") as error:
        same_detector([("x", None), ("y", A), ("z", MOVED), ("w", B)])
    assert "\n" not in str(error.value)
