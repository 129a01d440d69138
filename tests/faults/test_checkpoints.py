"""Checkpoints and metrics that cannot be written, and halves of checkpoints: what the parts of a run do about it."""

import logging
import shutil
import time
import types

import jax.numpy as jnp
import pytest

from experiments.resilience.disk_errors import writing
from experiments.run.config_flags import _is_no_trace_of_orbax, _tell_unraisable
from experiments.run.metric_writer import MetricWriter, read_metrics
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.training.checkpoint import Checkpoints, describe
from pixelbert_jax.training.step import TrainState

STATE = TrainState(*[jnp.int32(i) for i in range(7)])


def save(checkpoints, *steps):
    for step in steps:
        checkpoints.save(step, STATE, describe("pretraining", {}, ()))
        checkpoints.wait()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_halves_after_the_last_whole_one_are_set_aside(tmp_path, caplog):
    """Otherwise they would be the latest, and be kept instead of whole ones."""
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 3, 6)
    checkpoints.close()
    shutil.copytree(tmp_path / "6", tmp_path / "9", ignore=lambda *_: ["_CHECKPOINT_METADATA"])
    (tmp_path / "12").mkdir()
    (tmp_path / "12.unfinished" / "of an earlier time").mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "absl"):
        checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest == 6
    assert names(tmp_path) == ["12.unfinished", "3", "6", "9.unfinished"]
    assert not names(tmp_path / "12.unfinished")
    assert f"{tmp_path / '9'} is not a whole checkpoint; it is now 9.unfinished." in caplog.text
    save(checkpoints, 9)
    checkpoints.close()
    assert names(tmp_path) == ["12.unfinished", "6", "9", "9.unfinished"]


def test_a_failed_save_is_noticed_without_waiting_and_reported_once(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 3)
    checkpoints.check()
    response = type("Response", (), {})()
    monkeypatch.setattr(checkpoints._checkpointer, "save_checkpointables_async", lambda *_, **__: response)
    outcomes = iter([TimeoutError(), TimeoutError(), ValueError("RESOURCE_EXHAUSTED: No space left on device [os_")])

    def result(timeout):
        assert timeout == 0
        raise next(outcomes)

    response.result = result
    checkpoints.save(6, STATE, {})
    checkpoints.check()
    checkpoints.check()
    expected = (
        rf"{tmp_path}: no checkpoint can be written at step 6 \(No space left on device\); the last whole one is "
        r"step 3\. Make room, make the folder writable or put it back, then give the same command again\.$"
    )
    with pytest.raises(ConfigError, match=expected) as error:
        checkpoints.check()
    assert "\n" not in str(error.value)
    checkpoints.check()
    checkpoints.wait()
    monkeypatch.setattr(checkpoints._checkpointer, "close", lambda: (_ for _ in ()).throw(ValueError("again")))
    checkpoints.close()


def test_a_folder_that_is_gone_is_not_made_again(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 3)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ConfigError, match=r"at step 6 \(.*deleted or moved.*\); there is no whole one"):
        save(checkpoints, 6)
    checkpoints.close()
    assert not names(tmp_path)


@pytest.mark.parametrize("moment", range(3))
def test_a_folder_that_goes_during_a_save_never_hangs(tmp_path, moment):
    """Whether the save fails, is quicker, or puts back what is being deleted."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(3, STATE, describe("pretraining", {}, ()))
    time.sleep(0.004 * moment)
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    began = time.monotonic()
    try:
        checkpoints.wait()
    except ConfigError as error:
        assert "no checkpoint can be written at step 3" in str(error)
    checkpoints.close()
    assert time.monotonic() - began < 600  # half of what Orbax waits for a folder that never comes


def test_a_file_in_place_of_the_folder_is_one_sentence(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(ConfigError, match=r"checkpoints: no checkpoint can be read or written \((File|Not a)"):
        Checkpoints(tmp_path / "checkpoints")


@pytest.mark.parametrize("fate", ["deleted", "replaced"])
def test_metrics_that_go_nowhere_are_noticed_before_a_checkpoint(tmp_path, fate):
    path = tmp_path / "metrics.jsonl"
    writer = MetricWriter(path)
    writer.write(1, {"loss": 2.0})
    writer.flush()
    text = path.read_text()
    path.unlink()
    if fate == "replaced":
        path.write_text(text)
    writer.write(2, {"loss": 1.0})
    reason = {"deleted": "No such file or directory", "replaced": "another file took its place"}[fate]
    with pytest.raises(ConfigError, match=rf"{path} cannot be written \({reason}"):
        writer.flush()
    with pytest.raises(ConfigError):
        writer.close()
    assert writer._file.closed


def test_metrics_that_are_whole_are_not_in_the_way(tmp_path):
    writer = MetricWriter(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        writer.write(step, {})
        writer.flush()
    writer.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]


def test_other_errors_are_not_about_writing(tmp_path):
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError("loss")
    with pytest.raises(ConfigError, match=rf"{tmp_path} cannot be written \(out of luck\)"), writing(tmp_path):
        raise OSError("out of luck")


def test_of_orbax_only_stacks_are_silent():
    def record(path, error):
        return logging.LogRecord("absl", logging.ERROR, path, 1, "", (), (type(error), error, None) if error else None)

    orbax = "/lib/orbax/checkpoint/future.py"
    assert not _is_no_trace_of_orbax(record(orbax, ValueError()))
    assert _is_no_trace_of_orbax(record(orbax, None))
    assert _is_no_trace_of_orbax(record("/lib/grain/loader.py", ValueError()))


def test_of_what_nobody_can_catch_only_closed_loops_are_silent(monkeypatch):
    shown = []
    monkeypatch.setattr("sys.__unraisablehook__", shown.append)
    closed, others = RuntimeError("Event loop is closed"), [RuntimeError("else"), ValueError("Event loop is closed")]
    for error in (closed, *others):
        _tell_unraisable(types.SimpleNamespace(exc_value=error))
    assert [args.exc_value for args in shown] == others
