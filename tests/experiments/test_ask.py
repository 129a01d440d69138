"""The program `ask`: its calls of the predictor, what it prints, what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

from experiments import ask
from experiments.run.common_flags import WORKDIR
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.predictor import Predictor


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 0, 255))):
        Image.fromarray(np.full((40, 48, 3), colour, np.uint8)).save(folder / f"{name}.png")
    return [str(folder / "a.png"), str(folder / "b.png")]


def run(saved, *given):
    with flagsaver.flagsaver((WORKDIR, str(saved)), *given):
        ask.main()


def test_matching(saved_run, files, capsys):
    texts = ["a red square", "a blue circle"]
    expected = Predictor.load(saved_run).match(files, texts)
    run(saved_run, (ask.IMAGES, files), (ask.TEXTS, texts), (ask._JSON, True))
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "match" and found["model"]["step"] == 0
    assert [(row["image"], row["text"]) for row in found["rows"]] == [(f, t) for f in files for t in texts]
    np.testing.assert_allclose([row["probability"] for row in found["rows"]], expected.reshape(-1), atol=1e-6)
    run(saved_run, (ask.IMAGES, files[:1]), (ask.TEXTS, texts))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("step 0") and lines[1] == "probability  text"
    assert lines[2] == f"{expected[0, 0]:11.3f}  a red square" and len(lines) == 4


def test_filling(saved_run, files, capsys):
    text = "a [MASK] square and a [MASK] circle"
    expected = Predictor.load(saved_run).fill_mask(files[0], text, top=2)
    run(saved_run, (ask.IMAGES, files[:1]), (ask.TEXTS, [text]), (ask._TOP, 2), (ask._JSON, True))
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["mask"], row["token"]) for row in rows] == [(n, t) for n in (1, 2) for t, _ in expected[n - 1]]


def test_answering(vqa_run, files, capsys):
    questions = ["what color is it?", "is it red?"]
    predictor = Predictor.load(vqa_run)
    run(vqa_run, (ask.IMAGES, files), (ask._QUESTIONS, questions), (ask._TOP, 1), (ask._JSON, True))
    rows = json.loads(capsys.readouterr().out)["rows"]
    expected = [predictor.answer(file, question, top=1)[0] for file in files for question in questions]
    assert [(row["answer"], pytest.approx(row["probability"], abs=1e-6)) for row in rows] == expected
    with pytest.raises(ConfigError, match="of the task vqa, which has no head for match; use answer"):
        run(vqa_run, (ask.IMAGES, files), (ask.TEXTS, ["a"]))


def test_judging(files):
    class Judge:
        def judge(self, *given):
            assert given == (*files, ["x", "y"])
            return np.array([0.25, 0.5], np.float32)

    rows = ask.judged(Judge(), files, ["x", "y"])
    assert [(row["sentence"], row["probability"]) for row in rows] == [("x", 0.25), ("y", 0.5)]
    assert ask.table(rows) == "probability  sentence\n      0.250  x\n      0.500  y"


def test_searching(saved_run, files, tmp_path, capsys):
    folder, kept = str(Path(files[0]).parent), str(tmp_path / "kept.npz")
    expected = [(files[i], p) for i, p in Predictor.load(saved_run).rank(files, "a red square")]
    for given in ((ask._SEARCH_IN, folder), (ask._SEARCH_IN, None)):  # the second time the index is there
        run(saved_run, (ask._SEARCH, "a red square"), given, (ask.INDEX, kept), (ask._JSON, True))
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert [(row["image"], pytest.approx(row["probability"], abs=1e-5)) for row in rows] == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Give one of --text, --question, --sentence and --search; here is none of them"),
        ({"text": ["a"], "question": ["b"]}, "here is --text and --question"),
        ({"text": ["a"]}, "Give an --image"),
        ({"text": ["a"], "left": "x", "right": "y"}, "--left and --right are a pair for --sentence"),
        ({"sentence": ["a"], "left": "x"}, "give both of them, and no --image"),
        ({"sentence": ["a"], "left": "x", "right": "y", "image": ["z"]}, "give both of them, and no --image"),
        ({"sentence": ["a"], "image": ["x", "y"]}, "takes one --image; about two it takes --left and --right"),
        ({"search": "a"}, "--search takes a --search_in=FOLDER, or an --index that is there"),
        ({"search": "a", "search_in": "x", "image": ["y"]}, "and no single images"),
        ({"search": "a", "search_in": "x", "index": "a.txt"}, "--index=a.txt: name a .npz file"),
        ({"text": ["a", "a [MASK]"], "image": ["x"]}, r"Some --text have \[MASK\] and some have not"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_model_is_read(given, message):
    with flagsaver.flagsaver(**given), pytest.raises(ConfigError, match=message):
        run("nowhere")
