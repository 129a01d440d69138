"""Prepared data that is damaged: flipped bits, a truncated shard, an undecodable image."""

import re
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import parse
from experiments.run.metric_writer import read_metrics
from tests.faults.losses import assert_undisturbed, steps_begun
from tests.multi_process.launching import Run, gate
from tests.multi_process.outcomes import assert_same_metrics, newest_step, rows

pytestmark = pytest.mark.slow
STEPS = 12  # an epoch: every record is read twice
OPTIONS = (f"--config.train.steps={STEPS}", "--config.checkpoint.every=3")
IN_A_SHARD = 8
DAMAGED = {0, 8, 16, *range(40, 48)}  # records: bits flipped in two, an image that is none, a shard that is cut off


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """Drawn scenes in six shards, three of them damaged."""
    data = tmp_path_factory.mktemp("damaged")
    options = {"num_train": 48, "num_validation": 13, "num_test": 0}
    prepare("shapes", data, options=options, num_threads=2, num_shards=6)
    files = sorted(data.glob("shapes/*/shapes-train.array_record*"))
    assert [ArrayRecordReader(str(file)).num_records() for file in files] == [IN_A_SHARD] * 6
    for file in files[:2]:
        content = bytearray(file.read_bytes())
        image = parse(ArrayRecordReader(str(file)).read([0])[0]).image
        content[content.index(image) + len(image) // 2] ^= 0x10
        file.write_bytes(content)
    records = ArrayRecordReader(str(files[2])).read_all()
    image = parse(records[0]).image
    writer = ArrayRecordWriter(str(files[2]), "group_size:1,uncompressed")
    for record in [records[0].replace(image, b"x" * len(image)), *records[1:]]:
        writer.write(record)
    writer.close()
    files[5].write_bytes(files[5].read_bytes()[: files[5].stat().st_size // 2])
    return data


def skipped(*runs: Run) -> set[str]:
    """Keys of the records that the processes of some starts have reported, each of them once."""
    reported = set()
    for run in runs:
        for process in range(len(run.processes)):
            lines = re.findall(r"skipped: (.+)", run.text(process))
            assert len(lines) == len(set(lines))
            reported |= {re.match(r"(Record \d+ of|[^:]+)", line)[0] for line in lines}
    return reported


def test_they_are_skipped_everywhere_alike(damaged, start, tmp_path, table):
    """Undisturbed, killed and resumed, and in two processes."""
    whole, killed, two = tmp_path / "whole", tmp_path / "killed", tmp_path / "two"
    with start(whole, 1, 4, *OPTIONS, data=damaged) as undisturbed:
        undisturbed.succeed()
    reported = skipped(undisturbed)
    numbers = {int(number) for key in reported for number in re.findall(r"Record (\d+) of", key)}
    assert len(reported) == len(DAMAGED) and len(numbers) == len(DAMAGED) - 1
    counted = sum(record.get("rows_skipped", 0) for record in read_metrics(whole / "metrics.jsonl"))
    assert counted == 2 * len(DAMAGED)

    with start(killed, 1, 4, *OPTIONS, data=damaged, environments=[{"GATE_AT": "6"}]) as first:
        first.until(gate(killed).exists)
        first.processes[0].kill()
        first.wait(60)
    again = steps_begun(killed) - newest_step(killed)
    with start(killed, 1, 4, *OPTIONS, data=damaged) as second:
        second.succeed()
    assert_undisturbed(killed, whole, STEPS)
    assert skipped(first, second) == reported

    with start(two, 2, 2, *OPTIONS, data=damaged) as run:
        run.succeed()
    assert_same_metrics(two, whole, 1e-5)
    assert rows(two) == rows(whole)
    assert skipped(run) == reported
    outcome = "skipped, named, counted; the same ones when resumed and on every host"
    table.add(
        "flipped bits, a truncated shard, an undecodable image",
        outcome,
        lost_steps=[0, again, 0],
        lost_rows=3 * counted,
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_too_many_end_the_run(damaged, start, tmp_path, table, processes):
    limit = "--config.data.max_bad_records=3"
    with start(tmp_path / "run", processes, 4 // processes, *OPTIONS, limit, data=damaged) as run:
        assert all(run.wait(240)), run.everything()
    assert "error: More than data.max_bad_records=3 records are damaged, the last one: " in run.everything()
    assert processes > 1 or "Traceback" not in run.text(0), run.text(0)
    lost = steps_begun(tmp_path / "run") - newest_step(tmp_path / "run")
    table.add("more of them than data.max_bad_records", "ends with one line that names the last one", lost_steps=[lost])
