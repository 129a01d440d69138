"""Examples to click on: drawn scenes, for a model that was trained on them."""

import dataclasses
from pathlib import Path

from PIL import Image

from data_pipelines.datasets import shapes_scene
from experiments.run.model_card import data_sets
from pixelbert_jax.loading import LoadedModel

_SCENES = 4
_SIDE = 192  # pixels
_DRAWN = {"shapes", "noisy_shapes"}


@dataclasses.dataclass(frozen=True)
class DrawnExample:
    """A scene of the test split: its file, a true and a false caption, and a true one with a masked word."""

    image: str
    caption: str
    other: str
    masked: str
    question: str


def drawn_examples(loaded: LoadedModel, folder: Path) -> list[DrawnExample]:
    """Write some scenes to a folder; none if the model was trained on other images."""
    if _DRAWN.isdisjoint(data_sets(loaded.description["config"])):
        return []
    scenes = [shapes_scene.scene(0, "test", index) for index in range(_SCENES)]
    found = []
    for number, scene in enumerate(scenes):
        file = folder / f"scene_{number}.png"
        Image.fromarray(shapes_scene.render(scene, _SIDE)).save(file)
        caption, other = (shapes_scene.captions(each)[0] for each in (scene, scenes[number - 1]))
        shape = scene.objects[0]
        masked = caption.replace(shape.colour, "[MASK]", 1)
        found.append(DrawnExample(str(file), caption, other, masked, f"what color is the {shape.shape}?"))
    return found
