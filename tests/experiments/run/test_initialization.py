"""A new run from another run or from published weights: what is taken, what is refused, what is printed."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

import pixelbert_jax
from data_pipelines.errors import DataError
from data_pipelines.text.tokenizer import SPECIAL, Tokenizer
from experiments import pretrain as program
from experiments.run.build import find_vocabulary, with_vocabulary_size
from experiments.run.initialization import load_sources
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import named_arrays
from pixelbert_jax.tasks.pretraining import PretrainingTask
from pixelbert_jax.weights.initialize import InitConfig
from tests.experiments.tiny_config import get_config


@pytest.fixture(scope="module")
def loaded(saved_run):
    return pixelbert_jax.load(saved_run)


@pytest.fixture(scope="module")
def saved(loaded):
    return {name: np.asarray(array) for name, array in named_arrays(nnx.state(loaded.model)).items()}


def taken(saved_run, loaded, task=None, **fields):
    sources = load_sources(InitConfig(checkpoint=str(saved_run), **fields), task or loaded.task, loaded.tokenizer)
    ((label, source),) = sources.items()
    assert label == f"init.checkpoint={saved_run}" and not source.partial
    return source.arrays


def test_parts_of_another_run(saved_run, loaded, saved):
    everything = taken(saved_run, loaded)
    assert everything.keys() == saved.keys()
    for name, array in everything.items():
        np.testing.assert_array_equal(array, saved[name])
    backbone = taken(saved_run, loaded, checkpoint_parts="backbone")
    transformer = taken(saved_run, loaded, checkpoint_parts="transformer")
    assert all(name.startswith("model.backbone.") for name in backbone)
    assert backbone.keys() | transformer.keys() == saved.keys() and not backbone.keys() & transformer.keys()
    assert {"itm_head.kernel", "model.pixel_embedding.linear.kernel"} <= transformer.keys()


@dataclasses.dataclass(frozen=True)
class OtherHead(PretrainingTask):
    """A task whose image-text matching (ITM) head has two outputs."""

    def init(self, *, platform=None, rngs):
        module = super().init(platform=platform, rngs=rngs)
        module.itm_head = nnx.Linear(self.model.encoder.width, 2, rngs=rngs)
        return module


def test_heads_that_do_not_fit_stay_fresh(saved_run, loaded, saved):
    other = OtherHead(loaded.task.model, loaded.task.config)
    assert saved.keys() - taken(saved_run, loaded, other).keys() == {"itm_head.kernel", "itm_head.bias"}


def test_another_vocabulary_is_refused(saved_run, loaded, tmp_path):
    pieces = list(loaded.tokenizer.vocabulary)
    pieces[7], pieces[8] = pieces[8], pieces[7]
    other = Tokenizer(tuple(pieces))
    with pytest.raises(ConfigError, match=r"differ from line 8 on.*set data.vocabulary=.*vocab.txt") as error:
        load_sources(InitConfig(checkpoint=str(saved_run)), loaded.task, other)
    assert "\n" not in str(error.value)
    assert load_sources(InitConfig(checkpoint=str(saved_run), checkpoint_parts="backbone"), loaded.task, other)
    longer = Tokenizer((*loaded.tokenizer.vocabulary, "more"))
    with pytest.raises(ConfigError, match=f"differ from line {len(pieces) + 1} on"):
        load_sources(InitConfig(checkpoint=str(saved_run)), loaded.task, longer)
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    with pytest.raises(ConfigError, match=r"init.text=.* was trained on another vocabulary"):
        load_sources(InitConfig(text=str(tmp_path)), loaded.task, loaded.tokenizer)


def test_tokens_keep_their_vectors_by_their_string(saved_run, loaded, saved):
    """Another order, new tokens, fewer tokens; more positions."""
    theirs = loaded.tokenizer.vocabulary
    moved = [*theirs[:5], *reversed(theirs[5:-3])]  # the special tokens stay in front
    ours = Tokenizer((*moved[:20], "zebra", *moved[20:], "okapi"))
    text = dataclasses.replace(loaded.task.model.text, vocabulary_size=len(ours.vocabulary), max_positions=40)
    task = dataclasses.replace(loaded.task, model=dataclasses.replace(loaded.task.model, text=text))
    (source,) = load_sources(InitConfig(checkpoint=str(saved_run), resize=True), task, ours).values()
    fresh = {ours.ids[token] for token in ("zebra", "okapi")}
    for name in ("model.text_embedding.word", "mlm_head.bias"):
        assert set(source.partial[name]) == set(range(len(ours.vocabulary))) - fresh and source.cut[name] == 3
        for row, index in zip(source.arrays[name], source.partial[name], strict=True):
            np.testing.assert_array_equal(row, saved[name][loaded.tokenizer.ids[ours.vocabulary[index]]])
    positions = saved["model.text_embedding.position"]
    np.testing.assert_array_equal(source.partial["model.text_embedding.position"], np.arange(len(positions)))
    np.testing.assert_array_equal(source.arrays["model.text_embedding.position"], positions)
    rest = saved.keys() - source.partial.keys()
    assert rest == source.arrays.keys() - source.partial.keys()
    assert all(np.array_equal(source.arrays[name], saved[name]) for name in rest)


def test_the_checkpoint_decides_the_vocabulary(saved_run, loaded, monkeypatch, capsys):
    """A config names BERT's vocabulary and its size: neither is used."""
    monkeypatch.setattr("data_pipelines.text.tokenizer.snapshot", lambda *_: pytest.fail("called the hub"))
    config = get_config()
    init = InitConfig(checkpoint=str(saved_run))
    config = dataclasses.replace(
        config, init=init, data=dataclasses.replace(config.data, vocabulary="bert-base-uncased")
    )
    assert find_vocabulary(config, []) == loaded.tokenizer.vocabulary
    assert "data.vocabulary=bert-base-uncased is not read: the tokens are those of init.ch" in capsys.readouterr().out
    text = dataclasses.replace(config.model.text, vocabulary_size=30522)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, text=text))
    assert with_vocabulary_size(config, 77).model.text.vocabulary_size == 77
    with pytest.raises(ConfigError, match="vocabulary_size=30522, but the vocabulary has 77"):
        with_vocabulary_size(dataclasses.replace(config, init=InitConfig()), 77)


def test_another_case_is_refused(saved_run, loaded, tmp_path):
    cased = Tokenizer(loaded.tokenizer.vocabulary, lowercase=False)
    with pytest.raises(ConfigError, match=r"trained with data\.lowercase=True, this run has False; set it to"):
        load_sources(InitConfig(checkpoint=str(saved_run)), loaded.task, cased)
    assert load_sources(InitConfig(checkpoint=str(saved_run), checkpoint_parts="backbone"), loaded.task, cased)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    for name in (tmp_path, tmp_path / "model.safetensors"):
        (tmp_path / "model.safetensors").touch()
        with pytest.raises(DataError, match=r"tokenizer_config.json: do_lower_case is false.*data.lowercase=False"):
            load_sources(InitConfig(text=str(name)), loaded.task, loaded.tokenizer)


@pytest.mark.parametrize(
    ("word", "lowercase", "said"),
    [
        ("Dog", True, "1 of its 6 tokens have upper-case letters"),
        ("dog", True, ""),
        ("Dog", False, ""),
        ("dog", False, "none of its 6 tokens has an upper-case letter"),
    ],
)
def test_a_vocabulary_of_another_case_is_reported(word, lowercase, said, tmp_path, capsys):
    """No tokenizer_config.json tells the case; the tokens do."""
    (tmp_path / "vocab.txt").write_text("\n".join((*SPECIAL, word)) + "\n")
    config = get_config()
    data = dataclasses.replace(config.data, vocabulary=str(tmp_path / "vocab.txt"), lowercase=lowercase)
    find_vocabulary(dataclasses.replace(config, data=data), [])
    printed = capsys.readouterr().out
    assert said in printed and bool(printed) == bool(said)


def test_a_run_begins_where_another_stood(saved_run, saved, data_dir, tmp_path, monkeypatch, capsys):
    config = get_config()
    data = dataclasses.replace(config.data, data_dir=str(data_dir))
    init = InitConfig(checkpoint=str(saved_run), checkpoint_parts="backbone")
    config = dataclasses.replace(config, data=data, init=init, seed=5)
    began = []
    monkeypatch.setattr(program, "train", lambda *arguments: began.append(arguments[6]) or arguments[6])
    program.pretrain(config, tmp_path / "run")
    params = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(began[0].params)
    }
    same = {name for name, array in saved.items() if np.array_equal(array, params[name])}
    constant = {name for name in saved if name.endswith(("bias", "scale"))}
    assert {name for name in saved if name.startswith("model.backbone.")} == same - constant | {
        name for name in constant if name.startswith("model.backbone.")
    }
    report = json.loads((tmp_path / "run" / "init.json").read_text())
    assert set(report["loaded"]) == {name for name in saved if name.startswith("model.backbone.")}
    assert set(report["fresh"]) == saved.keys() - set(report["loaded"])
    printed = capsys.readouterr().out
    assert f"init.checkpoint={saved_run}: {len(report['loaded'])} tensors" in printed
    assert "fresh: " in printed and "model.encoder" in printed


def test_missing_sources_are_refused_before_anything_is_compiled(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.run.build.Trainer.init", lambda *_: pytest.fail("compiled"), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = get_config()
    data = dataclasses.replace(config.data, data_dir=str(data_dir))
    for name in ("text", "backbone", "checkpoint"):
        init = InitConfig(**{name: str(tmp_path / "missing")})
        with pytest.raises(ConfigError, match="missing: no such file or folder"):
            program.pretrain(dataclasses.replace(config, data=data, init=init), tmp_path / name)
