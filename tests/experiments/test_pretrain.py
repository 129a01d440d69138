"""Pre-training as a user runs it: from the command to the checkpoint, killed, resumed, refused."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from experiments.pretrain import pretrain
from experiments.run.config import RunConfig
from experiments.run.metric_writer import read_metrics
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.training.checkpoint import Checkpoints
from tests.multi_process.launching import CONFIG, environment, gate, launched, program
from tests.multi_process.outcomes import assert_same_checkpoint, metrics, newest_step
from tests.multi_process.small_config import get_config

ROOT = Path(__file__).parents[2]
STEPS = 6


def command(workdir: Path, data_dir: Path, *overrides: str, module: str = "experiments.pretrain") -> list[str]:
    cache = f"--config.train.compilation_cache={data_dir.parent / 'compiled'}"
    return program(module, workdir, data_dir, cache, *overrides)


def run(workdir: Path, data_dir: Path, *overrides: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(workdir, data_dir, *overrides),
        env=environment(1),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = run(Path("run"), data_dir, cwd=folder)  # a relative path, as users write it
    assert finished.returncode == 0, finished.stderr
    return folder / "run"


def test_a_run_leaves_what_it_promises(undisturbed):
    records = read_metrics(undisturbed / "metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == list(range(1, STEPS + 1))
    evaluated = [r for r in records if "eval/itm_accuracy" in r]
    assert [r["step"] for r in evaluated] == [3, 6]
    assert {"eval/mlm_loss", "eval/mlm_accuracy_words"} <= evaluated[0].keys()
    training = {
        "loss",
        "mlm_loss",
        "itm_loss",
        "mlm_accuracy",
        "itm_accuracy",
        "rate/pairs_per_second",
    }
    assert training <= records[0].keys()
    assert sorted(int(p.name) for p in (undisturbed / "checkpoints").glob("[0-9]*")) == [4, 6]
    assert json.loads((undisturbed / "config.json").read_text())["train"]["steps"] == STEPS
    vocabulary = (undisturbed / "vocab.txt").read_text().split()
    with_description = Checkpoints(undisturbed / "checkpoints")
    description = with_description.description(STEPS)
    with_description.close()
    assert description["vocabulary"] == vocabulary
    assert {"jax", "flax", "orbax-checkpoint"} <= description["versions"].keys()


@pytest.mark.slow  # tests/faults/test_kills.py has a quick one, in which this command's `main` is called
def test_a_killed_run_goes_on_to_the_bit(undisturbed, tmp_path, data_dir):
    """Step 4 is saved, step 5 done, and step 6 begun."""
    workdir = tmp_path / "run"
    recorded = command(workdir, data_dir, module="tests.multi_process.recorded_pretrain")
    killed_at = {"GATE_AT": "5", "PROGRAMS": str(tmp_path / "programs")}
    with launched(recorded, tmp_path / "logs", environments=[killed_at]) as killed:
        killed.until(lambda: gate(workdir).exists() and newest_step(workdir) == 4)
        killed.processes[0].kill()
        assert killed.wait() == [-signal.SIGKILL]
    resumed = run(workdir, data_dir)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming {workdir} at step 4\n" in resumed.stdout
    assert metrics(workdir) == metrics(undisturbed)
    assert_same_checkpoint(workdir, undisturbed, STEPS)


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
    from data_pipelines.preparation.run import prepare

    prepare(
        "shapes",
        tmp_path,
        options={"num_train": 40, "num_validation": 8, "num_test": 0},
        num_threads=1,
    )
    with pytest.raises(DataError, match="holds a run on other data"):
        pretrain(small(tmp_path), undisturbed)


def test_bad_input_is_refused_before_anything_is_built(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.run.build.make_trainer", lambda *_, **__: pytest.fail("built a model"))
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
            r"\['xylophone'\] are not single tokens",
        ),
        (
            dataclasses.replace(
                config,
                model=dataclasses.replace(config.model, text=dataclasses.replace(config.model.text, vocabulary_size=7)),
            ),
            "vocabulary_size=7, but the vocabulary has",
        ),
        (
            dataclasses.replace(config, train=dataclasses.replace(config.train, tensorboard=True)),
            "train.tensorboard is set but tensorboardX is missing",
        ),
    ]
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    for i, (bad, message) in enumerate(cases):
        with pytest.raises((DataError, ConfigError), match=message) as error:
            pretrain(bad, tmp_path / f"run{i}")
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--workdir=.*file is a file; name a folder"):
        pretrain(config, tmp_path / "file")


def test_no_workdir_and_no_config_are_one_line(tmp_path):
    for arguments, message in (
        ([], "error: No --config=FILE"),
        ([f"--config={CONFIG}"], "error: Missing: --workdir"),
        ([f"--config={CONFIG}", "--config.train.step=3"], "did you mean config.train.steps?"),
    ):
        program = [sys.executable, "-m", "experiments.pretrain", *arguments]
        failed = subprocess.run(program, env=environment(1), cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert failed.returncode == 1
        assert message in failed.stderr and "Traceback" not in failed.stderr
