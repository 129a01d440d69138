"""Weights into a fresh training state: values, shardings, the moving average, the report, and what does not fit."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from pixelbert_jax.errors import ConfigError
from pixelbert_jax.training.sharding import MeshConfig
from pixelbert_jax.weights.conversion import Loaded
from pixelbert_jax.weights.initialize import InitConfig, apply, load_initial, summary_lines
from tests.pixelbert_jax.helpers import VOCABULARY, assert_trees_equal, make_batch, make_small_trainer, small_model

WORD, MEAN = "model.text_embedding.word", "model.backbone.stem.norm.mean"
KERNEL, HEAD = "model.encoder.layers.mlp_inner.kernel", "mlm_head.bias"


@pytest.fixture(scope="module")
def trainer():
    """Eight devices, even small parameters split over four of them, with a moving average."""
    return make_small_trainer(mesh=MeshConfig(data=2, fsdp=4, min_split_size=64), devices=8, ema_decay=0.9)


def drawn(*shape):
    return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


def some():
    return {WORD: drawn(VOCABULARY, 32), KERNEL: drawn(2, 32, 64), HEAD: drawn(VOCABULARY)}


def leaf(tree, name):
    """The leaf with a dotted name, in which numbers are list indices."""
    for key in name.split("."):
        tree = tree[int(key) if key.isdigit() else key]
    return tree


def names(state):
    return {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for tree in (state.params, state.rest)
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_values_shardings_and_the_rest(trainer):
    state = trainer.init()
    text, backbone = some(), {MEAN: drawn(8)}
    new, report = apply(state, {"text": Loaded(text), "backbone": Loaded(backbone)})
    for name, array in text.items():
        np.testing.assert_array_equal(leaf(new.params, name), array)
        np.testing.assert_array_equal(leaf(new.ema, name), array)
    np.testing.assert_array_equal(leaf(new.rest, MEAN), backbone[MEAN])
    assert not leaf(new.params, KERNEL).sharding.is_fully_replicated
    assert jax.tree.map(lambda x: x.sharding, new) == jax.tree.map(lambda x: x.sharding, state)
    assert report["loaded"] == dict.fromkeys(text, "text") | {MEAN: "backbone"}
    assert set(report["fresh"]) == names(state) - report["loaded"].keys()
    assert report["partial"] == {} and report["left_out"] == []
    for name in report["fresh"]:
        tree = "rest" if name.rsplit(".")[-1] in ("mean", "variance") else "params"
        np.testing.assert_array_equal(leaf(getattr(new, tree), name), leaf(getattr(state, tree), name))
    assert_trees_equal(new.opt_state, state.opt_state)
    assert_trees_equal(new.ema, new.params)


def test_training_goes_on_and_leaves_the_source_alone(trainer):
    content = some()
    before = {name: array.copy() for name, array in content.items()}
    state, _ = apply(trainer.init(), {"text": Loaded(content)})
    state, _ = trainer.train_step(state, make_batch())
    assert np.abs(np.asarray(leaf(state.params, KERNEL)) - before[KERNEL]).max() > 0
    for name, array in before.items():
        np.testing.assert_array_equal(content[name], array)


def test_leading_rows(trainer):
    state = trainer.init()
    rows = drawn(30, 32)
    new, report = apply(state, {"text": Loaded({WORD: rows}, {WORD: np.arange(30)})})
    np.testing.assert_array_equal(leaf(new.params, WORD)[:30], rows)
    np.testing.assert_array_equal(leaf(new.params, WORD)[30:], leaf(state.params, WORD)[30:])
    assert leaf(new.params, WORD).sharding == leaf(state.params, WORD).sharding
    assert report["partial"] == {WORD: 30} and report["loaded"] == {WORD: "text"}
    new, report = apply(
        state, {"text": Loaded({WORD: rows}, {WORD: np.arange(30)}), "later": Loaded({WORD: drawn(VOCABULARY, 32)})}
    )
    assert report["partial"] == {} and report["loaded"] == {WORD: "later"}


def test_no_moving_average():
    state = make_small_trainer().init()
    new, _ = apply(state, {"text": Loaded(some())})
    assert new.ema == {}
    np.testing.assert_array_equal(leaf(new.params, WORD), some()[WORD])


def test_the_state_shares_no_memory_with_the_source():
    """A device on the CPU would otherwise take an aligned array as it is, and training writes into what it holds."""
    memory = np.zeros(VOCABULARY * 32 + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    aligned = memory[start : start + VOCABULARY * 32].reshape(VOCABULARY, 32)
    new, _ = apply(make_small_trainer().init(), {"text": Loaded({WORD: aligned})})
    memory[:] = 1
    assert not np.asarray(leaf(new.params, WORD)).any()


def test_report_and_summary(trainer):
    state = trainer.init()
    content = some() | {"answer_head.bias": drawn(3), "answer_head.kernel": drawn(3, 3)}
    loaded = {
        "init.text=bert": Loaded(content | {WORD: drawn(30, 32)}, {WORD: np.arange(30)}, cut={WORD: 1200}),
        "init.backbone=net": Loaded({MEAN: drawn(8)}),
    }
    _, report = apply(state, loaded)
    assert json.loads(json.dumps(report)) == report
    assert report["left_out"] == ["answer_head.bias", "answer_head.kernel"]
    total = sum(array.size for array in jax.tree.leaves((state.params, state.rest)))
    counts = report["parameters"]
    assert counts["init.backbone=net"] == 8 and counts["init.text=bert"] == VOCABULARY * 33 + 2 * 32 * 64
    assert counts["fresh"] == total - 8 - counts["init.text=bert"]
    lines = summary_lines(report)
    assert lines[0] == "init.text=bert: 3 tensors, 5,416 numbers"
    assert lines[1] == "init.backbone=net: 1 tensors, 8 numbers"
    assert lines[2] == f"{WORD}: only 30 of its rows; the others are fresh"
    assert lines[3] == f"{WORD}: 1,200 rows of the source are not in the model"
    assert lines[4].startswith(f"fresh: {len(report['fresh'])} tensors, {counts['fresh']:,} numbers (")
    for part in ("itm_head 2", "mlm_head 4", "model.pixel_embedding 3", "model.text_embedding 3"):
        assert part in lines[4]
    assert lines[5] == "not used by this task: 2 tensors (answer_head 2)"
    assert len(lines) == 6


def test_unused_layers_are_reported(trainer):
    unused = ("encoder.layer.2.output.dense.bias", "encoder.layer.2.output.dense.weight", "encoder.layer.3.x")
    loaded = {"init.text=bert": Loaded({WORD: drawn(VOCABULARY, 32)}, unused=unused), "init.backbone=net": Loaded({})}
    _, report = apply(trainer.init(), loaded)
    assert json.loads(json.dumps(report))["unused"] == {"init.text=bert": list(unused)}
    assert (
        "init.text=bert: 3 tensors of layers that the model does not have stay unused "
        "(encoder.layer.2.output.dense.bias and others)"
    ) in summary_lines(report)


def test_nothing_to_load(trainer):
    state = trainer.init()
    new, report = apply(state, load_initial(InitConfig(), small_model()))
    assert_trees_equal(new, state)
    assert len(summary_lines(report)) == 1


def test_all_misfits_in_one_message(trainer):
    content = {WORD: drawn(30, 32), KERNEL: drawn(3, 32, 64), "model.text_embedding.words": drawn(1)}
    with pytest.raises(ConfigError) as error:
        apply(trainer.init(), {"here": Loaded(content)})
    for part in (
        "3 loaded arrays",
        WORD,
        "(30, 32)",
        KERNEL,
        "(2, 32, 64)",
        "model.text_embedding.words of here is not in",
    ):
        assert part in str(error.value)
    with pytest.raises(ConfigError, match="1 loaded arrays"):
        apply(trainer.init(), {"here": Loaded({WORD: drawn(30, 31)}, {WORD: np.arange(30)})})


def test_init_config():
    with pytest.raises(
        ConfigError, match=r"init\.checkpoint_parts='heads' must be one of 'all', 'backbone', 'transformer'"
    ):
        InitConfig(checkpoint_parts="heads")


def test_from_text_and_backbone(tmp_path, trainer):
    pytest.importorskip("torch")
    from safetensors.torch import save_file

    from tests.pixelbert_jax.weights.references import TorchResNet, shake, torch_bert

    model = small_model()
    backbone = str(tmp_path / "resnet.safetensors")
    save_file(shake(TorchResNet(model.backbone)).state_dict(), backbone)
    torch_bert(model.encoder, 30, 16, "BertForMaskedLM").save_pretrained(tmp_path / "bert")
    config = InitConfig(text=str(tmp_path / "bert"), backbone=backbone, resize=True)
    loaded = load_initial(config, model)
    assert loaded.keys() == {f"init.text={tmp_path / 'bert'}", f"init.backbone={backbone}"}
    state, report = apply(trainer.init(), loaded)
    assert set(report["fresh"]) == {name for name in names(state) if "pixel_embedding" in name or "itm_head" in name}
    assert report["partial"] == {WORD: 30, HEAD: 30}
    with pytest.raises(ConfigError, match=r"init\.resize=true"):
        load_initial(InitConfig(text=config.text), model)


def test_chosen_layers_and_first_position(tmp_path):
    """The fields of the config reach the source."""
    pytest.importorskip("torch")
    from tests.pixelbert_jax.weights.references import torch_bert

    model = small_model()
    deeper = dataclasses.replace(model.encoder, layers=model.encoder.layers + 1)
    torch_bert(deeper, VOCABULARY, 16).save_pretrained(tmp_path)
    (plain,) = load_initial(InitConfig(text=str(tmp_path)), model).values()
    chosen = InitConfig(text=str(tmp_path), text_layers=(1, 2), text_first_position="mean")
    (other,) = load_initial(chosen, model).values()
    assert {name.split(".")[2] for name in plain.unused} == {"2"} and {n.split(".")[2] for n in other.unused} == {"0"}
    position = other.arrays["model.text_embedding.position"]
    np.testing.assert_allclose(position[0], position[1:].mean(0), atol=1e-6)
