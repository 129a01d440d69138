"""Programs around a trained model: export with its card, upload, attention maps, the pointing game."""

import io
import json

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

import pixelbert_jax
from data_pipelines.datasets.shapes_scene import render, scene_from_image_id
from data_pipelines.storage.records import open_records
from experiments import export, pointing_game, visualize
from experiments.run.common_flags import IMAGES, OUTPUT, TEXTS, WORKDIR
from experiments.run.model_card import without_folders
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.predictor import Predictor
from pixelbert_jax.visual_readers import AttentionMap


def test_export_writes_a_card_with_data_command_and_scores(saved_run, tmp_path, monkeypatch):
    metrics = [
        {"step": 0, "loss": 1.0},
        {"step": 0, "eval/itm_accuracy": 0.625, "eval/mlm_loss": 2.0},
        {"step": 5, "eval/itm_accuracy": 0.9},
    ]
    monkeypatch.setattr(export, "read_metrics", lambda path: metrics if path.parent == saved_run else [])
    with flagsaver.flagsaver((WORKDIR, str(saved_run)), (OUTPUT, str(tmp_path / "shared"))):
        export.main()
        card = (tmp_path / "shared" / "README.md").read_text()
        assert "| itm_accuracy | 0.6250 | share of image-text pairs, half of them mismatched" in card
        assert "0.9" not in card.split("At step")[1].split("## Limits")[0]
        assert "python -m experiments.pretrain --config=tiny.py" in card
        assert "- shapes, split train: 48 images" in card and "Records(" not in card and "license:" not in card
        assert str(saved_run.parent) not in card
        assert 'predictor.match("scene.png", ["a red circle"' in card and "[MASK] circle" in card
        assert pixelbert_jax.load(tmp_path / "shared").task.model.encoder.width == 32
        with pytest.raises(ConfigError, match="shared exists; remove it"):
            export.main()


def test_a_command_without_folders():
    command = "python -m a --config=/home/me/c.py --workdir=runs/x --config.data.train=(('/d/y', 1),) --z=~/q/w.txt"
    short = "python -m a --config=c.py --workdir=runs/x --config.data.train=(('y', 1),) --z=w.txt"
    assert without_folders(command) == short


def test_upload(tmp_path, monkeypatch):
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, name, exist_ok):
            calls.append((name, exist_ok))

        def upload_folder(self, repo_id, folder_path):
            if repo_id == "who/refused":
                raise OSError("401 Unauthorized\nfor url")
            calls.append((repo_id, folder_path))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    export.push(tmp_path, "me/model")
    assert calls == [("me/model", True), ("me/model", str(tmp_path))]
    with pytest.raises(
        ConfigError, match=r"uploading it to who/refused failed .*401 Unauthorized for url.*hf auth login"
    ):
        export.push(tmp_path, "who/refused")


def test_visualize_draws_each_word(saved_run, tmp_path, capsys):
    image = np.full((30, 48, 3), 200, np.uint8)
    image[10:20, 10:20] = (255, 0, 0)
    Image.fromarray(image).save(tmp_path / "a.png")
    settings = ((WORKDIR, str(saved_run)), (IMAGES, [str(tmp_path / "a.png")]))
    sizes = []
    for words, output in (([], "all.png"), (["red"], "one.png")):
        text, out = (TEXTS, ["a red square , here"]), (OUTPUT, str(tmp_path / output))
        with flagsaver.flagsaver(*settings, text, out, (visualize._WORDS, words)):
            visualize.main()
        sizes.append(Image.open(tmp_path / output).size)
    printed = capsys.readouterr().out
    for word in ("a", "red", "square", "here"):
        assert f"{word}: 0." in printed
    assert "belong together with probability 0." in printed
    assert sizes[0][0] == 1200 and sizes[1][0] == 600 and sizes[0][1] > sizes[1][1]
    bad = (OUTPUT, str(tmp_path / "missing" / "x.png"))
    with flagsaver.flagsaver(*settings, (TEXTS, ["a"]), bad), pytest.raises(ConfigError, match="png: name a"):
        visualize.main()
    with flagsaver.flagsaver((WORKDIR, None)), pytest.raises(ConfigError, match="Missing: --workdir, --image"):
        visualize.main()


def test_the_map_is_drawn_at_its_position():
    """The brightest part of the drawing lies where the weights are."""
    weights = np.zeros((40, 40), np.float32)
    weights[30:, :10] = 1
    grey = np.full((40, 40, 3), 128, np.uint8)
    file = visualize.contact_sheet([AttentionMap("x", weights[::10, ::10], weights, grey)], "title")
    drawing = np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)
    bright = np.argwhere((drawing[..., 0] > 200) & (drawing[..., 2] < 190) & (drawing[..., 0] - drawing[..., 2] > 40))
    height, width = drawing.shape[:2]
    assert len(bright) > 100
    assert bright[:, 0].min() > height / 2 and width / 2 < bright[:, 1].min() and bright[:, 1].max() < 0.75 * width


class LooksAt(Predictor):
    """A model whose attention is at a given point."""

    def __init__(self, loaded, where):
        super().__init__(loaded)
        self.where = where

    def attention_map(self, image, text, word, *, layer=0, head=None):
        grid = np.zeros((6, 6), np.float32)
        column, row = (min(5, int(c * 6)) for c in self.where(image, word))
        grid[row, column] = 1
        return AttentionMap(word, grid, grid, image)

    def encode(self, images):
        return images


def test_the_pointing_game_counts_hits(saved_run, data_dir):
    records = pointing_game.scenes(open_records(data_dir, "shapes", "train"), 20)
    loaded = pixelbert_jax.load(saved_run)
    images = {record.image: scene_from_image_id(record.image_id) for record in records}
    assert len(records) == 20

    def right(image, word):
        (thing,) = [t for t in images[image].objects if word in (t.colour, t.shape)]
        return thing.centre

    hits = pointing_game.play(LooksAt(loaded, right), records)
    assert hits.keys() == {0, 1} and hits[0] > 0.95  # the centre of a cell may lie outside a small box
    corner = pointing_game.play(LooksAt(loaded, lambda image, word: (0.0, 0.0)), records)
    assert corner[0] < 0.4
    assert 0.07 < pointing_game.covered(records) < 0.2
    for record in records:
        for word, thing in pointing_game.named_objects(record):
            assert word in record.texts[0].split()
            assert [t for t in images[record.image].objects if word in (t.colour, t.shape)] == [thing]
        assert render(images[record.image]).shape == (48, 48, 3)


def test_random_weights_are_other_weights(saved_run):
    loaded = pixelbert_jax.load(saved_run)
    image = np.zeros((48, 48, 3), np.uint8)
    scores = [
        Predictor(each).match(image, "a red square")[0, 0]
        for each in (loaded, pointing_game.with_random_weights(loaded))
    ]
    assert abs(scores[0] - scores[1]) > 1e-4
    assert json.dumps(loaded.description)
