"""metrics.jsonl: exact floats, no gaps or repeats after a resume."""

import json

from experiments.run.metric_writer import MetricWriter, read_metrics


def test_floats_come_back_equal_and_nan_is_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricWriter(path)
    value = 0.1 + 0.2
    writer.write(1, {"loss": value, "bad": float("nan"), "skipped": 0})
    writer.close()
    assert read_metrics(path) == [{"step": 1, "loss": value, "bad": None, "skipped": 0}]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_resuming_drops_what_came_after_and_a_line_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricWriter(path)
    for step in (1, 2, 3, 4):
        writer.write(step, {"loss": step / 3})
    writer.close()
    path.write_text(path.read_text() + '{"step": 5, "lo')
    writer = MetricWriter(path, resume_step=2)
    writer.write(3, {"loss": -1.0})
    writer.close()
    assert [(r["step"], r["loss"]) for r in read_metrics(path)] == [
        (1, 1 / 3),
        (2, 2 / 3),
        (3, -1.0),
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_tensorboard_gets_the_same_metrics(tmp_path):
    writer = MetricWriter(tmp_path / "metrics.jsonl", tensorboard=True)
    writer.write(1, {"loss": 0.5})
    writer.close()
    files = list((tmp_path / "tensorboard").glob("events*"))
    assert len(files) == 1 and b"loss" in files[0].read_bytes()
