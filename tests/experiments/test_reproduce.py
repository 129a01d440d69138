"""docs/reproduce.md: each command, as a shell reads it, names what there is, in an order in which it can be run."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from absl import flags

from data_pipelines import datasets
from experiments.evaluation.options import EvaluationOptions
from experiments.run.config import RunConfig
from experiments.run.config_flags import load_config, split_arguments
from experiments.run.stages import stages_of
from experiments.run.validation import validate
from experiments.tasks.registry import recipe_named
from pixelbert_jax.config import ImageBertConfig
from pixelbert_jax.tasks.registry import task_name

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "reproduce.md"
TRAINING = ("experiments.pretrain", "experiments.finetune")


@pytest.fixture(scope="module")
def commands() -> list[tuple[str, list[str]]]:
    """Module and arguments of each `python -m`, loops and functions expanded; nothing else can be called."""
    blocks = "\n".join(line[4:] for line in DOCUMENT.read_text().splitlines() if line.startswith("    "))
    script = 'python() { printf "%s\\037" "$@"; echo; }\n' + blocks
    shell = [shutil.which("bash"), "-eu", "-c", script]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=300, env={"PATH": ""})
    assert done.returncode == 0 and not done.stderr, done.stderr
    lines = [line.split("\x1f")[:-1] for line in done.stdout.splitlines()]
    assert all(line[0] == "-m" for line in lines)
    return [(line[1], line[2:]) for line in lines]


@pytest.fixture
def runs(commands, monkeypatch) -> dict[str, tuple[str, RunConfig]]:
    """Workdir -> module and configuration of the run that is trained there."""
    monkeypatch.chdir(ROOT)
    found = {}
    for module, arguments in commands:
        if module in TRAINING:
            rest, file, overrides = split_arguments(arguments)
            (workdir,) = (argument.removeprefix("--workdir=") for argument in rest)
            assert workdir not in found, f"{workdir} holds two runs"
            config = load_config(file, overrides)
            validate(config)
            if module == "experiments.pretrain" and overrides:
                assert config != load_config(file, {}), f"{arguments} changes nothing"
            found[workdir] = (module, config)
    return found


def test_every_configuration_is_valid_and_every_row_is_there(runs):
    tasks = ("vqa", "nlvr2")
    retrieval = {size: ("flickr30k", "coco") for size in ("r50", "x152")}
    rows = ("r50", "x152", "none", "itm", "mlm", "all")
    expected = {f"runs/{task}_{row}" for row in rows for task in (*tasks, *retrieval.get(row, ("retrieval",)))}
    expected |= {f"runs/{row}" for row in rows if row != "none"}
    assert set(runs) == expected | {f"runs/imagebert{data}" for data in ("", "_flickr30k", "_coco_captions")}
    for workdir, (module, _) in runs.items():
        assert (module == "experiments.pretrain") == ("_" not in workdir)


def test_a_run_begins_with_what_is_there_before_it(runs, commands):
    prepared, trained = set(), set()
    for module, arguments in commands:
        if module == "data_pipelines.prepare":
            prepared.add(arguments[0])
        elif module in TRAINING:
            (workdir,) = (a.removeprefix("--workdir=") for a in arguments if a.startswith("--workdir="))
            config = runs[workdir][1]
            read = [*config.data.eval, *(source for stage in stages_of(config) for source in stage.train)]
            assert {source.name for source in read} <= prepared
            if config.init.checkpoint:
                assert config.init.checkpoint in trained
                begun = runs[config.init.checkpoint][1]
                assert config.data.resize == begun.data.resize and config.data.vocabulary == begun.data.vocabulary
            else:
                assert config.init.text and (config.init.backbone or isinstance(config.model, ImageBertConfig))
            trained.add(workdir)


def test_prepared_data_sets_exist_and_take_their_flags(commands):
    named = [arguments for module, arguments in commands if module == "data_pipelines.prepare"]
    assert named
    for name, *arguments in named:
        options = {argument.partition("=")[0].removeprefix("--") for argument in arguments}
        assert {"source_dir", "data_dir"} <= options
        assert options - {"source_dir", "data_dir"} <= datasets.builder_class(name).OPTIONS.keys()


def test_evaluations_are_of_runs_and_take_their_flags(runs, commands):
    evaluated, outputs = set(), []
    for module, arguments in commands:
        assert module in ("data_pipelines.prepare", "experiments.evaluate", *TRAINING)
        if module == "experiments.evaluate":
            given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
            for name, value in given.items():
                flags.FLAGS[name].parser.parse(value)
            task = task_name(runs[given["workdir"]][1].task)
            assert given["output"].endswith(recipe_named(task).output_suffix_of(EvaluationOptions()))
            outputs.append(given["output"])
            evaluated.add(given["workdir"])
    assert evaluated == {workdir for workdir, (module, _) in runs.items() if module == "experiments.finetune"}
    assert len(set(outputs)) == len(outputs)


@pytest.mark.parametrize(
    "name",
    [f"{task}_{size}" for task in ("pretrain", "vqa", "nlvr2", "retrieval") for size in ("r50", "x152")]
    + ["imagebert_base", "imagebert_retrieval"],
)
def test_scores_are_those_that_the_configs_promise(name):
    docstring = (ROOT / "experiments" / "configs" / f"{name}.py").read_text().split('"""')[1]
    numbers = re.findall(r"\b\d\d\.\d+\b", docstring.partition("Expected")[2])
    assert numbers
    for number in numbers:
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", DOCUMENT.read_text()), number
