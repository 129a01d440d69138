"""Bad input of the downstream tasks: refused in one sentence, before any long work."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver

import pixelbert_jax
from data_pipelines.config import SourceConfig
from data_pipelines.errors import DataError
from data_pipelines.storage.records import open_records
from experiments import evaluate as program
from experiments import finetune
from experiments.evaluation import predict, retrieval
from experiments.pretrain import pretrain
from experiments.run.common_flags import DATA_DIR, OUTPUT, SPLIT, WORKDIR
from experiments.run.config import RunConfig
from experiments.run.initialization import load_sources
from experiments.run.metric_writer import read_metrics
from experiments.run.validation import validate
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.nlvr2 import Nlvr2Config
from pixelbert_jax.tasks.registry import TaskConfig
from pixelbert_jax.tasks.retrieval import RetrievalConfig
from pixelbert_jax.tasks.vqa import VqaConfig
from pixelbert_jax.weights.initialize import InitConfig
from tests.data_pipelines.publishers import lines, write_image
from tests.experiments.evaluating import evaluate
from tests.experiments.evaluation.metrics.wordnet_folder import write_wordnet
from tests.experiments.fine_tuning import ANSWERS, config_of, on_one_device, retrieval_config

pytestmark = pytest.mark.usefixtures("compiled_once")

ROOT = Path(__file__).parents[2]
LONG = " ".join(["red"] * 200)
NO_WORD = "\u200b"  # a space of no width: a text, but without a token
TEXTS = (("what is it?", " "), (LONG, NO_WORD, ""), ("is it red?", "\n"))


def command(module: str, *arguments: object) -> subprocess.CompletedProcess:
    """A program as users start it."""
    program = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300)


def prepared(name: str, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    """The process of `prepare` on folder/NAME; its data set goes to folder/data."""
    where = (f"--source_dir={folder / name}", f"--data_dir={folder / 'data'}")
    return command("data_pipelines.prepare", name, *where, *flags)


@pytest.fixture(scope="module")
def odd_data(tmp_path_factory) -> Path:
    """Images of one pixel, 20,000 rows and 20,000 columns, with a long text, one without a word, and empty ones."""
    folder = tmp_path_factory.mktemp("odd")
    for name in ("vqa", "image_pairs", "image_text"):
        for number, (height, width) in enumerate(((1, 1), (20_000, 10), (10, 20_000))):
            write_image(folder / name / f"{number}.png", height=height, width=width, format="PNG", seed=number)
    entries = {"vqa": [], "image_pairs": [], "image_text": []}
    for i, texts in enumerate(TEXTS):
        questions = [{"question": text, "answers": [ANSWERS[i]]} for text in texts]
        entries["vqa"].append({"image": f"{i}.png", "questions": questions})
        sentences = [{"sentence": text, "label": True} for text in texts]
        entries["image_pairs"].append({"images": [f"{i}.png", f"{(i + 1) % 3}.png"], "sentences": sentences})
        entries["image_text"].append({"image": f"{i}.png", "texts": list(texts)})
    for name, each in entries.items():
        lines(folder / name / "train.jsonl", *each)
        done = prepared(name, folder)
        assert done.returncode == 0 and "skipped in train: 3 empty texts" in done.stdout, done.stderr + done.stdout
        assert " 200 " in done.stdout  # the greatest number of words
    return folder / "data"


def odd_config(task: TaskConfig, odd_data: Path, small_run: Path, name: str) -> RunConfig:
    """Two steps; retrieval as the tests of fine-tuning have it, so that it compiles once."""
    make = retrieval_config if isinstance(task, RetrievalConfig) else config_of
    config = make(task, odd_data, small_run, name)
    data = dataclasses.replace(config.data, eval=config.data.train)
    return dataclasses.replace(config, data=data, train=dataclasses.replace(config.train, steps=2))


@pytest.mark.parametrize(
    ("task", "name", "suffix"),
    [
        (VqaConfig(), "vqa", "json"),
        (Nlvr2Config(), "image_pairs", "csv"),
        (RetrievalConfig(negatives=6, hardest_negatives=2), "image_text", "npz"),
    ],
)
def test_odd_images_and_texts_from_training_to_the_file(task, name, suffix, odd_data, small_run, tmp_path, capsys):
    """Each text that is left has an answer, made of finite numbers; what is cut is counted."""
    run, output = (WORKDIR, str(tmp_path / "run")), (OUTPUT, str(tmp_path / f"a.{suffix}"))
    with on_one_device(), flagsaver.flagsaver(run):
        finetune.main(odd_config(task, odd_data, small_run, name))
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == [1, 2]
    for record in records:
        assert all(value is not None and np.isfinite(value) for value in record.values())
        assert record.get("skipped", 0) == 0
    capsys.readouterr()
    with on_one_device(), flagsaver.flagsaver(run, output, (SPLIT, "train"), (DATA_DIR, str(odd_data))):
        program.main()
    assert "1 of 4 texts were cut to 22 tokens" in capsys.readouterr().out
    if suffix == "json":
        predicted = [entry["answer"] for entry in json.loads((tmp_path / "a.json").read_text())]
        assert len(predicted) == 4 and set(predicted) <= set(ANSWERS)
    elif suffix == "csv":
        with (tmp_path / "a.csv").open() as file:
            assert len([label for _, label in csv.reader(file) if label in ("True", "False")]) == 4
    else:
        with np.load(tmp_path / "a.npz") as file:
            assert file["scores"].shape == (3, 4) and np.isfinite(file["scores"]).all()


def test_missing_images(tmp_path):
    """Too many stop the preparation and leave nothing; a few are counted and skipped, with both images of a pair."""
    for i in range(3):
        for name in ("vqa", "image_pairs"):
            write_image(tmp_path / name / f"{i}.png", format="PNG", seed=i)
    questions = {"questions": [{"question": "what?", "answers": ["red"]}]}
    sentences = {"sentences": [{"sentence": "both", "label": True}]}
    lines(tmp_path / "vqa" / "train.jsonl", *({"image": f"{i}.png", **questions} for i in range(4)))
    pairs = ({"images": [f"{i}.png", f"{i + 1}.png"], **sentences} for i in range(3))
    lines(tmp_path / "image_pairs" / "train.jsonl", *pairs)
    for name, count in (("vqa", 4), ("image_pairs", 3)):
        refused = prepared(name, tmp_path)
        assert refused.returncode == 1 and refused.stdout == ""
        assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
        assert f"1 of {count} images" in refused.stderr and "3.png" in refused.stderr
        assert not (tmp_path / "data" / name).exists()
        counted = prepared(name, tmp_path, "--max_bad_share=0.5")
        assert "skipped in train: 1 image file not found" in counted.stdout, counted.stderr
        assert len(open_records(tmp_path / "data", name, "train")) == count - 1


def test_errors_of_the_programs_are_one_line(own_data, tmp_path):
    config = ROOT / "experiments" / "configs" / "nlvr_tiny.py"
    unlabelled = json.dumps([{"name": "image_pairs", "split": "test"}])
    cases = [
        (
            "experiments.finetune",
            f"--config={config}",
            f"--workdir={tmp_path / 'run'}",
            f"--config.data.data_dir={own_data}",
            f"--config.data.train={unlabelled}",
            "--config.evaluation.every=0",
        ),
        ("experiments.evaluate", f"--workdir={tmp_path / 'none'}", "--split=val", f"--output={tmp_path / 'a.json'}"),
    ]
    for arguments, message in zip(cases, ("have no label; use a split with label", "none"), strict=True):
        done = command(*arguments)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("error: ") and message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_bad_evaluations_are_refused_before_any_work(vqa_run, data_dir, pretrained, tmp_path, monkeypatch):
    loaded = pixelbert_jax.load(vqa_run)
    monkeypatch.setattr(predict, "predict", lambda *_, **__: pytest.fail("called the model"))
    monkeypatch.setattr(retrieval, "evaluate", lambda *_, **__: pytest.fail("called the model"))
    good = tmp_path / "a.json"
    cases = [
        (loaded, "val", tmp_path / "a.csv", {}, r"a.csv: name a .json file in a folder that exists"),
        (loaded, "val", tmp_path / "missing" / "a.json", {}, r"name a .json file in a folder that exists"),
        (pretrained, "validation", tmp_path / "a.json", {}, r"name a .npz file"),
        (loaded, "vla", good, {}, r"has no split 'vla'; it has "),
        (loaded, "val", good, {"dataset": "vqq"}, r"No prepared data set 'vqq'"),
        (loaded, "val", good, {"data_dir": str(tmp_path)}, r"No prepared data set 'vqa'"),
        (loaded, "val", good, {"dataset": "image_pairs"}, r"have no question_id; use a data set for vqa"),
        (loaded, "validation", good, {"dataset": "shapes", "data_dir": str(data_dir)}, r"have no question_id"),
    ]
    for model, split, output, options, message in cases:
        with pytest.raises((ConfigError, DataError), match=message) as error:
            evaluate(model, split, output, **options)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    with flagsaver.flagsaver((WORKDIR, str(vqa_run))), pytest.raises(ConfigError, match="Missing: --split, --output"):
        program.main()


def with_data(loaded, **fields):
    """A loaded model whose run had other fields of data."""
    data = {**loaded.description["config"]["data"], **fields}
    config = {**loaded.description["config"], "data": data}
    return dataclasses.replace(loaded, description={**loaded.description, "config": config})


def test_wups_that_cannot_be_had_is_refused_before_any_work(vqa_run, pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "predict", lambda *_, **__: pytest.fail("called the model"))
    monkeypatch.setattr(retrieval, "evaluate", lambda *_, **__: pytest.fail("called the model"))
    loaded = pixelbert_jax.load(vqa_run)
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    for folder in (whole, damaged):
        folder.mkdir()
        write_wordnet(folder, [("thing", [], "@")])
    (damaged / "data.noun").write_text("thing\n")
    cases = [
        (
            with_data(loaded, answers_are="votes"),
            "votes",
            ".json",
            whole,
            "WUPS, which only questions with data",
        ),
        (pretrained, "validation", ".npz", whole, "this run is of another kind; leave the flag out"),
        (loaded, "val", ".json", tmp_path / "missing", "index.noun cannot be read .*give the dict/ folder of WordNet"),
        (loaded, "val", ".json", damaged, "data.noun, line 1: not a line of WordNet"),
        (loaded, "test", ".json", whole, "have no answers; use a split with answers"),
    ]
    for model, split, suffix, folder, message in cases:
        with pytest.raises((ConfigError, DataError), match=message) as error:
            evaluate(model, split, tmp_path / f"a{suffix}", wordnet=str(folder))
        assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "whole"]


def test_answers_that_cannot_be_scored_are_refused_before_any_work(vqa_run, tmp_path):
    loaded = with_data(pixelbert_jax.load(vqa_run), answers_are="votes")
    with pytest.raises(DataError, match=r"too few answers for the accuracy of VQA.*data.answers_are=right"):
        evaluate(loaded, "val", tmp_path / "a.json")
    ten = evaluate(loaded, "votes", tmp_path / "a.json")
    assert ten["questions"] == 10


def test_bad_fine_tuning_is_refused_before_anything_is_built(vqa_config, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.run.build.make_trainer", lambda *_, **__: pytest.fail("built a model"))

    def data(**changes):
        return dataclasses.replace(vqa_config, data=dataclasses.replace(vqa_config.data, **changes))

    (tmp_path / "answers.txt").write_text("red\nblue\nred\n")
    (tmp_path / "two.txt").write_text("red\nblue\n")
    cases = [
        (data(train=(SourceConfig("vqa", "test"),)), r"have no answers; use a split with answers"),
        (data(eval=(SourceConfig("vqa", "test"),)), r"have no answers; use a split with answers"),
        (data(train=(SourceConfig("shapes"),), data_dir=str(data_dir)), r"No prepared|have no question_id"),
        (data(train=(SourceConfig("image_pairs"),)), r"have no question_id; use a data set for vqa"),
        (data(answers_are="votes"), r"too few answers for the accuracy of VQA"),
        (data(answers=str(tmp_path / "answers.txt")), r"'red' stands twice"),
        (data(answers=str(tmp_path / "missing.txt")), r"missing.txt cannot be read"),
        (data(answer_minimum=100), r"different answers is that of 100 questions"),
        (
            dataclasses.replace(data(answers=str(tmp_path / "two.txt")), task=VqaConfig(answers=5)),
            r"task.answers=5, but there are 2 answers; set it to 0",
        ),
    ]
    for number, (bad, message) in enumerate(cases):
        with pytest.raises((ConfigError, DataError), match=message) as error:
            pretrain(bad, tmp_path / f"run{number}")
        assert "\n" not in str(error.value)
    retrieval = dataclasses.replace(vqa_config, task=RetrievalConfig())
    with pytest.raises(ConfigError, match=r"data.texts_per_image=2.*one text per image"):
        validate(retrieval)


def test_answers_that_do_not_fit_the_checkpoint(vqa_run, vqa_config, tmp_path):
    """A run is not resumed with another list; one that begins with the checkpoint gets a fresh head."""
    (tmp_path / "answers.txt").write_text("\n".join(ANSWERS[::-1]) + "\n")
    data = dataclasses.replace(vqa_config.data, answers=str(tmp_path / "answers.txt"))
    with pytest.raises(ConfigError, match=r"another configuration: data.answers: '' in the checkpoint"):
        pretrain(dataclasses.replace(vqa_config, data=data), vqa_run)
    loaded = pixelbert_jax.load(vqa_run)
    answers = loaded.description["answers"]
    init = InitConfig(checkpoint=str(vqa_run))
    for listed, taken in ((answers, True), (answers[::-1], False)):
        (source,) = load_sources(init, loaded.task, loaded.tokenizer, listed).values()
        assert any(name.startswith("answer_head.") for name in source.arrays) == taken
        assert any(name.startswith("model.encoder.") for name in source.arrays)
