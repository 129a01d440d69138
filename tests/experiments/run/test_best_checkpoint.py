"""The best checkpoint: kept beside the last, the same when a run is killed, by a metric that exists."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines.config import SourceConfig
from experiments.pretrain import pretrain
from experiments.run.best_checkpoint import BestCheckpoint
from experiments.run.build import assemble
from experiments.run.config import RunConfig
from experiments.run.metric_writer import read_metrics
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import find_description, load
from pixelbert_jax.tasks.nlvr2 import Nlvr2Config
from pixelbert_jax.tasks.retrieval import RetrievalConfig
from pixelbert_jax.training.checkpoint import Checkpoints
from tests.experiments.fine_tuning import config_of, evaluated, fine_tune, steps
from tests.experiments.tiny_config import get_config

pytestmark = pytest.mark.usefixtures("compiled_once")


def test_the_best_is_kept_beside_the_last(vqa_run):
    losses = evaluated(vqa_run, "eval/vqa_loss")
    assert sorted(losses) == [2, 4, 6]
    assert steps(vqa_run / "best") == [min(losses, key=losses.get)]
    assert steps(vqa_run / "checkpoints") == [6]


def test_every_program_takes_the_best_unless_the_last_is_wanted(vqa_run):
    (best,) = steps(vqa_run / "best")
    assert find_description(vqa_run)[1]["step"] == find_description(vqa_run / "best")[1]["step"] == best
    assert find_description(vqa_run, "last")[1]["step"] == find_description(vqa_run / "checkpoints")[1]["step"] == 6
    assert f"step {best}, the best by eval/vqa_loss (checkpoint=last takes the last)" in load(vqa_run).origin()
    assert load(vqa_run, checkpoint="last").origin().endswith("checkpoints/6, step 6")
    with pytest.raises(ConfigError, match="use 'best' or 'last'"):
        load(vqa_run, checkpoint="first")


def test_a_folder_without_a_whole_best_is_not_taken(vqa_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(vqa_run, run, ignore=shutil.ignore_patterns("best"))
    (run / "best" / "4.orbax-checkpoint-tmp-17").mkdir(parents=True)
    assert find_description(run)[0].parent.name == "checkpoints"


def state_of(workdir: Path, folder: str) -> list[np.ndarray]:
    from orbax.checkpoint import v1 as ocp

    (step,) = steps(workdir / folder)
    items = ocp.load_checkpointables((workdir / folder / str(step)).absolute())
    return jax.tree.leaves(jax.tree.map(np.asarray, items["model"]))


def test_a_killed_run_ends_with_the_same_best(vqa_run, vqa_config, tmp_path, monkeypatch):
    """Killed after the evaluation of a step and before its checkpoint: the best may be ahead of the last."""

    class Killed(BaseException):
        pass

    save = Checkpoints.save

    def killed(self, step, *arguments):
        if self.directory.name == "checkpoints" and step == 4:
            raise Killed
        save(self, step, *arguments)

    monkeypatch.setattr(Checkpoints, "save", killed)
    with pytest.raises(Killed):
        fine_tune(vqa_config, tmp_path / "run")
    monkeypatch.setattr(Checkpoints, "save", save)
    assert steps(tmp_path / "run" / "checkpoints") == [2]
    losses = {step: loss for step, loss in evaluated(vqa_run, "eval/vqa_loss").items() if step <= 4}
    assert steps(tmp_path / "run" / "best") == [min(losses, key=losses.get)]
    fine_tune(vqa_config, tmp_path / "run")
    for folder in ("best", "checkpoints"):
        assert steps(tmp_path / "run" / folder) == steps(vqa_run / folder)
        for mine, theirs in zip(state_of(tmp_path / "run", folder), state_of(vqa_run, folder), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert evaluated(tmp_path / "run", "eval/vqa_loss") == evaluated(vqa_run, "eval/vqa_loss")


class FakeCheckpoints:
    """Remembers what is saved; a save is whole only after a wait."""

    def __init__(self):
        self.saved, self.pending = [], None

    @property
    def latest(self):
        return self.saved[-1] if self.saved else None

    def save(self, step, state, description):
        self.pending = step

    def wait(self):
        if self.pending is not None:
            self.saved.append(self.pending)
        self.pending = None


def test_best_checkpoint(tmp_path, monkeypatch):
    fake = FakeCheckpoints()
    monkeypatch.setattr("experiments.run.best_checkpoint.Checkpoints", lambda *_, **__: fake)

    def offer(best, **values):
        for step, value in values.items():
            best.offer(int(step[1:]), {"eval/score": value, "eval/x_loss": value}, None, {})
        return fake.saved

    best = BestCheckpoint(tmp_path, "eval/score", 0)
    assert offer(best, s0=0.2, s1=0.1, s2=0.2, s3=0.4, s4=float("nan"), s5=0.3) == [0, 3]
    assert fake.pending is None
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": s, "eval/score": v}) + "\n" for s, v in ((1, 0.5), (2, None), (3, 0.9)))
    )
    fake.saved = [1]
    best = BestCheckpoint(tmp_path, "eval/score", 2)  # the resumed run does not know the value of step 3
    assert offer(best, s3=0.4, s4=0.6, s5=0.55) == [1, 4]
    fake.saved = [1, 6]  # saved by a run that was killed: the same state comes again
    assert offer(BestCheckpoint(tmp_path, "eval/score", 2), s4=0.6, s6=0.7, s7=0.65, s8=0.8) == [1, 6, 8]
    fake.saved = []
    assert offer(BestCheckpoint(tmp_path, "eval/x_loss", 0), s1=3.0, s2=2.0, s3=2.5) == [1, 2]
    with pytest.raises(
        ConfigError, match=r"checkpoint.best='eval/y' is not an evaluation metric; choose one of \['eval/score'"
    ):
        offer(BestCheckpoint(tmp_path, "eval/y", 0), s1=1.0)


def refused(config: RunConfig, best: str, workdir: Path) -> str:
    """The error of a run with checkpoint.best=`best`."""
    config = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, best=best))
    with pytest.raises(ConfigError, match=f"checkpoint.best='{best}' is not an evaluation metric") as error:
        pretrain(config, workdir)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_unknown_metric_is_refused_before_anything_is_read_or_trained(
    vqa_run, vqa_config, own_data, small_run, data_dir, tmp_path, monkeypatch
):
    """The error has the names of the metrics that the task reports."""
    monkeypatch.setattr("experiments.pretrain.load_sources", lambda *_: pytest.fail("read weights"))
    monkeypatch.setattr("experiments.pretrain.train", lambda *_: pytest.fail("trained"))
    reported = {name for r in read_metrics(vqa_run / "metrics.jsonl") for name in r if name.startswith("eval/")}
    for number, best in enumerate(("eval/accuracy", "vqa_score", "test/vqa_score", "eval/nlvr2_accuracy")):
        assert f"choose one of {sorted(reported)}." in refused(vqa_config, best, tmp_path / str(number))
    pairs = config_of(Nlvr2Config(), own_data, small_run, "image_pairs")
    assert "['eval/nlvr2_accuracy', 'eval/nlvr2_loss']" in refused(pairs, "eval/vqa_score", tmp_path / "pairs")
    scenes = config_of(RetrievalConfig(), data_dir, small_run, "shapes")
    data = dataclasses.replace(scenes.data, texts_per_image=1, eval=(SourceConfig("shapes", "validation"),))
    scenes = dataclasses.replace(scenes, data=data)
    message = refused(scenes, "eval/text_recall_1", tmp_path / "scenes")
    assert "['eval/retrieval_accuracy', 'eval/retrieval_loss']" in message


def test_a_metric_that_only_some_runs_report(data_dir, tmp_path):
    """The accuracy on the tokens of evaluation.words exists if there are any."""
    config = get_config()
    best = dataclasses.replace(config.checkpoint, best="eval/mlm_accuracy_words")
    data = dataclasses.replace(config.data, data_dir=str(data_dir))
    config = dataclasses.replace(config, data=data, checkpoint=best)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assemble(config, tmp_path, checkpoints)
    without = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, words=()))
    with pytest.raises(ConfigError, match=r"not an evaluation metric; choose one of .*'eval/mlm_accuracy_matched'"):
        assemble(without, tmp_path, checkpoints)
    checkpoints.close()
