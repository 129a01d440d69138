"""The table and the drawing at the end of a pre-training run."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.run import report as module
from experiments.run.build import assemble
from experiments.run.metric_writer import MetricWriter
from experiments.tasks.registry import recipe_of
from pixelbert_jax.training.checkpoint import Checkpoints
from tests.experiments.fine_tuning import regions_config
from tests.experiments.tiny_config import get_config


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run that has not learned anything, its state and its folder with some metrics."""
    workdir = tmp_path_factory.mktemp("report")
    config = get_config()
    data = dataclasses.replace(config.data, data_dir=str(data_dir), texts_per_image=2)
    run = assemble(dataclasses.replace(config, data=data), workdir, Checkpoints(workdir / "checkpoints"))
    writer = MetricWriter(workdir / "metrics.jsonl")
    for step in range(1, 13):
        writer.write(step, {"loss": 2.0, "mlm_loss": 1.5 / step, "itm_loss": 0.5})
    for step in (6, 12):
        writer.write(step, {"eval/itm_accuracy": 0.5, "eval/mlm_accuracy_words": step / 20})
    writer.close()
    return run, run.trainer.init(), workdir


def test_table_and_drawing(finished, capsys):
    run, state, workdir = finished
    columns = module.report(run, state, workdir)
    assert columns.keys() == {"true images", "shuffled images", "text alone"}
    assert columns["text alone"]["itm_accuracy"] == 0.5
    assert all(0 <= column["mlm_accuracy_words"] <= 1 for column in columns.values())
    printed = capsys.readouterr().out
    assert f"{columns['true images']['itm_accuracy']:.3f}" in printed and "masked colour and shape words" in printed
    assert Image.open(workdir / "report.png").size == (1200, 880)
    assert sorted(path.name for path in workdir.iterdir()) == [
        "checkpoints",
        "metrics.jsonl",
        "report.json",
        "report.png",
    ]


def test_examples_are_evaluation_images_with_a_true_and_a_false_caption(finished):
    run, state, _ = finished
    stream = run.evaluation["eval"]
    examples = list(module._examples(run, state))
    both = 0
    for plan in stream.plan:
        batch = stream.make_batch(plan)
        both += sum({0, 1} <= set(batch["itm_label"][r][batch["pair_mask"][r]]) for r in range(len(batch["itm_label"])))
    assert len(examples) == both > 1
    for image, lines in examples:
        assert image.shape == (48, 48, 3) and np.ptp(image) > 50
        assert sum(line.startswith("matches 0.") for line in lines) == 2
        assert any("(right)" in line or "(wrong, " in line for line in lines[1:-2])


@pytest.mark.parametrize("kind", ["pixels", "regions"])
def test_the_drawn_logits_are_those_of_the_losses(kind, finished, region_data, tmp_path):
    """The losses of evaluation, computed anew from the logits over the vocabulary that predictions are drawn from."""
    if kind == "pixels":
        run, state, _ = finished
    else:
        run = assemble(regions_config(region_data), tmp_path, Checkpoints(tmp_path / "checkpoints"))
        state = run.trainer.init()
    batch = run.evaluation["eval"].make_batch(next(iter(run.evaluation["eval"].plan)))
    tokens, matching = (np.asarray(x, np.float64) for x in module._forward(run)(state, batch))
    assert tokens.shape[-1] == len(run.tokenizer.vocabulary) == run.config.model.text.vocabulary_size
    pairs, label = batch["pair_mask"].reshape(-1), batch["itm_label"].reshape(-1)
    counted = batch["mlm_mask"].reshape(len(pairs), -1) & (pairs & (label == 1))[:, None]  # as both configs say
    target = batch["mlm_target"].reshape(len(pairs), -1)
    loss = np.log(np.exp(tokens).sum(-1)) - np.take_along_axis(tokens, target[..., None], -1)[..., 0]
    sums = jax.device_get(run.trainer.eval_step(state, batch))
    assert sums["mlm_loss"][0] == pytest.approx(loss[counted].sum(), rel=1e-4) and counted.sum() == sums["mlm_loss"][1]
    assert sums["itm_loss"][0] == pytest.approx(
        np.log1p(np.exp(np.where(label, -matching, matching)))[pairs].sum(), rel=1e-4
    )


def test_the_same_examples_are_drawn_with_what_each_state_predicts(finished):
    run, state, _ = finished
    draw = module.ExamplesDrawer(run)
    drawn = draw(state)
    assert drawn.shape == (600, 1200, 3) and drawn.dtype == np.uint8 and np.ptp(drawn) > 200
    np.testing.assert_array_equal(draw(state), drawn)
    other = draw(state._replace(params=jax.tree.map(lambda x: 1.5 * x, state.params)))
    assert (other != drawn).any()
    changed = (other != drawn).any(axis=(-1, 1))
    assert not changed.all()  # the predictions change, the images do not


def test_examples_of_regions_have_their_boxes(region_data, tmp_path):
    run = assemble(regions_config(region_data), tmp_path, Checkpoints(tmp_path / "checkpoints"))
    drawn = module.ExamplesDrawer(run)(run.trainer.init())
    assert (drawn == module._BOX_COLOUR).all(-1).sum() > 100


def test_text_alone_predicts_from_the_neighbours(finished):
    """With one caption for counting and the same one for prediction, every token is right."""
    run, _, _ = finished
    stream = run.evaluation["eval"]
    alike = dataclasses.replace(stream.make_batch, sources=run.train.make_batch.sources)
    known = module.neighbour_guess(run.train.make_batch, dataclasses.replace(stream, make_batch=alike), ())
    unseen = module.neighbour_guess(run.train.make_batch, stream, run.task.reported_ids)
    assert known > unseen


@pytest.mark.filterwarnings("error:No artists with labels")  # there are no losses to draw
def test_without_mismatched_pairs_matching_has_no_value(finished, tmp_path, monkeypatch, capsys):
    run, state, _ = finished
    monkeypatch.setattr("experiments.tasks.pretraining.can_mismatch", lambda sources: False)
    assert recipe_of(run.config).unmeasurable([run.train.make_batch.sources[0]]) == ("itm_accuracy",)
    assert "have the same texts, so that there is no mismatched pair" in capsys.readouterr().out
    stream = dataclasses.replace(run.evaluation["eval"], unmeasurable=("itm_accuracy",))
    writer = MetricWriter(tmp_path / "metrics.jsonl")
    writer.write(6, {"eval/itm_accuracy": np.nan, "eval/mlm_accuracy_words": 0.3})
    writer.close()
    columns = module.report(dataclasses.replace(run, evaluation={"eval": stream}), state, tmp_path)
    saved = json.loads((tmp_path / "report.json").read_text())
    for column in ("true images", "shuffled images"):
        assert np.isnan(columns[column]["itm_accuracy"]) and saved[column]["itm_accuracy"] is None
        assert saved[column]["mlm_accuracy_words"] is not None
    assert (tmp_path / "report.png").exists()
