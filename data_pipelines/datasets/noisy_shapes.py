"""Drawn scenes, many of them with the captions of another scene: a built-in substitute for noisy texts from the web."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.datasets import shapes_scene
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.shapes import Shapes
from data_pipelines.errors import DataError

_STREAM = 0x6E6F  # fifth number of the seed; scenes and captions have only four


class NoisyShapes(Shapes):
    """The scenes of "shapes" with the next seed; a share of them has all captions from another scene."""

    name = "noisy_shapes"
    VERSION = tfds.core.Version("1.0.0")
    OPTIONS = {**Shapes.OPTIONS, "wrong_captions": 0.5}
    SEED_SHIFT = 1

    def candidates(self) -> dict[str, Candidates]:
        """The splits of Shapes."""
        share = float(self.options["wrong_captions"])
        if not 0 <= share <= 1:
            raise DataError(f"noisy_shapes: --wrong_captions={share:g} is not between 0 and 1.")
        return {
            split: Candidates(_with_wrong_captions(candidates.items, share), candidates.total)
            for split, candidates in super().candidates().items()
        }


def _with_wrong_captions(candidates: Iterator[Candidate], share: float) -> Iterator[Candidate]:
    """Replace the captions of a share of the scenes; the choice and the new captions depend only on the scene's id."""
    for candidate in candidates:
        seed, split, index = shapes_scene.scene_from_image_id(candidate.image_id).key
        rng = np.random.default_rng([seed, shapes_scene.SPLITS.index(split), index, 0, _STREAM])
        if rng.random() < share:
            other = shapes_scene.scene(seed, split, index + 1 + int(rng.integers(1 << 30)))
            candidate = dataclasses.replace(candidate, texts=shapes_scene.captions(other))
        yield candidate
