"""Several processes are one run: same batches, same losses, written once."""

import json
import sys

import numpy as np
import pytest

from pixelbert_jax.training.checkpoint import Checkpoints
from tests.multi_process.launching import launched
from tests.multi_process.outcomes import assert_same_metrics, rows

STEPS = 6


@pytest.mark.parametrize(
    ("processes", "devices", "fsdp"),
    [
        (2, 2, 1),
        (2, 2, 4),
        pytest.param(2, 2, 2, marks=pytest.mark.slow),
        pytest.param(4, 1, 1, marks=pytest.mark.slow),
        pytest.param(4, 1, 4, marks=pytest.mark.slow),
    ],
)
def test_the_same_run_as_in_one_process(one_process, start, tmp_path, processes, devices, fsdp):
    workdir = tmp_path / "run"
    with start(workdir, processes, devices, f"--config.mesh.fsdp={fsdp}") as run:
        run.succeed()
    assert_same_metrics(workdir, one_process, 1e-5)
    assert rows(workdir) == rows(one_process)
    assert {step: len(batch) for step, batch in rows(workdir).items()} == dict.fromkeys(range(STEPS), 8)
    for process in range(processes):
        own = [json.loads(line) for line in (workdir / f"rows-{process}.jsonl").read_text().splitlines()]
        assert all(len(line["rows"]) == 8 // processes for line in own)  # it loads no others
    assert f"done: {workdir}" in run.text(0)
    assert all("step 6" not in run.text(process) for process in range(1, processes))
    checkpoints = Checkpoints(workdir / "checkpoints")
    assert checkpoints.latest == STEPS and checkpoints.description(4)["step"] == 4
    checkpoints.close()
    written = {path.name for path in workdir.iterdir() if not path.name.startswith("rows-")}
    assert written == {".lock", "checkpoints", "config.json", "init.json", "metrics.jsonl", "vocab.txt"}


@pytest.mark.slow
def test_other_weights_are_placed_on_all_processes(one_process, start, tmp_path):
    """A run that starts from another one's checkpoint, its parameters split over the processes."""
    more = (f"--config.init.checkpoint={one_process}", "--config.train.steps=2", "--config.evaluation.every=0")
    for name, processes, devices, fsdp in (("one", 1, 4, 1), ("two", 2, 2, 4)):
        with start(tmp_path / name, processes, devices, *more, f"--config.mesh.fsdp={fsdp}") as run:
            run.succeed()
        assert "init.checkpoint=" in run.text(0)
    assert_same_metrics(tmp_path / "two", tmp_path / "one", 1e-5)
    assert (tmp_path / "two" / "init.json").read_text() == (tmp_path / "one" / "init.json").read_text()


@pytest.mark.slow
def test_all_pairs_are_scored_by_several_processes(one_process, data_dir, tmp_path):
    scores = []
    for processes, devices in ((1, 2), (2, 1)):
        output = tmp_path / f"{processes}.npz"
        command = [sys.executable, "-m", "experiments.evaluate", f"--workdir={one_process}", "--split=validation"]
        with launched(
            [*command, f"--output={output}", f"--data_dir={data_dir}"],
            tmp_path / f"logs-{processes}",
            processes=processes,
            devices=devices,
        ) as run:
            run.succeed()
        assert f"written to {output}" in run.text(0)
        scores.append(np.load(output)["scores"])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5, atol=1e-6)
    assert {path.name for path in tmp_path.glob("*.npz*")} == {"1.npz", "2.npz"}
