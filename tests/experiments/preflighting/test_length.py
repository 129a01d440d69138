"""How long a run is."""

import pytest

from experiments.preflighting import report
from experiments.preflighting.length import Length, find_length
from experiments.run.config_flags import override
from tests.experiments.tiny_config import get_config


def test_length_from_prepared_data_is_that_of_the_plan(data_dir):
    fields = {"train.steps": "0", "train.epochs": "5", "data.canvases": "[[48, 48], [64, 64]]"}
    config = override(get_config(), {**fields, "data.data_dir": str(data_dir)})
    length = find_length(config, 0)
    # 48 images with 4 texts, 2 per visit, 8 visits per step.
    assert length.steps == 5 * 48 * 2 // 8 and length.by_canvas == {(48, 48): 60.0} and str(data_dir) in length.source


def test_length_without_data():
    config = override(get_config(), {"data.data_dir": "/nowhere"})
    assert find_length(config, 0) == Length(12, {(48, 48): 12.0}, "the config's steps")
    epochs = override(config, {"train.steps": "0", "train.epochs": "3", "data.canvases": "[[48, 48], [64, 64]]"})
    assert find_length(epochs, 0) is None
    assert find_length(epochs, 100) == Length(37, None, "--visits_per_epoch=100")


def test_hours_of_a_run():
    canvases = [{"canvas": [64, 64], "seconds": {"likely": 3.0}}, {"canvas": [48, 48], "seconds": {"likely": 1.0}}]
    length = Length(7200, {(48, 48): 3600.0, (64, 64): 1800.0, (48, 64): 1800.0}, "here")
    found = report.run_report(length, canvases, 4)
    assert found["hours"] == pytest.approx(1 + 1.5 + 1.5) and found["chip_hours"] == pytest.approx(16)
    assert found["steps_on_compiled_canvases"] == 5400
    assert "1,800 of them counted as on the largest" in report.run_lines(found, length)[0]
    assert report.run_report(Length(3600, None, "x"), canvases, 1)["hours"] == pytest.approx(3)
    assert report.run_report(None, canvases, 1) is None
    assert report.run_report(length, [{"canvas": [64, 64]}], 1) is None
