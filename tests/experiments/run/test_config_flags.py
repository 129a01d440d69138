"""Configs from files and command lines: typed, checked, and with errors that help."""

import dataclasses
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.images.resize import choose_canvas
from experiments.run.config import RunConfig, TrainConfig, differences
from experiments.run.config_flags import field_names, load_config, override, split_arguments
from experiments.run.config_help import config_help
from experiments.run.validation import validate
from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.serialization import build, to_dict
from pixelbert_jax.tasks.nlvr2 import Nlvr2Config
from pixelbert_jax.tasks.retrieval import RetrievalConfig
from pixelbert_jax.training.optimizer import AdamWConfig, OptimizerConfig

CONFIGS = Path(__file__).parents[3] / "experiments" / "configs"


@pytest.fixture
def config() -> RunConfig:
    return load_config(str(CONFIGS / "pretrain_r50.py"), {})


def test_arguments_are_split():
    arguments = [
        "program",
        "--workdir=w",
        "--config=f.py",
        "--config.a.b=1",
        "-config.c",
        "x=y",
        "--verbosity",
        "1",
    ]
    rest, file, overrides = split_arguments(arguments)
    assert rest == ["program", "--workdir=w", "--verbosity", "1"]
    assert file == "f.py" and overrides == {"a.b": "1", "c": "x=y"}
    with pytest.raises(ConfigError, match="no value follows"):
        split_arguments(["program", "--config.a"])


@pytest.mark.parametrize(
    ("path", "text", "read"),
    [
        ("data.data_dir", "elsewhere", lambda c: c.data.data_dir == "elsewhere"),
        ("train.steps", "200", lambda c: c.train.steps == 200),
        (
            "train.epochs",
            "3",
            lambda c: c.train.epochs == 3.0 and isinstance(c.train.epochs, float),
        ),
        (
            "optimizer.backbone.learning_rate",
            "1e-3",
            lambda c: c.optimizer.backbone.learning_rate == 1e-3,
        ),
        ("report", "true", lambda c: c.report is True),
        ("model.dtype", "float32", lambda c: c.model.dtype == "float32"),
        (
            "data.canvases",
            "((64, 64), (64, 128))",
            lambda c: c.data.canvases == ((64, 64), (64, 128)),
        ),
        ("data.canvases", "[[64, 64]]", lambda c: c.data.canvases == ((64, 64),)),
        (
            "data.train.1.weight",
            "2",
            lambda c: c.data.train[1] == SourceConfig("visual_genome", "train", 2.0),
        ),
        (
            "data.train",
            '[{"name": "flickr8k"}]',
            lambda c: c.data.train == (SourceConfig("flickr8k"),),
        ),
        ("evaluation.words", '["red"]', lambda c: c.evaluation.words == ("red",)),
    ],
)
def test_overrides_are_typed(config, path, text, read):
    assert read(override(config, {path: text}))
    assert not read(config)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        (
            "optimizer.backbone.learning_rat",
            "1",
            r"did you mean config\.optimizer\.backbone\.learning_rate\?",
        ),
        ("train.step", "1", r"did you mean config\.train\.steps\?"),
        ("data.train.7.weight", "1", "entries 0 to 1"),
        ("train.steps", "many", "'many' is not a value of type int"),
        ("train.steps", "1.5", "1.5 is not a value of type int"),
        ("train.steps", "true", "True is not a value of type int"),
        ("report", "1", "is not a value of type bool"),
        ("model.dtype", "float16", "must be one of 'bfloat16', 'float32'"),
        ("data.canvases", "64", "is not a value of type"),
        ("data.train", '[{"nam": "x"}]', "unknown fields"),
        ("train.steps.x", "1", "has no fields"),
        ("model.encoder.heads", "7", "not a multiple of model.encoder.heads"),
    ],
)
def test_bad_overrides_are_one_clear_error(config, path, text, message):
    with pytest.raises(ConfigError, match=message) as error:
        override(config, {path: text})
    assert "\n" not in str(error.value)


def test_fields_that_belong_together_change_together(config):
    changed = override(config, {"model.encoder.width": "96", "model.encoder.heads": "8"})
    assert (changed.model.encoder.width, changed.model.encoder.heads) == (96, 8)
    with pytest.raises(ConfigError, match="multiple"):
        override(config, {"model.encoder.width": "90", "model.encoder.heads": "8"})


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (None, "No --config=FILE"),
        ("experiments/configs/pretrain_r5.py", "did you mean .*pretrain_r50.py"),
        (str(CONFIGS / "__init__.py"), r"no function get_config\(\)"),
        (f"{CONFIGS / 'pretrain_r50.py'}:x", "takes no argument"),
    ],
)
def test_bad_files_are_one_clear_error(file, message, monkeypatch):
    monkeypatch.chdir(CONFIGS.parents[1])
    with pytest.raises(ConfigError, match=message):
        load_config(file, {})


def test_values_of_a_file_are_checked_too(tmp_path):
    source = (CONFIGS / "pretrain_r50.py").read_text()
    for old, new, message in (
        ("texts_per_image=4", 'epoch="pages"', "config.data.epoch='pages' must be one of 'texts', 'images'"),
        ("keep_last=3", "keep_last=3.5", "config.checkpoint.keep_last=3.5 is not a value of type int"),
    ):
        assert old in source
        file = tmp_path / "config.py"
        file.write_text(source.replace(old, new))
        with pytest.raises(ConfigError, match=message):
            load_config(str(file), {})


def test_fields_as_earlier_releases_called_them(config):
    """In overrides, and in the configuration that a checkpoint or config.json holds."""
    found = override(config, {"data.replaced_pictures": "0.5"})
    assert found.data.replaced_images == 0.5
    saved = to_dict(dataclasses.replace(config, task=RetrievalConfig(negatives=6, hardest_negatives=2)))
    saved["task"]["hardest"] = saved["task"].pop("hardest_negatives")
    saved["data"]["whole_picture"] = saved["data"].pop("whole_image")
    assert build(saved, RunConfig).task.hardest_negatives == 2
    both = saved | {"task": saved["task"] | {"hardest_negatives": 3}}
    with pytest.raises(ConfigError, match=r"unknown fields \['hardest'\]"):
        build(both, RunConfig)
    assert build({"pictures": 1}, Nlvr2Config).images == 1


def test_a_file_in_the_home_folder(config, monkeypatch):
    monkeypatch.setenv("HOME", str(CONFIGS))
    assert load_config("~/pretrain_r50.py", {}) == config
    with pytest.raises(ConfigError, match=f"--config={CONFIGS}/none.py: no such file"):
        load_config("~/none.py", {})


def test_a_file_may_take_an_argument():
    config = load_config(f"{CONFIGS / 'pretrain_coco_tiny.py'}:coco_captions,flickr8k", {})
    assert [source.name for source in config.data.train] == ["coco_captions", "flickr8k"]


FILES = sorted(p.name for p in CONFIGS.glob("*.py") if p.name != "__init__.py")
ARGUMENTS = ("retrieval_r50.py:coco_captions", "retrieval_x152.py:coco_captions")


@pytest.mark.parametrize("file", [*FILES, *ARGUMENTS])
def test_every_config_is_valid_and_comes_back_from_json(file):
    config = load_config(str(CONFIGS / file), {"mesh.data": "-1", "evaluation.batch_images": "8"})
    validate(config)
    assert build(to_dict(config), RunConfig) == config


@pytest.mark.parametrize("name", ["vqa", "nlvr2", "retrieval", "retrieval:coco_captions"])
def test_the_larger_model_has_the_recipe_of_the_smaller_one(name):
    """It differs in the backbone, the image size and what it starts from; frozen parts stay frozen."""
    task, colon, argument = name.partition(":")
    small, large = (
        load_config(f"{CONFIGS / f'{task}_{size}.py'}{colon}{argument}", {"data.canvases": "[]"})
        for size in ("r50", "x152")
    )
    changed = {line.split(":")[0] for line in differences(to_dict(small), to_dict(large))}
    assert {field for field in changed if not field.startswith("data.resize.")} == {
        "model.backbone.depths",
        "model.backbone.groups",
        "model.backbone.inner_widths",
        "init.checkpoint",
    }
    pretrained = load_config(str(CONFIGS / "pretrain_x152.py"), {})
    frozen = {"model.backbone.frozen_parts": str(small.model.backbone.frozen_parts)}
    assert large.model == override(pretrained, frozen).model
    assert large.data.resize == pretrained.data.resize
    assert small.model.backbone.frozen_parts == (5 if task == "retrieval" else 2)


@pytest.mark.parametrize("name", ["nlvr2_r50", "nlvr2_x152"])
def test_an_upright_and_a_flat_image_have_a_canvas_in_common(name):
    data = load_config(str(CONFIGS / f"{name}.py"), {}).data
    choose_canvas(data.resize.longer_edge, data.resize.longer_edge, data.all_canvases)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.steps": "5"}, "set exactly one of them"),
        ({"train.epochs": "0"}, "set exactly one of them"),
        ({"data.max_text_length": "600"}, "longer than model.text.max_positions"),
        ({"data.canvases": "[[800, 1344]]"}, "not a multiple of the model's stride 64"),
        (
            {"model.pixels.position": "rowcol", "model.pixels.max_grid": "8"},
            "more than model.pixels.max_grid",
        ),
        ({"data.batch_images": "1001"}, "not a multiple of the 8 devices"),
        ({"train.accumulation": "3"}, "does not divide the 128 rows"),
        ({"evaluation.every": "10", "data.eval": "[]"}, "data.eval names no data set"),
        ({"init.backbone": ""}, "nothing is loaded into it; set init.backbone"),
        ({"checkpoint.every": "0"}, "checkpoint.every=0 must be at least 1"),
        ({"evaluation.every": "0", "report": "true"}, "report=true draws evaluation metrics"),
    ],
)
def test_what_does_not_fit_is_refused(config, overrides, message):
    with pytest.raises(ConfigError, match=message):
        validate(override(config, overrides))


def test_differences_name_what_would_change_the_run(config):
    saved = to_dict(config)
    free = override(
        config,
        {"data.workers": "0", "checkpoint.every": "7", "train.epochs": "80", "data.data_dir": "x"},
    )
    assert differences(saved, to_dict(free)) == []
    other = override(config, {"seed": "1", "model.encoder.dropout": "0.2", "data.train.1.weight": "2"})
    found = differences(saved, to_dict(other))
    assert [line.split(":")[0] for line in found] == [
        "data.train.1.weight",
        "model.encoder.dropout",
        "seed",
    ]
    assert "0.1 in the checkpoint, 0.2 now" in found[1]
    cosine = override(config, {"optimizer.schedule.kind": "cosine"})
    longer = override(cosine, {"train.epochs": "80"})
    assert [d.split(":")[0] for d in differences(to_dict(cosine), to_dict(longer))] == ["train.epochs"]


def test_a_config_of_one_dataclass_or_the_other_keeps_its_kind():
    config = RunConfig(
        data=DataConfig(train=(SourceConfig("shapes"),)),
        model=PixelBertConfig(),
        optimizer=OptimizerConfig(backbone=AdamWConfig(learning_rate=0.5)),
        train=TrainConfig(steps=1),
    )
    changed = override(config, {"optimizer.backbone.beta2": "0.5"})
    assert changed.optimizer.backbone == dataclasses.replace(config.optimizer.backbone, beta2=0.5)
    assert build(to_dict(config), RunConfig) == config


@pytest.mark.parametrize(
    ("program", "listed", "not_listed"),
    [
        ("experiments.finetune", ("config", "workdir", "num_processes", "heartbeat_timeout"), ("split", "output")),
        ("experiments.visualize", ("workdir", "output", "checkpoint", "image", "text"), ("config", "split")),
    ],
)
def test_help_lists_all_flags_of_a_program(program, listed, not_listed):
    """Those from other modules too, and none that it does not take."""
    command = [sys.executable, "-m", program, "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for name in listed:
        assert f"  --{name}: " in printed
    for name in not_listed:
        assert f"  --{name}: " not in printed


def test_data_sets_by_name_and_split(config):
    given = {"data.train": "coco_captions:train+restval,vqa:train:0.5", "data.eval": "vqa:val"}
    data = override(config, given).data
    assert data.train == (SourceConfig("coco_captions", "train+restval"), SourceConfig("vqa", "train", 0.5))
    assert data.eval == (SourceConfig("vqa", "val"),)
    assert override(config, {"data.eval": ""}).data.eval == ()
    assert override(config, {"data.eval": "[{'name': 'vqa', 'split': 'val'}]"}).data.eval == data.eval
    for bad in ("vqa:", "vqa:val:0.5:3", ":val", "vqa:val:much", "a,,b"):
        with pytest.raises(ConfigError, match=r"config.data.eval=.*; join several with commas"):
            override(config, {"data.eval": bad})


def test_help_lists_every_field_with_its_type_value_and_comment(config):
    text = config_help(config)
    for name in field_names(config):
        if not dataclasses.is_dataclass(functools.reduce(getattr, name.split("."), config)):
            entry = rf"--config\.{re.escape(name)}\b|--config\.{re.escape(name)}\.0\."
            assert re.search(entry, text) or name == "stages", name
    assert re.search(r"--config\.train\.log_every INT\n +steps between lines of metrics.jsonl \(default: 10\)", text)
    assert "sampled_pixels INT" in text and "regions.feature_size" not in text  # of the classes in the file
    assert all(line == line.rstrip() for line in text.splitlines())


def test_help_is_one_of_the_flags(tmp_path):
    assert split_arguments(["--config.help", "--config=a.py"]) == ([], "a.py", {"help": ""})
    arguments = (f"--config={CONFIGS / 'pretrain_quickstart.py'}", "--config.train.steps=7", "--config.help")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.pretrain", *arguments],
        cwd=CONFIGS.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "(default: 7)" in done.stdout and not done.stderr
