"""The built-in data set: drawn scenes with captions from a small grammar. It needs no files."""

from collections.abc import Iterator
from functools import partial

import cv2
import tensorflow_datasets as tfds

from data_pipelines.datasets import shapes_regions, shapes_scene
from data_pipelines.datasets.builder import DRAWN, ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates, FoundRegions
from data_pipelines.errors import DataError

MAX_REGIONS = 1000  # upper limit of --num_regions


class Shapes(ImageTextBuilder):
    """One to three coloured shapes on a light background, four captions each; PNG."""

    name = "shapes"
    VERSION = tfds.core.Version("1.1.0")
    NEEDS_SOURCE = False
    OPTIONS = {
        "num_train": 15_000,
        "num_validation": 1_000,
        "num_test": 1_000,
        "seed": 0,
        "image_size": 48,
    }
    REGION_OPTIONS = {"regions": "", "num_regions": 8}
    DRAWS_REGIONS = True
    SEED_SHIFT = 0  # difference between the seed of the scenes and --seed

    def candidates(self) -> dict[str, Candidates]:
        """The splits train, validation and test, without empty ones."""
        counts = {split: int(self.options[f"num_{split}"]) for split in shapes_scene.SPLITS}
        size, seed = int(self.options["image_size"]), int(self.options["seed"]) + self.SEED_SHIFT
        if min(counts.values()) < 0 or not any(counts.values()):
            raise DataError(f"shapes: no scene to draw with {counts}; give a positive --num_train.")
        if not 16 <= size <= 4096:
            raise DataError(f"shapes: --image_size={size} is not between 16 and 4096 pixels.")
        if seed < self.SEED_SHIFT:
            raise DataError(f"shapes: --seed={self.options['seed']} is negative; give 0 or more.")
        num_regions = self._num_regions()
        return {
            split: Candidates(_scenes(seed, split, count, size, num_regions), count)
            for split, count in counts.items()
            if count
        }

    def _num_regions(self) -> int:
        """Number of regions per image; 0 if there are no regions."""
        if not self.has_regions:
            return 0
        if self.options["regions"] != DRAWN:
            raise DataError(f"shapes: --regions={self.options['regions']} is unknown; give --regions=drawn.")
        number = int(self.options["num_regions"])
        if not shapes_regions.MIN_REGIONS <= number <= MAX_REGIONS:
            raise DataError(
                f"shapes: --num_regions={number} is not between {shapes_regions.MIN_REGIONS} and {MAX_REGIONS}."
            )
        return number


def _scenes(seed: int, split: str, count: int, image_size: int, num_regions: int) -> Iterator[Candidate]:
    for index in range(count):
        scene = shapes_scene.scene(seed, split, index)
        draw = partial(_png, scene, image_size)
        detect = partial(_detect, scene, num_regions) if num_regions else None
        yield Candidate(scene.image_id, shapes_scene.captions(scene), draw, scene.image_id, regions=detect)


def _detect(scene: shapes_scene.Scene, num_regions: int, height: int, width: int) -> FoundRegions:
    del width  # images are square
    return FoundRegions(shapes_regions.regions(scene, num_regions, height))


def _png(scene: shapes_scene.Scene, image_size: int) -> bytes:
    image_HxWx3 = shapes_scene.render(scene, image_size)
    return cv2.imencode(".png", cv2.cvtColor(image_HxWx3, cv2.COLOR_RGB2BGR))[1].tobytes()
