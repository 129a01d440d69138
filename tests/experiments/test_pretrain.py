"""Pre-training as a user runs it: from the command to the checkpoint, killed, resumed, refused."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines.errors import DataError
from experiments.config import RunConfig
from experiments.metric_writer import read_metrics
from experiments.pretrain import pretrain
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.training.checkpoint import Checkpoints
from tests.experiments.tiny_config import get_config
from tests.fast_compiles import FLAGS

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("tiny_config.py")


def command(workdir: Path, data_dir: Path, *overrides: str) -> list[str]:
    program = [
        sys.executable,
        "-m",
        "experiments.pretrain",
        f"--config={CONFIG}",
        f"--workdir={workdir}",
    ]
    cache = f"--config.train.compilation_cache={data_dir.parent / 'compiled'}"
    return [*program, f"--config.data.data_dir={data_dir}", cache, *overrides]


def environment() -> dict[str, str]:
    """One device; compiling is what takes time, so it is told to optimise nothing."""
    flags = " ".join(f"{name}={value}" for name, value in FLAGS.items())
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}


def run(workdir: Path, data_dir: Path, *overrides: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(workdir, data_dir, *overrides),
        env=environment(),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


def exact_metrics(workdir: Path) -> list[dict]:
    """All records without the rates, which depend on the clock."""
    records = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in record.items() if not k.startswith("rate/")} for record in records]


def parameters(workdir: Path, step: int) -> list[np.ndarray]:
    from orbax.checkpoint import v1 as ocp

    loaded = ocp.load_checkpointables(workdir / "checkpoints" / str(step))
    return jax.tree.leaves(jax.tree.map(np.asarray, [loaded["model"], loaded["training"]]))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = run(Path("run"), data_dir, cwd=folder)  # a relative path, as users write it
    assert finished.returncode == 0, finished.stderr
    return folder / "run"


def test_a_run_leaves_what_it_promises(undisturbed):
    records = read_metrics(undisturbed / "metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 13))
    held_out = [r for r in records if "eval/itm_accuracy" in r]
    assert [r["step"] for r in held_out] == [6, 12]
    assert {"eval/mlm_loss", "eval/mlm_accuracy_words"} <= held_out[0].keys()
    training = {
        "loss",
        "mlm_loss",
        "itm_loss",
        "mlm_accuracy",
        "itm_accuracy",
        "rate/pairs_per_second",
    }
    assert training <= records[0].keys()
    assert sorted(int(p.name) for p in (undisturbed / "checkpoints").glob("[0-9]*")) == [4, 8, 12]
    assert json.loads((undisturbed / "config.json").read_text())["train"]["steps"] == 12
    vocabulary = (undisturbed / "vocab.txt").read_text().split()
    with_description = Checkpoints(undisturbed / "checkpoints")
    description = with_description.description(12)
    with_description.close()
    assert description["vocabulary"] == vocabulary
    assert {"jax", "flax", "orbax-checkpoint"} <= description["versions"].keys()


# Step 4 is saved before step 9 begins. tests/faults kills at more moments.
@pytest.mark.parametrize("at_step", [pytest.param(9, marks=pytest.mark.slow), 11])
def test_a_killed_run_goes_on_to_the_bit(undisturbed, tmp_path, data_dir, at_step):
    workdir = tmp_path / "run"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command(workdir, data_dir), env=environment(), cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None:
            records = read_metrics(workdir / "metrics.jsonl")
            if records and records[-1]["step"] >= at_step:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()
    resumed = run(workdir, data_dir)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming {workdir} at step" in resumed.stdout
    assert exact_metrics(workdir) == exact_metrics(undisturbed)
    for mine, theirs in zip(parameters(workdir, 12), parameters(undisturbed, 12), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_finished_run_starts_and_ends(undisturbed, data_dir):
    before = (undisturbed / "metrics.jsonl").read_bytes()
    again = run(undisturbed, data_dir)
    assert again.returncode == 0, again.stderr
    assert (undisturbed / "metrics.jsonl").read_bytes() == before


def test_another_configuration_is_refused_with_the_fields_that_differ(undisturbed, data_dir):
    refused = run(undisturbed, data_dir, "--config.seed=1", "--config.optimizer.clip_norm=2")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: ")
    assert "optimizer.clip_norm: 1.0 in the checkpoint, 2.0 now; seed: 0 in the checkpoint, 1 now" in refused.stderr
    assert "Traceback" not in refused.stderr


def small(data_dir: Path, **changes) -> RunConfig:
    config = get_config()
    data = dataclasses.replace(config.data, data_dir=str(data_dir), **changes)
    return dataclasses.replace(config, data=data)


def test_a_longer_run_goes_on_and_other_data_is_refused(undisturbed, data_dir, tmp_path):
    from data_pipelines.preparing import prepare

    prepare(
        "shapes",
        tmp_path,
        options={"num_train": 40, "num_validation": 8, "num_test": 0},
        num_threads=1,
    )
    with pytest.raises(DataError, match="holds a run on other data"):
        pretrain(small(tmp_path), undisturbed)


def test_bad_input_is_refused_before_anything_is_built(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.assembly.make_trainer", lambda *_, **__: pytest.fail("built a model"))
    config = small(data_dir)
    cases = [
        (small(tmp_path), "No prepared data set 'shapes'"),
        (small(data_dir, vocabulary="missing.txt"), "missing.txt: no such file"),
        (
            small(data_dir, train=(dataclasses.replace(config.data.train[0], split="tran"),)),
            "has no split 'tran'",
        ),
        (small(data_dir, canvases=((32, 32),)), "fits none of the canvases"),
        (
            dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, words=("xylophone",))),
            r"\['xylophone'\] are not single word pieces",
        ),
        (
            dataclasses.replace(
                config,
                model=dataclasses.replace(config.model, text=dataclasses.replace(config.model.text, vocabulary_size=7)),
            ),
            "vocabulary_size=7, but the vocabulary has",
        ),
    ]
    for i, (bad, message) in enumerate(cases):
        with pytest.raises((DataError, ConfigError), match=message) as error:
            pretrain(bad, tmp_path / f"run{i}")
        assert "\n" not in str(error.value)


def test_no_workdir_and_no_config_are_one_line(tmp_path):
    for arguments, message in (
        ([], "error: No --config=FILE"),
        ([f"--config={CONFIG}"], "error: Missing: --workdir"),
        ([f"--config={CONFIG}", "--config.train.step=3"], "did you mean config.train.steps?"),
    ):
        program = [sys.executable, "-m", "experiments.pretrain", *arguments]
        failed = subprocess.run(program, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert failed.returncode == 1
        assert message in failed.stderr and "Traceback" not in failed.stderr
