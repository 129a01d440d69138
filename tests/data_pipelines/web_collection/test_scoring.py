"""Scores of a trained model."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.web_collection import scoring
from data_pipelines.web_collection.scoring import Scorer, check_model
from tests.data_pipelines.web_collection.crawl import image_bytes
from tests.saved_run import save_run


@pytest.fixture(scope="module")
def scorer(saved_run: Path) -> Scorer:
    return Scorer(str(saved_run))


def test_scores_are_those_of_the_predictor(scorer: Scorer, saved_run: Path) -> None:
    from pixelbert_jax import Predictor

    texts = ["a small red circle", "two large squares", "an image of a cross"]
    expected = Predictor.load(saved_run).match(image_bytes(1), texts)[0]
    assert len(set(expected.tolist())) == 3
    np.testing.assert_allclose(scorer.score(image_bytes(1), texts), expected, atol=5.1e-5)
    assert scorer.score(image_bytes(1), texts) == [round(score, 4) for score in scorer.score(image_bytes(1), texts)]


def test_long_texts_are_scored_by_their_first_words(scorer: Scorer) -> None:
    most = scorer._predictor.loaded.task.model.text.max_positions
    long = " ".join(["a small red circle"] * most)
    first = " ".join(long.split()[: most - 2])
    scores = scorer.score(image_bytes(1), [long, first, "x" * 5000, "a square"])
    assert scores[0] == scores[1] != scores[3]


def test_best_and_last_checkpoint(saved_run: Path, tmp_path: Path, data_dir: Path) -> None:
    """The best checkpoint of a run is the default, as in all programs, and scores differently here."""
    run = tmp_path / "run"
    shutil.copytree(saved_run / "checkpoints", run / "checkpoints")
    save_run(tmp_path / "other", data_dir, ema=True)
    shutil.copytree(tmp_path / "other" / "checkpoints", run / "best")
    best, last = (Scorer(str(run), which).score(image_bytes(1), ["a red circle"]) for which in ("best", "last"))
    assert Scorer(str(run)).score(image_bytes(1), ["a red circle"]) == best != last
    assert last == Scorer(str(saved_run)).score(image_bytes(1), ["a red circle"])
    assert check_model(str(run)).startswith(f"{run}/best/0, step 0, the best by ")


def test_no_number(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer._predictor, "match", lambda *_: np.array([[0.5, np.nan]]))
    with pytest.raises(DataError, match="gives no number"):
        scorer.score(image_bytes(1), ["a", "b"])


def test_models_that_cannot_match(tmp_path: Path, saved_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=rf"--model: {tmp_path}: neither a run's folder"):
        check_model(str(tmp_path))
    assert check_model(str(saved_run)) == f"{saved_run}/checkpoints/0, step 0"
    import pixelbert_jax.loading

    for task, model, message in (
        ("vqa", {"backbone": {}}, "--model=x was trained for vqa, not to match images and texts; give a run"),
        (
            "retrieval",
            {"regions": {}},
            "--model=x reads regions, which a crawl does not have; give a run of Pixel-BERT",
        ),
    ):
        description = {"task": task, "config": {"model": model}}
        monkeypatch.setattr(pixelbert_jax.loading, "find_description", lambda path, _, found=description: (path, found))
        for check in (check_model, scoring.Scorer):
            with pytest.raises(DataError, match=message):
                check("x")
