"""Searching images: the same ranking as `rank`, from a folder or a file, and only with the model that made it."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

import pixelbert_jax
from data_pipelines.errors import DataError
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.image_index import ImageIndex
from pixelbert_jax.predictor import Predictor
from tests.pixelbert_jax.test_predictor import IMAGES, image

TEXT = "a red circle"


@pytest.fixture(scope="module")
def predictor(saved_run):
    return Predictor(pixelbert_jax.load(saved_run), batch_images=2, batch_pairs=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six images of three shapes, one below, one hidden, one that is none, and a text."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "more").mkdir()
    (folder / ".hidden").mkdir()
    for i in range(5):
        Image.fromarray(image(*IMAGES[i % 3].shape[:2], i)).save(folder / f"{i}.png")
    Image.fromarray(image(48, 48, 5)).save(folder / "more" / "5.PNG")
    Image.fromarray(image(48, 48, 6)).save(folder / ".hidden" / "6.png")
    (folder / "broken.jpg").write_bytes(b"<html>")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_is_ranked_as_its_images_are(predictor, folder, tmp_path):
    done = []
    index = predictor.index(folder, progress=lambda *counts: done.append(counts))
    assert done == [(i + 1, 7) for i in range(7)]
    paths = [*(folder / f"{i}.png" for i in range(5)), folder / "more" / "5.PNG"]
    assert index.names == tuple(map(str, paths))
    ((broken, reason),) = index.skipped
    assert broken == str(folder / "broken.jpg") and "not a JPEG" in reason
    expected = [(str(paths[i]), probability) for i, probability in predictor.rank(paths, TEXT)]
    found = index.search(TEXT)
    assert [name for name, _ in found] == [name for name, _ in expected]
    np.testing.assert_allclose([p for _, p in found], [p for _, p in expected], atol=1e-5)
    assert index.search(TEXT, top=2) == found[:2]
    index.save(tmp_path / "photographs.npz")
    again = ImageIndex.load(tmp_path / "photographs.npz", predictor)
    assert (again.names, again.skipped) == (index.names, index.skipped)
    np.testing.assert_allclose([p for _, p in again.search(TEXT)], [p for _, p in found], atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["photographs.npz"]


def test_a_list(predictor):
    index = predictor.index(IMAGES)
    assert index.names == ("0", "1", "2")
    assert [name for name, _ in index.search(TEXT)] == [str(i) for i, _ in predictor.rank(IMAGES, TEXT)]
    for images, names in (
        (IMAGES[0], ("0",)),
        (Image.fromarray(IMAGES[0]), ("0",)),
        (np.stack([IMAGES[0]] * 2), ("0", "1")),
        (iter(IMAGES), ("0", "1", "2")),
    ):
        assert predictor.index(images).names == names
    with pytest.raises(DataError, match="image: not a JPEG"):
        predictor.index([IMAGES[0], b"<html>"])
    with pytest.raises(ConfigError, match="NoneType None is no image"):
        predictor.index(None)


def test_what_is_refused(predictor, folder, tmp_path):
    index = predictor.index([IMAGES[0]])
    index.save(tmp_path / "one.npz")
    other = dataclasses.replace(predictor.loaded, description={**predictor.loaded.description, "digest": "x"})
    with pytest.raises(ConfigError, match=r"one.npz: another model made it than .*; make it again"):
        ImageIndex.load(tmp_path / "one.npz", Predictor(other))
    whole = (tmp_path / "one.npz").read_bytes()
    for bad in (whole[: len(whole) // 2], b"", b"<html>"):
        (tmp_path / "bad.npz").write_bytes(bad)
        with pytest.raises(ConfigError, match=r"bad.npz: not a whole index"):
            ImageIndex.load(tmp_path / "bad.npz", predictor)
    with pytest.raises(ConfigError, match=r"none\.npz: no such index"):
        ImageIndex.load(tmp_path / "none.npz", predictor)
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        predictor.index(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty: no image files in it"):
        predictor.index(tmp_path / "empty")
    (tmp_path / "empty" / "a.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"none of 1 files is a readable image \(first: .*a.jpg: empty file"):
        predictor.index(tmp_path / "empty")


@pytest.mark.parametrize("top", [0, -1, "3", 2.5, None, True])
def test_a_number_of_results_that_is_none(predictor, top):
    index = predictor.index(IMAGES[:1])
    with pytest.raises(ConfigError, match=r"top=.*whole number of 1 or more"):
        index.search(TEXT, top=top)
    with pytest.raises(ConfigError, match=r"top=.*whole number of 1 or more"):
        predictor.fill_mask(IMAGES[0], "a [MASK] circle", top=top)


def test_places_where_no_file_or_folder_can_be(predictor, tmp_path):
    index = predictor.index(IMAGES[:1])
    with pytest.raises(ConfigError, match=r"not written.*a folder that exists"):
        index.save(tmp_path / "none" / "index.npz")
    with pytest.raises(ConfigError, match="no such folder"):
        predictor.index(tmp_path / ("x" * 300))
