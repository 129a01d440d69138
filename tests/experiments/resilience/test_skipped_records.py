"""Training on prepared data with damaged records: each start skips and names the same ones, up to a limit."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.storage.records import open_records
from experiments.pretrain import pretrain
from experiments.resilience.skipped_records import SkippedRecords
from experiments.run.config import EvaluationConfig, RunConfig, TrainConfig
from experiments.run.metric_writer import read_metrics
from tests.experiments.fine_tuning import on_devices, small_config

STEPS = 12  # an epoch: 48 images with two visits each, 8 rows per step


@pytest.fixture(scope="module")
def damaged_dir(tmp_path_factory, data_dir) -> Path:
    """The drawn scenes with a bit flipped in each of two training records."""
    folder = tmp_path_factory.mktemp("damaged") / "data"
    shutil.copytree(data_dir, folder)
    (file,) = folder.glob("shapes/*/shapes-train.array_record*")
    content = bytearray(file.read_bytes())
    for offset in (12_000, 36_000):
        content[offset] ^= 0x40
    file.write_bytes(content)
    return folder


@pytest.fixture
def config(damaged_dir, compiled_once) -> Iterator[RunConfig]:
    """Two devices: rows are skipped on each of them, and counted over both."""
    config = small_config()
    with on_devices(2):
        yield dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, data_dir=str(damaged_dir)),
            train=TrainConfig(steps=STEPS, log_every=3, compilation_cache=""),
            evaluation=EvaluationConfig(every=0),
            checkpoint=dataclasses.replace(config.checkpoint, every=STEPS),
        )


def damaged_records(folder: Path) -> list[int]:
    records, bad = open_records(folder, "shapes", "train"), []
    for i in range(len(records)):
        try:
            records[i]
        except DataError:
            bad.append(i)
    return bad


def test_damaged_records_are_skipped_and_named(config, damaged_dir, tmp_path, capsys):
    bad = damaged_records(damaged_dir)
    assert len(bad) == 2
    pretrain(config, tmp_path / "whole")
    printed = capsys.readouterr().err
    stopped = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=4))
    pretrain(stopped, tmp_path / "resumed")
    pretrain(config, tmp_path / "resumed")
    for number in bad:
        assert printed.count(f"skipped: Record {number} of Records(48 images in {damaged_dir}") == 1
    records = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    skipped = {record["step"]: record["rows_skipped"] for record in records if "rows_skipped" in record}
    assert sum(skipped.values()) == 2 * len(bad)
    assert all(np.isfinite(record["loss"]) for record in records if "loss" in record)
    losses = [
        [
            (record["step"], record["loss"])
            for record in read_metrics(tmp_path / name / "metrics.jsonl")
            if "loss" in record
        ]
        for name in ("whole", "resumed")
    ]
    assert losses[0][-1] == losses[1][-1] and losses[0][-1][0] == STEPS
    resumed = read_metrics(tmp_path / "resumed" / "metrics.jsonl")
    assert {r["step"]: r["rows_skipped"] for r in resumed if "rows_skipped" in r} == skipped


def test_too_many_stop_the_run(config, tmp_path):
    data = dataclasses.replace(config.data, max_bad_records=1)
    with pytest.raises(DataError, match=r"More than data\.max_bad_records=1 .* Record \d+ of .* prepare the data"):
        pretrain(dataclasses.replace(config, data=data), tmp_path / "run")


def test_each_is_reported_once(capsys):
    skipped = SkippedRecords()
    skipped.add(["a", "b", "a"], 2)
    skipped.add(np.array(["b"]), 2)
    assert capsys.readouterr().err == "skipped: a\nskipped: b\n"
    with pytest.raises(DataError, match=r"max_bad_records=2 .* c$"):
        skipped.add(["c"], 2)
