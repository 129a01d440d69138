"""Regions of drawn scenes, as from a detector that makes few errors.

Everything is a pure function of the scene, with a separate stream of random numbers. So images and captions are the
same with and without regions.
"""

import cv2
import numpy as np

from data_pipelines.datasets.shapes_scene import COLOURS, MAX_OBJECTS, SHAPES, SPLITS, Object, Scene, render
from data_pipelines.storage.regions import Regions

CLASSES = (*(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES), "background")
BACKGROUND = len(CLASSES) - 1
FEATURE_SIZE = 6 * 6 * 3
GLOBAL_SIZE = 8 * 8 * 3
MIN_REGIONS = MAX_OBJECTS

_STREAM = 0x7265  # fifth number of the seed; scenes and captions have only four
_JITTER = 0.08  # maximum shift of an edge, as a fraction of the box's side
_SIDE = (0.12, 0.4)  # side of a distractor, as a fraction of the image
_COVERED = 0.2  # maximum share of a distractor that is covered by objects
_PLACEMENTS = 64
_OBJECT_SCORE = (0.5, 1.0)
_DISTRACTOR_SCORE = (0.1, 0.7)
_WRONG_CLASS = 0.02  # probability
_NOISE = 0.05
_MEAN, _RANGE = 216.0, 255.0  # approximate mean and range of the pixels in boxes


def class_of(thing: Object) -> int:
    """Index of an object's class in CLASSES: 4 * colour + shape."""
    return COLOURS.index(thing.colour) * len(SHAPES) + SHAPES.index(thing.shape)


def regions(a_scene: Scene, num_regions: int = 8, image_size: int = 48) -> Regions:
    """The `num_regions` regions of a scene in descending order of their scores.

    There is one region for each object. The other regions are distractors, which contain little of any object. A
    feature is the image in the box, resized to 6x6 pixels, with noise; the global feature is the whole image at 8x8
    pixels. One object in fifty has a wrong class, and a distractor may have a higher score than an object.

    Args:
      a_scene: scene from `shapes_scene.scene`.
      num_regions: number of regions, at least MIN_REGIONS.
      image_size: side of the image in pixels.

    Raises:
      ValueError: `num_regions` is less than MIN_REGIONS.
    """
    if num_regions < MIN_REGIONS:
        raise ValueError(f"{num_regions} regions for up to {MAX_OBJECTS} objects; give at least {MIN_REGIONS}")
    seed, split, index = a_scene.key
    rng = np.random.default_rng([seed, SPLITS.index(split), index, 0, _STREAM])
    number = len(a_scene.objects)
    boxes_Kx4 = np.array([thing.box for thing in a_scene.objects])
    found = [_jittered(rng, box_4) for box_4 in boxes_Kx4]
    found += [_distractor(rng, boxes_Kx4) for _ in range(num_regions - number)]
    boxes_Nx4 = np.array(found, np.float32)
    scores_N = np.concatenate(
        [rng.uniform(*_OBJECT_SCORE, number), rng.uniform(*_DISTRACTOR_SCORE, num_regions - number)]
    ).astype(np.float32)
    classes_N = np.full(num_regions, BACKGROUND, np.int32)
    classes_N[:number] = [_with_mistakes(rng, class_of(thing)) for thing in a_scene.objects]
    image_HxWx3 = render(a_scene, image_size)
    features_NxF = np.stack([_shrunk(_crop(image_HxWx3, box_4), 6) for box_4 in boxes_Nx4])
    features_NxF += rng.normal(0, _NOISE, features_NxF.shape)
    order_N = np.argsort(-scores_N, kind="stable")
    return Regions(
        features=features_NxF[order_N].astype(np.float16),
        boxes=boxes_Nx4[order_N],
        classes=classes_N[order_N],
        scores=scores_N[order_N],
        global_feature=_shrunk(image_HxWx3, 8).astype(np.float16),
    )


def _jittered(rng: np.random.Generator, box_4: np.ndarray) -> np.ndarray:
    """A box with all edges shifted a little, clipped to the image."""
    side = box_4[2] - box_4[0]
    return np.clip(box_4 + side * rng.uniform(-_JITTER, _JITTER, 4), 0, 1)


def _distractor(rng: np.random.Generator, boxes_Kx4: np.ndarray) -> np.ndarray:
    """The first of some random boxes that objects cover little; if there is none, the least covered box."""
    sides_Px2 = rng.uniform(*_SIDE, (_PLACEMENTS, 2))
    corners_Px2 = rng.random((_PLACEMENTS, 2)) * (1 - sides_Px2)
    boxes_Px4 = np.concatenate([corners_Px2, corners_Px2 + sides_Px2], 1)
    low_PxKx2 = np.maximum(boxes_Px4[:, None, :2], boxes_Kx4[:, :2])
    high_PxKx2 = np.minimum(boxes_Px4[:, None, 2:], boxes_Kx4[:, 2:])
    shared_P = np.maximum(high_PxKx2 - low_PxKx2, 0).prod(-1).sum(-1)
    covered_P = shared_P / sides_Px2.prod(-1)
    uncovered = np.flatnonzero(covered_P <= _COVERED)
    return np.clip(boxes_Px4[uncovered[0] if len(uncovered) else np.argmin(covered_P)], 0, 1)


def _with_mistakes(rng: np.random.Generator, right: int) -> int:
    """The right class, or with a small probability another class of objects."""
    other = (right + int(rng.integers(1, BACKGROUND))) % BACKGROUND
    return other if rng.random() < _WRONG_CLASS else right


def _crop(image_HxWx3: np.ndarray, box_4: np.ndarray) -> np.ndarray:
    """The pixels that a box overlaps."""
    size = len(image_HxWx3)
    (x0, y0), (x1, y1) = np.floor(box_4[:2] * size).astype(int), np.ceil(box_4[2:] * size).astype(int)
    return image_HxWx3[y0:y1, x0:x1]


def _shrunk(image_HxWx3: np.ndarray, side: int) -> np.ndarray:
    """The image resized to side x side pixels, row by row: side * side * 3 numbers with mean about 0 and range 1."""
    small = cv2.resize(image_HxWx3, (side, side), interpolation=cv2.INTER_AREA)
    return (small.astype(np.float32).reshape(-1) - _MEAN) / _RANGE
