"""Drawn scenes with captions of other scenes."""

import pytest

from data_pipelines.datasets import shapes_scene
from data_pipelines.datasets.noisy_shapes import NoisyShapes
from data_pipelines.datasets.shapes import Shapes
from data_pipelines.errors import DataError


def candidates(builder, tmp_path, **options):
    return builder(data_dir=tmp_path, options={"num_train": 400, **options}).candidates()["train"]


def is_right(candidate) -> bool:
    return candidate.texts == shapes_scene.captions(shapes_scene.scene_from_image_id(candidate.image_id))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_share_of_wrong_captions(tmp_path, share):
    found = candidates(NoisyShapes, tmp_path, wrong_captions=share)
    items = list(found.items)
    assert len(items) == found.total == 400
    # Another scene may have some of the same captions, but rarely all four.
    assert sum(not is_right(item) for item in items) / 400 == pytest.approx(share, abs=0.06)
    assert len({item.texts for item in items}) > 330  # scenes with one object repeat


def test_scenes_are_not_those_of_shapes(tmp_path):
    ids = {item.image_id for item in candidates(Shapes, tmp_path, seed=3).items}
    noisy = {item.image_id: item.read() for item in candidates(NoisyShapes, tmp_path, seed=3).items}
    assert not ids & noisy.keys()
    next_seed = {item.image_id: item.read() for item in candidates(Shapes, tmp_path, seed=4).items}
    assert noisy == next_seed


def test_a_scene_has_the_same_captions_in_every_preparation(tmp_path):
    few = list(candidates(NoisyShapes, tmp_path, num_train=20).items)
    many = list(candidates(NoisyShapes, tmp_path).items)
    assert [item.texts for item in few] == [item.texts for item in many[:20]]


@pytest.mark.parametrize("options, words", [({"wrong_captions": 1.1}, "between 0 and 1"), ({"seed": -1}, "--seed=-1")])
def test_bad_options(tmp_path, options, words):
    with pytest.raises(DataError, match=words):
        candidates(NoisyShapes, tmp_path, **options)
