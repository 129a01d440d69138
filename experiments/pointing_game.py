"""The pointing game (Zhang et al. 2016) on drawn scenes: is a word's attention on the object that the word names?

    python -m experiments.pointing_game --workdir=RUN [--data_dir=data] [--split=validation] [--scenes=200]

For a colour or shape word that names exactly one object of a scene, the pixel (or the region, of an ImageBERT) with the
greatest attention counts as a hit if its centre lies in that object's box. The controls are the same model with random
weights, the trained model with the images of other scenes, and the share of the image that the boxes cover.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from absl import flags
from flax import nnx

from data_pipelines.datasets.shapes_scene import COLOURS, SHAPES, Object, scene_from_image_id
from data_pipelines.storage.records import Record, Records, open_records
from experiments.run.common_flags import CHECKPOINT, DATA_DIR, SPLIT, WORKDIR, required
from experiments.run.config_flags import run_main
from experiments.run.progress import say
from pixelbert_jax.encoded_images import EncodedImages
from pixelbert_jax.image_with_regions import ImageWithRegions
from pixelbert_jax.loading import LoadedModel, load
from pixelbert_jax.predictor import Predictor
from pixelbert_jax.predictor_inputs import pixels_of

_SCENES = flags.DEFINE_integer("scenes", 200, "Number of scenes.")
_SPLIT = "validation"  # if --split names no other


def named_objects(record: Record) -> Iterator[tuple[str, Object]]:
    """Colour and shape words of the first caption with the one object that each names."""
    things = scene_from_image_id(record.image_id).objects
    if len(things) < 2:
        return  # with a single object there is no choice
    for words, attribute in ((COLOURS, "colour"), (SHAPES, "shape")):
        for word in words:
            named = [thing for thing in things if getattr(thing, attribute) == word]
            if len(named) == 1:
                yield word, named[0]


def play(predictor: Predictor, records: list[Record], *, other_images: bool = False) -> dict[int, float]:
    """Share of hits by layer.

    Args:
      predictor: its model was trained on drawn scenes.
      records: scenes with their captions.
      other_images: give each caption the image of the next scene and keep the boxes: a control that must score lower.
    """
    layers = range(predictor.loaded.task.model.encoder.layers)
    encoded: list[EncodedImages] = [predictor.encode(_image_of(record)) for record in records]
    hits: dict[int, list[bool]] = {layer: [] for layer in layers}
    for index, record in enumerate(records):
        image = encoded[(index + 1) % len(records)] if other_images else encoded[index]
        for word, thing in named_objects(record):
            for layer in layers:
                x, y = predictor.attention_map(image, record.texts[0], word, layer=layer).peak
                x0, y0, x1, y1 = thing.box
                hits[layer].append(x0 <= x <= x1 and y0 <= y <= y1)
    return {layer: float(np.mean(found)) for layer, found in hits.items()}


def _image_of(record: Record) -> bytes | ImageWithRegions:
    if record.regions is None:
        return record.image
    return ImageWithRegions(pixels_of(record.image), record.regions, record.image_id)


def with_random_weights(loaded: LoadedModel) -> LoadedModel:
    """The same model before training."""
    return dataclasses.replace(loaded, model=loaded.task.init(rngs=nnx.Rngs(0)))


def covered(records: list[Record]) -> float:
    """Mean share of the image in a named object's box: the hit rate of a random position."""
    return float(np.mean([thing.side**2 for record in records for _, thing in named_objects(record)]))


def scenes(records: Records, count: int) -> list[Record]:
    """The first scenes in which a word names exactly one of several objects."""
    found: list[Record] = []
    for i in range(len(records)):
        if len(found) == count:
            break
        record = records[i]
        if any(named_objects(record)):
            found.append(record)
    return found


def main() -> None:
    """Entry point behind the flags."""
    required(WORKDIR)
    loaded = load(WORKDIR.value, checkpoint=CHECKPOINT.value)
    say(loaded.origin())
    chosen = scenes(
        open_records(DATA_DIR.value or loaded.data.data_dir, "shapes", SPLIT.value or _SPLIT), _SCENES.value
    )
    predictor = Predictor(loaded)
    rows = {
        "trained": play(predictor, chosen),
        "trained, other images": play(predictor, chosen, other_images=True),
        "random weights": play(Predictor(with_random_weights(loaded)), chosen),
    }
    words = sum(len(list(named_objects(record))) for record in chosen)
    say(f"hits of {words} words in {len(chosen)} scenes; a random position: {covered(chosen):.3f}")
    for name, by_layer in rows.items():
        say(f"{name:26}" + "".join(f"  layer {layer}: {share:.3f}" for layer, share in by_layer.items()))


if __name__ == "__main__":
    run_main(main, takes_config=False)
