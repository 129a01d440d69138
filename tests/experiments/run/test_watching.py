"""What a run leaves for people who watch it: rates, learning rates, a profile, TensorBoard, Weights & Biases."""

import dataclasses
import importlib.util
import json
import struct
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from experiments.pretrain import pretrain
from experiments.run.metric_writer import MetricWriter, read_metrics
from experiments.run.profiling import Profile
from experiments.run.utilization import measured_peak
from experiments.run.validation import validate
from pixelbert_jax.config import ResNetConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.training.optimizer import AdamWConfig, OptimizerConfig, SgdConfig, learning_rates
from tests.experiments.tiny_config import get_config

PAIRS = 16  # of a step
HAS_WANDB = importlib.util.find_spec("wandb") is not None


def small(data_dir, **train):
    config = get_config()
    optimizer = dataclasses.replace(config.optimizer, backbone=SgdConfig(learning_rate=0.5))
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, data_dir=str(data_dir)),
        optimizer=optimizer,
        train=dataclasses.replace(config.train, **train),
        evaluation=dataclasses.replace(config.evaluation, every=3),
        checkpoint=dataclasses.replace(config.checkpoint, every=3),
    )


@pytest.fixture(scope="module")
def watched(data_dir, tmp_path_factory, programs):
    """A run of 3 steps that goes on to step 5; each time, steps 2 to 4 are to be profiled."""
    workdir = tmp_path_factory.mktemp("watched") / "run"
    settings = {"tensorboard": True, "compilation_cache": str(programs), "profile": (2, 5)}
    traces = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        for steps in (3, 5):
            pretrain(small(data_dir, steps=steps, wandb="boards" if HAS_WANDB else "", **settings), workdir)
            traces.append(len(list((workdir / "profile").rglob("*.xplane.pb"))))
    return workdir, traces


def test_utilization_and_learning_rates_of_each_step(watched):
    records = [r for r in read_metrics(watched[0] / "metrics.jsonl") if "loss" in r]
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5]
    peak = measured_peak(jax.devices()[0], "float32")
    operations = [r["rate/tflops_per_device"] * 1e12 / (r["rate/pairs_per_second"] / PAIRS) for r in records]
    assert operations == pytest.approx([operations[0]] * 5) and operations[0] > 1e6
    for step, r in enumerate(records):
        assert r["rate/model_flops_utilization"] == pytest.approx(r["rate/tflops_per_device"] * 1e12 / peak)
        factor = 0.01 + 0.99 * step / 100  # of the quickstart's warm-up
        assert r["optimizer/learning_rate_transformer"] == pytest.approx(1e-3 * factor, rel=1e-5)
        assert r["optimizer/learning_rate_backbone"] == pytest.approx(0.5 * factor, rel=1e-5)
        assert "rate/peak_memory_gib" not in r  # JAX does not report a CPU's memory


def test_groups_without_trained_parameters_have_no_learning_rate():
    config = OptimizerConfig(SgdConfig(learning_rate=0.5), AdamWConfig(learning_rate=0.1))
    params = {"model": {"backbone": {"stem": {"kernel": np.zeros(1)}}, "encoder": {"kernel": np.zeros(1)}}}
    assert learning_rates(config, ResNetConfig(frozen_parts=0), params) == {"backbone": 0.5, "transformer": 0.1}
    assert learning_rates(config, ResNetConfig(frozen_parts=1), params) == {"transformer": 0.1}
    assert learning_rates(config, None, {"encoder": np.zeros(1)}) == {"transformer": 0.1}


def test_each_part_of_a_run_has_a_trace_of_its_own_steps(watched):
    assert watched[1] == [1, 2]


@pytest.fixture
def traces(monkeypatch):
    """What `jax.profiler` is asked to do."""
    calls = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: calls.append(str(folder)))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("stop"))
    return calls


def traced(profile, start, total):
    """The steps, of those that are run, that lie within the trace."""
    steps = []
    for step in range(start + 1, total + 1):
        profile.before(step, ())
        if profile.running:
            steps.append(step)
        profile.after(step, ())
    profile.end()
    return steps


@pytest.mark.parametrize(
    ("window", "start", "steps", "message"),
    [
        (None, 0, [], ""),
        ((3, 5), 0, [3, 4], ""),
        ((3, 5), 3, [4], "profile: of steps 3 to 4, steps 4 to 4 are run now and traced\n"),
        ((8, 20), 0, [8, 9, 10], "profile: of steps 8 to 19, steps 8 to 10 are run now and traced\n"),
        ((3, 5), 4, [], "profile: of steps 3 to 4, all were done before; no trace is written\n"),
    ],
)
def test_steps_of_the_window_that_are_run_now_are_traced(traces, capsys, window, start, steps, message):
    profile = Profile(window, epath.Path("run"), start, 10)
    assert capsys.readouterr().out == message
    assert traced(profile, start, 10) == steps
    assert traces == (["run/profile", "stop"] if steps else [])
    out = capsys.readouterr().out
    assert out.count("\n") == bool(steps) and (not steps or f"steps {steps[0]} to {steps[-1]} is in run/profile" in out)


def test_a_run_that_stops_within_the_window_leaves_its_trace(traces, capsys):
    profile = Profile((2, 9), epath.Path("run"), 0, 10)
    assert traced(profile, 0, 4) == [2, 3, 4]
    assert traces == ["run/profile", "stop"]
    assert "a trace of steps 2 to the end of the run is in run/profile" in capsys.readouterr().out


def test_each_of_several_processes_has_its_folder(traces, monkeypatch):
    monkeypatch.setattr("experiments.run.profiling.are_many", lambda: True)
    monkeypatch.setattr("experiments.run.profiling.index", lambda: 3)
    traced(Profile((1, 2), epath.Path("run"), 0, 10), 0, 10)
    assert traces == ["run/profile/process_3", "stop"]


def test_a_window_without_steps_is_refused(data_dir):
    for window in ((0, 2), (4, 4), (5, 3)):
        with pytest.raises(ConfigError, match=r"train.profile=\(\d, \d\) must be \(start, stop\) with 1 <= start"):
            validate(small(data_dir, steps=5, profile=window))
    validate(small(data_dir, steps=5, profile=(1, 2)))
    with pytest.raises(ConfigError, match=r"train.profile=\(11, 12\) begins after the last step, 10"):
        Profile((11, 12), epath.Path("run"), 0, 10)
    with pytest.raises(ConfigError, match=r"no trace can be written to the bucket of gs://bucket/run"):
        Profile((1, 2), epath.Path("gs://bucket/run"), 0, 10)


def test_tensorboard_has_the_examples_of_each_evaluation(watched):
    events = b"".join(file.read_bytes() for file in (watched[0] / "tensorboard").glob("events*"))
    assert events.count(b"\x89PNG") == 2  # steps 3 and 5
    assert b"eval/examples" in events and b"rate/model_flops_utilization" in events


def wandb_records(file: Path) -> list:
    """The records of an offline run, whose file is a LevelDB log; wandb has no reader of it in Python."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, records, parts = file.read_bytes(), 7, [], b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # the rest of a block is padding
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


@pytest.mark.skipif(not HAS_WANDB, reason="wandb is not installed (extra `wandb`)")
def test_wandb_offline_has_the_same_metrics_and_a_resumed_run_its_id(watched):
    workdir = watched[0]
    logged, ids = {}, set()
    for file in sorted(workdir.glob("wandb/offline-run-*/*.wandb")):
        for record in wandb_records(file):
            if record.HasField("run"):
                ids.add((record.run.project, record.run.run_id))
            elif record.HasField("history"):
                row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                step = logged.setdefault(record.history.step.num, {})
                step |= {name: json.loads(value) for name, value in row.items()}
    assert ids == {("boards", (workdir / "wandb_id.txt").read_text().strip())}
    records = read_metrics(workdir / "metrics.jsonl")
    assert sorted(logged) == [1, 2, 3, 4, 5] and len(records) == 7
    for record in records:
        step = record.pop("step")
        assert record == {name: logged[step][name] for name in record}
    pictures = list(workdir.glob("wandb/offline-run-*/files/media/images/eval/examples_*.png"))
    assert len(pictures) == 2


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"wandb is missing; pip install 'pixelbert_jax\[wandb\]'"):
        MetricWriter(tmp_path / "metrics.jsonl", wandb="boards")
    with pytest.raises(ConfigError, match=r"tensorboardX is missing; pip install 'pixelbert_jax\[tensorboard\]'"):
        MetricWriter(tmp_path / "metrics.jsonl", tensorboard=True)
