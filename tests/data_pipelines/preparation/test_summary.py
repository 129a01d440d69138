"""Canvases and padding, lines about skipped images, and progress lines."""

import io
import re
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import progress as progress_module
from data_pipelines.images.resize import ResizeRule
from data_pipelines.preparation.run import prepare
from data_pipelines.preparation.summary import canvases_and_padding, describe
from data_pipelines.progress import Progress
from data_pipelines.storage.records import Index, read_summary
from tests.data_pipelines.publishers import coco


def index(*sizes: tuple[int, int]) -> Index:
    heights, widths = np.array(sizes, np.int32).T
    return Index(heights, widths, np.ones(len(sizes), np.int32), "")


def test_canvases_and_padding() -> None:
    rule = ResizeRule(128, 256)
    counts, padding = canvases_and_padding(index((10, 10), (10, 20), (10, 20)), rule)
    assert counts == {(128, 128): 1, (128, 256): 2}
    assert padding == 0
    # 10x18 becomes 128x230 on a canvas of 128x256.
    counts, padding = canvases_and_padding(index((10, 18)), rule)
    assert counts == {(128, 256): 1}
    assert padding == pytest.approx(1 - 230 / 256)


def test_skipped_images_are_listed(tmp_path: Path) -> None:
    source = coco(tmp_path / "coco", train=range(1, 21), val=(50,))
    for i in range(1, 8):
        (source / "train2017" / f"{i:012d}.jpg").write_bytes(b"")
    folder = prepare("coco_captions", tmp_path / "data", source, max_bad_share=0.5)
    text = describe(folder, read_summary(folder), ResizeRule(64, 128))
    lines = text.splitlines()
    assert lines[-7] == "skipped in train: 7 empty file"
    assert lines[-6] == f"  {source}/train2017/{1:012d}.jpg: empty file"
    assert lines[-1] == "  ... and 2 more"
    assert "validation" not in "\n".join(lines[-7:])


def test_progress_prints_lines_where_there_is_no_terminal(monkeypatch) -> None:
    monkeypatch.setattr(progress_module, "LINE_EVERY", 0.0)
    stream = io.StringIO()
    progress = Progress("things", stream)
    progress.start("first", 2)
    progress.step()
    progress.start("second")
    progress.step()
    progress.close()
    progress.close()
    lines = stream.getvalue().splitlines()
    assert re.fullmatch(r"first: 1 of 2 things, [\d,.e+]+ per second, 0\.0 minutes left", lines[0])
    assert [line.partition(", ")[0] for line in lines] == [
        "first: 1 of 2 things",
        "first: 1 of 2 things",
        "second: 1 things",
        "second: 1 things",
    ]


def test_progress_draws_a_bar_on_a_terminal() -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True
    progress = Progress("things", stream)
    progress.start("first", 2)
    progress.step()
    progress.close()
    assert "\r" in stream.getvalue()
    assert "0/2" in stream.getvalue()
