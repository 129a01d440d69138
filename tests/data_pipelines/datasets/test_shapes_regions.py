"""Regions of drawn scenes: a pure function, independent of images and captions, learnable but not perfect."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.datasets import shapes_regions, shapes_scene
from data_pipelines.datasets.shapes_regions import BACKGROUND, CLASSES, class_of, regions
from data_pipelines.datasets.shapes_scene import Scene, scene
from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import open_records, read_summary
from data_pipelines.storage.regions import Regions

# Fingerprint of the first 20 scenes of train, seed 0, 48 pixels, from before regions were added.
PLAIN_FINGERPRINT = "f6efd4f5ae51470c2f6e9d300a5c22a0"


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Scene, Regions]]:
    return [(a_scene, regions(a_scene)) for a_scene in (scene(0, "train", i) for i in range(1500))]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Area that two boxes share, as a fraction of the union."""
    shared = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    return float(shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared))


def test_pure_function_of_the_scene() -> None:
    assert regions(scene(3, "test", 17)) == regions(scene(3, "test", 17))
    digests = {
        regions(scene(*key)).digest() for key in ((3, "test", 17), (3, "test", 18), (4, "test", 17), (3, "train", 17))
    }
    assert len(digests) == 4


def test_random_numbers_of_their_own(monkeypatch) -> None:
    """Different from those of a scene and of its captions: the seeds differ by more than trailing zeros."""
    seeds = []
    default_rng = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: seeds.append(seed) or default_rng(seed))
    a_scene = scene(0, "train", 0)
    shapes_scene.captions(a_scene)
    number = len(seeds)
    regions(a_scene)
    assert number >= 2
    (own,) = seeds[number:]
    assert np.trim_zeros(own, "b") not in [np.trim_zeros(seed, "b").tolist() for seed in map(np.array, seeds[:number])]


def test_what_there_is(drawn: list[tuple[Scene, Regions]]) -> None:
    for _, these in drawn:
        assert these.features.shape == (8, 108)
        assert these.global_feature.shape == (192,)
        assert these.boxes.min() >= 0
        assert these.boxes.max() <= 1
        assert (these.boxes[:, 2:] > these.boxes[:, :2]).all()
        assert (np.diff(these.scores) <= 0).all()
        assert these.classes.min() >= 0
    assert max(these.classes.max() for _, these in drawn) == BACKGROUND == 24 == len(CLASSES) - 1


def test_each_object_has_a_region(drawn: list[tuple[Scene, Regions]]) -> None:
    """The region is around the object; one in fifty has a wrong class of an object; other regions are background."""
    wrong = objects = 0
    for a_scene, these in drawn:
        found = np.flatnonzero(these.classes != BACKGROUND)
        assert len(found) == len(a_scene.objects)
        taken = set()
        for thing in a_scene.objects:
            overlaps = [overlap(np.float32(thing.box), these.boxes[n]) for n in found]
            best = int(np.argmax(overlaps))
            assert overlaps[best] > 0.65
            assert these.scores[found[best]] >= 0.5
            taken.add(best)
            wrong += these.classes[found[best]] != class_of(thing)
            objects += 1
        assert len(taken) == len(found)
    assert 0.01 < wrong / objects < 0.03


def test_a_wrong_class_is_never_the_right_one(monkeypatch) -> None:
    monkeypatch.setattr(shapes_regions, "_WRONG_CLASS", 1.0)
    for i in range(400):
        a_scene = scene(0, "train", i)
        rightly = {class_of(thing) for thing in a_scene.objects}
        if len(a_scene.objects) == 1:
            these = regions(a_scene)
            assert not rightly & set(these.classes.tolist())
            assert sum(these.classes != BACKGROUND) == 1


def test_class_names() -> None:
    for a_scene, _ in ((scene(0, "train", i), None) for i in range(50)):
        for thing in a_scene.objects:
            assert CLASSES[class_of(thing)] == f"{thing.colour} {thing.shape}"
            expected = shapes_scene.COLOURS.index(thing.colour) * 4 + shapes_scene.SHAPES.index(thing.shape)
            assert class_of(thing) == expected
    assert CLASSES[BACKGROUND] == "background"


def test_distractors_contain_little_of_any_object(drawn: list[tuple[Scene, Regions]]) -> None:
    covered = []
    for a_scene, these in drawn:
        for box in these.boxes[these.classes == BACKGROUND]:
            area = (box[2:] - box[:2]).prod()
            things = np.float32([thing.box for thing in a_scene.objects])
            shared = np.maximum(np.minimum(box[2:], things[:, 2:]) - np.maximum(box[:2], things[:, :2]), 0)
            covered.append(shared.prod(1).sum() / area)
    assert max(covered) < 0.21
    assert np.mean(covered) > 0.01  # some of them overlap an object


def test_confidences_do_not_separate_objects_from_distractors(drawn: list[tuple[Scene, Regions]]) -> None:
    """Sometimes, but rarely, an object is not among the top four."""
    lost = [(these.classes[4:] != BACKGROUND).any() for _, these in drawn]
    assert 0.001 < np.mean(lost) < 0.2
    background = np.concatenate([these.scores[these.classes == BACKGROUND] for _, these in drawn])
    assert 0.1 <= background.min() < 0.11
    assert 0.69 < background.max() <= 0.7


def test_features_are_the_image_in_the_box(drawn: list[tuple[Scene, Regions]]) -> None:
    noise, values = [], []
    for a_scene, these in drawn[:200]:
        image = shapes_scene.render(a_scene, 48)
        for box, feature in zip(these.boxes, these.features, strict=True):
            x0, y0 = np.floor(box[:2] * 48).astype(int)
            x1, y1 = np.ceil(box[2:] * 48).astype(int)
            small = cv2.resize(image[y0:y1, x0:x1].astype(np.float64), (6, 6), interpolation=cv2.INTER_AREA)
            noise.append(feature - (small.ravel() - 216) / 255)
        values.append(these.features)
        whole = cv2.resize(image.astype(np.float64), (8, 8), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(these.global_feature, (whole.ravel() - 216) / 255, atol=0.003)
    assert np.std(noise) == pytest.approx(0.05, abs=0.002)
    assert abs(np.mean(noise)) < 0.002
    assert abs(np.mean(values, dtype=float)) < 0.02
    assert np.ptp(np.float64(values)) < 1.6


def test_classes_can_be_learnt_from_features(drawn: list[tuple[Scene, Regions]]) -> None:
    """Classification by the nearest class mean, learnt on two thirds."""
    features = np.concatenate([these.features for _, these in drawn]).astype(np.float32)
    classes = np.concatenate([these.classes for _, these in drawn])
    split = 2 * len(classes) // 3
    means = np.stack([features[:split][classes[:split] == k].mean(0) for k in range(25)])
    guessed = ((features[split:, None] - means) ** 2).sum(-1).argmin(-1)
    objects = classes[split:] != BACKGROUND
    assert (guessed == classes[split:])[objects].mean() > 0.85


def test_number_of_regions() -> None:
    assert [len(regions(scene(0, "train", 0), number)) for number in (3, 8, 40)] == [3, 8, 40]
    with pytest.raises(ValueError, match="2 regions for up to 3 objects; give at least 3"):
        regions(scene(0, "train", 0), 2)


@pytest.mark.parametrize("image_size", [16, 48, 96])
def test_images_of_any_size(image_size: int) -> None:
    for i in range(20):
        assert regions(scene(0, "train", i), 8, image_size).features.shape == (8, 108)


def test_prepared(tmp_path: Path) -> None:
    """Images and captions are the same as without regions, and the fingerprint without regions is unchanged."""
    counts = {"num_train": 20, "num_validation": 0, "num_test": 0}
    options = {**counts, "regions": "drawn", "num_regions": 5}
    prepare("shapes", tmp_path / "plain", options=counts)
    folder = prepare("shapes", tmp_path / "drawn", options=options, num_threads=1)
    plain, drawn = (open_records(tmp_path / name, "shapes", "train") for name in ("plain", "drawn"))
    assert plain.index.fingerprint == PLAIN_FINGERPRINT
    assert (drawn.index.region_size, drawn.index.global_size) == (108, 192)
    assert drawn.index.region_classes == 25
    for i, (a, b) in enumerate(zip(plain, drawn, strict=True)):
        assert (a.image, a.texts, a.image_id) == (b.image, b.texts, b.image_id)
        assert a.regions is None
        assert b.regions == regions(scene(0, "train", i), 5)
    summary = read_summary(folder)
    assert summary["options"]["regions"] == "drawn"
    assert summary["options"]["num_regions"] == 5
    prepare("shapes", tmp_path / "again", options=options, num_threads=4)
    assert open_records(tmp_path / "again", "shapes", "train").index.fingerprint == drawn.index.fingerprint


def test_the_image_size_of_the_data_set_counts(tmp_path: Path) -> None:
    options = {"num_train": 2, "num_validation": 0, "num_test": 0, "regions": "drawn", "image_size": 96}
    prepare("shapes", tmp_path, options=options)
    assert open_records(tmp_path, "shapes", "train")[1].regions == regions(scene(0, "train", 1), 8, 96)


def test_plain_tfds_reads_them(tmp_path: Path) -> None:
    options = {"num_train": 2, "num_validation": 0, "num_test": 0, "regions": "drawn"}
    folder = prepare("shapes", tmp_path, options=options)
    read = tfds.builder_from_directory(folder).as_data_source("train")[1]
    expected = regions(scene(0, "train", 1))
    np.testing.assert_array_equal(read["region_boxes"], expected.boxes)
    np.testing.assert_array_equal(read["region_classes"], expected.classes)
    np.testing.assert_array_equal(read["region_scores"], expected.scores)
    assert read["region_features"] == expected.features.tobytes()
    assert read["global_feature"] == expected.global_feature.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions": "x.tsv"}, "shapes: --regions=x.tsv is unknown; give --regions=drawn"),
        ({"regions": "drawn", "num_regions": 2}, "shapes: --num_regions=2 is not between 3 and 1000"),
        ({"regions": "drawn", "num_regions": 1001}, "shapes: --num_regions=1001 is not between"),
        ({"num_regions": 9}, "shapes: --num_regions has no effect without --regions; give both or neither"),
        ({"max_regions": 9}, "shapes does not take --max_regions"),
    ],
)
def test_options(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare("shapes", tmp_path / "data", options=options)
    assert not (tmp_path / "data").exists()


def test_module_constants() -> None:
    assert (shapes_regions.FEATURE_SIZE, shapes_regions.GLOBAL_SIZE, shapes_regions.MIN_REGIONS) == (108, 192, 3)
