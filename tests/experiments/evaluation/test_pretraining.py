"""A pre-trained model's own tasks on a split: the metrics of training's evaluation, and controls that score lower."""

import dataclasses
import json

import pytest
from absl.testing import flagsaver

import pixelbert_jax
from experiments import evaluate as program
from experiments.run import loop
from experiments.run.build import assemble
from experiments.run.common_flags import OUTPUT, SPLIT, WORKDIR
from experiments.run.config import RunConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.serialization import build
from pixelbert_jax.training.checkpoint import Checkpoints
from tests.experiments.evaluating import evaluate

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture(scope="module")
def of_training(small_run, pretrained):
    """Metrics of training's evaluation, for the same parameters and split."""
    config = build(pretrained.description["config"], RunConfig)
    config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, images=0))
    checkpoints = Checkpoints(small_run / "checkpoints")
    run = assemble(config, small_run, checkpoints)
    state = checkpoints.restore(0, run.trainer.abstract_state)
    checkpoints.close()
    return config, loop.evaluate(run.trainer, state, run.evaluation["eval"], config)


def test_the_numbers_of_training(of_training, small_run, tmp_path, capsys):
    config, expected = of_training
    settings = ((WORKDIR, str(small_run)), (OUTPUT, str(tmp_path / "a.json")), (SPLIT, "validation"))
    with flagsaver.flagsaver(*settings, measure="tasks"):
        program.main()
    found = json.loads((tmp_path / "a.json").read_text())
    assert {name: value for name, value in found.items() if not name.endswith("_examples")} == pytest.approx(expected)
    assert found["itm_accuracy_examples"] == 13 * config.data.texts_per_image
    assert f"{'itm_accuracy':40} {expected['itm_accuracy']:.4f}" in capsys.readouterr().out


def test_shuffled_images_and_a_few_of_them(of_training, pretrained, tmp_path):
    config, expected = of_training
    shuffled = evaluate(pretrained, "validation", tmp_path / "a.json", measure="tasks", shuffle_images=True)
    assert shuffled["mlm_loss"] != pytest.approx(expected["mlm_loss"], abs=1e-6)
    few = evaluate(pretrained, "validation", tmp_path / "a.json", measure="tasks", num_images=5)
    assert few["itm_accuracy_examples"] == 5 * config.data.texts_per_image


def test_what_has_no_such_tasks_is_refused(vqa_run, pretrained, tmp_path):
    fine_tuned = pixelbert_jax.load(vqa_run)
    with pytest.raises(ConfigError, match=r"--measure=tasks is for pre-trained models.*a model of the task vqa"):
        evaluate(fine_tuned, "val", tmp_path / "a.json", measure="tasks")
    with pytest.raises(ConfigError, match=r"--num_images=3: the official scores of vqa are of a whole split"):
        evaluate(fine_tuned, "val", tmp_path / "a.json", num_images=3)
    with pytest.raises(ConfigError, match=r"without --rerank_top.*--rerank_top=2"):
        evaluate(pretrained, "validation", tmp_path / "a.json", measure="tasks", rerank_top=2)
    with pytest.raises(ConfigError, match=r"name a \.json file"):
        evaluate(pretrained, "validation", tmp_path / "a.npz", measure="tasks")
    assert not list(tmp_path.iterdir())
