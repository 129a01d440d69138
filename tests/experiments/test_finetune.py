"""Fine-tuning on tiny data, from a saved pre-training run: what a run begins with and what it trains."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

import pixelbert_jax
from data_pipelines.config import SourceConfig
from pixelbert_jax.tasks.retrieval import RetrievalConfig
from tests.experiments.evaluating import evaluate
from tests.experiments.fine_tuning import ANSWERS, evaluated, fine_tune, retrieval_config

pytestmark = pytest.mark.usefixtures("compiled_once")


def test_a_run_begins_with_the_pretrained_model(vqa_run, small_run):
    report = json.loads((vqa_run / "init.json").read_text())
    assert {name.split(".")[0] for name in report["fresh"]} == {"answer_head"}
    assert set(json.loads((vqa_run / "answers.json").read_text())) == set(ANSWERS)
    before, after = pixelbert_jax.load(small_run), pixelbert_jax.load(vqa_run)
    assert after.description["task"] == "vqa" and after.task.config.answers == len(ANSWERS)
    assert after.tokenizer.vocabulary == before.tokenizer.vocabulary


def test_retrieval_starts_from_the_itm_head(data_dir, small_run, pretrained, tmp_path):
    config = retrieval_config(RetrievalConfig(negatives=6, hardest_negatives=2), data_dir, small_run, "shapes")
    data = dataclasses.replace(config.data, eval=(SourceConfig("shapes", "validation"),))
    config = dataclasses.replace(config, data=data, train=dataclasses.replace(config.train, steps=2))
    fine_tune(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "init.json").read_text())["fresh"] == []
    loaded = pixelbert_jax.load(tmp_path / "run")
    before, after = (
        {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
        for state in (nnx.as_pure(nnx.state(pretrained.model)), nnx.as_pure(nnx.state(loaded.model)))
    )
    for name, array in after.items():
        assert np.array_equal(array, before[name]) == ("backbone" in name), name
    found = evaluate(loaded, "validation", tmp_path / "a.npz")
    assert found["images"] == 13 and 0 <= found["text_recall_1"] <= found["text_recall_10"] <= 1
    assert 0 <= evaluated(tmp_path / "run", "eval/retrieval_accuracy")[2] <= 1
