"""One process that gets a signal to stop: it saves, prints how to continue, and continues to the same bits."""

import dataclasses
import itertools
import multiprocessing
import os
import signal

import pytest

from experiments.resilience.preemption import StopRequest
from experiments.run import build
from experiments.run.config import CheckpointConfig
from experiments.run.metric_writer import read_metrics
from tests.experiments.fine_tuning import fine_tune, small_config, steps


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_a_signal_is_noticed_and_a_second_ctrl_c_ends_it(handler):
    """Also in a process that a script has started in the background, where SIGINT is ignored."""
    whole = signal.signal(signal.SIGINT, handler)
    try:
        _signal_twice()
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, whole)


def _signal_twice():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.reached(1)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reached(2) and stop.reached(3)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    with StopRequest() as stop:
        assert not stop.reached(1)


@pytest.fixture
def config(data_dir):
    """Evaluated after each third step, saved after the fourth and the last."""
    config = small_config()
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, data_dir=str(data_dir)),
        train=dataclasses.replace(config.train, steps=6),
        evaluation=dataclasses.replace(config.evaluation, every=3),
        checkpoint=CheckpointConfig(every=4, keep_last=9),
    )


@pytest.fixture
def signal_at(monkeypatch):
    """`signal_at(step)`: a signal comes while the step is computed; to processes that load both do, at `workers_at`.

    All runs of a test have one trainer: compiling is what takes time.
    """
    make_trainer, trainers = build.make_trainer, []

    def signal_at(step, number=signal.SIGTERM, workers_at=0):
        def signalling(*args, **kwargs):
            trainers[:] = trainers or [make_trainer(*args, **kwargs)]
            (trainer,) = trainers

            def train_step(state, batch):
                if int(state.step) + 1 == workers_at:
                    workers = multiprocessing.active_children()
                    assert workers
                    for worker, each in itertools.product(workers, (signal.SIGTERM, signal.SIGINT)):
                        os.kill(worker.pid, each)
                if int(state.step) + 1 == step:
                    os.kill(os.getpid(), number)
                return trainer.train_step(state, batch)

            return dataclasses.replace(trainer, train_step=train_step)

        monkeypatch.setattr(build, "make_trainer", signalling)

    return signal_at


def exact(workdir):
    records = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in record.items() if not k.startswith("rate/")} for record in records]


@pytest.mark.usefixtures("compiled_once")
def test_a_stopped_run_goes_on_to_the_bit(config, signal_at, tmp_path, capsys):
    signal_at(0)
    fine_tune(config, tmp_path / "whole")
    workdir = tmp_path / "run"
    for step, number in ((2, signal.SIGINT), (3, signal.SIGTERM), (4, signal.SIGTERM)):
        signal_at(step, number)
        fine_tune(config, workdir)
        assert steps(workdir / "checkpoints")[-1] == step
        assert exact(workdir)[-1]["step"] == step
        line = f"asked to stop: step {step} is saved in {workdir}; the same command goes on from there\n"
        assert capsys.readouterr().out.endswith(line)
    signal_at(0)
    fine_tune(config, workdir)
    assert steps(workdir / "checkpoints") == [2, 3, 4, 6]
    assert exact(workdir) == exact(tmp_path / "whole")


@pytest.mark.usefixtures("compiled_once")
def test_a_signal_at_the_last_step_ends_the_run(config, signal_at, tmp_path, capsys):
    signal_at(6)
    fine_tune(config, tmp_path / "run")
    assert f"done: {tmp_path / 'run'} holds" in capsys.readouterr().out
    assert steps(tmp_path / "run" / "checkpoints") == [4, 6]


@pytest.mark.usefixtures("compiled_once")
def test_loading_processes_ignore_the_signal(config, signal_at, tmp_path, capsys):
    """As schedulers do, which send signals to all processes of a job; here long before."""
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, workers=1),
        train=dataclasses.replace(config.train, steps=16),
        evaluation=dataclasses.replace(config.evaluation, every=0),
        checkpoint=CheckpointConfig(every=16),
    )
    signal_at(14, workers_at=2)
    fine_tune(config, tmp_path / "run")
    assert "asked to stop: step 14 is saved" in capsys.readouterr().out
    assert not multiprocessing.active_children()
