"""Where words look in photographs: twelve attention maps, chosen by a rule that does not see them.

    python -m benchmarks.learning.attention_sheet --workdir=RUN --coco=FOLDER --output=attention.png

The rule: COCO's val2017 in the order of image ids; of these the images whose licence lets anybody show them; of each
the first caption that has one of the 60 frequent words of pretrain_photographs which name an object, and the first such
word in it; the first twelve. Each map is the mean over layers and heads. A JSON file beside the PNG names the images
and their licences.
"""

import dataclasses
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from absl import flags

from data_pipelines.storage.atomic_files import write_atomically
from experiments.configs.pretrain_photographs import WORDS
from experiments.run.common_flags import OUTPUT, WORKDIR, new_file, required
from experiments.run.config_flags import run_main
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.predictor import Predictor

COCO = flags.DEFINE_string("coco", "", "COCO as published: annotations/captions_val2017.json and val2017/.")

IMAGES = 12
# Attribution, attribution and share alike, no known restrictions, United States government; changes are allowed.
_LICENCES = (4, 5, 7, 8)
_NO_OBJECTS = "white black brown red blue green yellow orange pink air background soccer football tennis"
_NOUNS = frozenset(WORDS.split()) - frozenset(_NO_OBJECTS.split())
_COLUMNS = 4


class Example(NamedTuple):
    """A photograph with a caption, the word that is drawn, and the image's source and licence."""

    file: Path
    caption: str
    word: str
    source: str


def examples(coco: Path) -> Iterator[Example]:
    """All photographs that the rule takes, in its order.

    Args:
      coco: folder with annotations/captions_val2017.json and val2017/.

    Raises:
      ConfigError: the captions, or an image that fits the rule, are not there.
    """
    file = coco / "annotations" / "captions_val2017.json"
    if not file.is_file():
        raise ConfigError(f"--coco={coco}: {file} is missing; give COCO's folder as published.")
    content = json.loads(file.read_text())
    licences = {licence["id"]: licence["name"] for licence in content["licenses"]}
    captions: dict[int, list[str]] = {}
    for annotation in sorted(content["annotations"], key=lambda annotation: annotation["id"]):
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"].strip())
    for image in sorted(content["images"], key=lambda image: image["id"]):
        path = coco / "val2017" / image["file_name"]
        if image["license"] not in _LICENCES:
            continue
        for caption in captions.get(image["id"], ()):
            words = [word.strip(".,").lower() for word in caption.split()]
            if found := [word for word in words if word in _NOUNS]:
                if not path.is_file():
                    raise ConfigError(f"--coco={coco}: {path} is missing; unpack all of val2017, or give its folder.")
                yield Example(path, caption, found[0], f"COCO {image['id']}, {licences[image['license']]}")
                break


def chosen_examples(coco: Path) -> list[Example]:
    """The first twelve of `examples`.

    Raises:
      ConfigError: as `examples`, or there are fewer.
    """
    chosen = list(itertools.islice(examples(coco), IMAGES))
    if len(chosen) < IMAGES:
        raise ConfigError(
            f"--coco={coco}: {len(chosen)} images fit the rule of the attention maps, which needs {IMAGES}; give "
            "COCO's folder as published."
        )
    return chosen


def draw_attention(workdir: Path, chosen: list[Example], output: Path) -> None:
    """Write the maps of a trained run to the PNG `output`, and the examples to a JSON file beside it."""
    predictor = Predictor.load(workdir)
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = -(-IMAGES // _COLUMNS)
    figure, axes = pyplot.subplots(rows, 2 * _COLUMNS, figsize=(4 * _COLUMNS, 2.1 * rows), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    layers = predictor.loaded.task.model.encoder.layers
    for number, example in enumerate(chosen):
        encoded = predictor.encode(example.file)
        maps = [predictor.attention_map(encoded, example.caption, example.word, layer=layer) for layer in range(layers)]
        weights = np.mean([each.weights / max(float(each.weights.max()), 1e-12) for each in maps], axis=0)
        left, right = axes[number // _COLUMNS, 2 * (number % _COLUMNS) :][:2]
        left.imshow(maps[0].image)
        right.imshow(dataclasses.replace(maps[0], weights=weights).overlay())
        right.set_title(example.word, fontsize=10)
        left.set_title(example.source.partition(",")[0], fontsize=7)
    png = io.BytesIO()
    figure.savefig(png, dpi=80)
    pyplot.close(figure)
    write_atomically(output, png.getvalue())
    listed = [example._asdict() | {"file": example.file.name} for example in chosen]
    write_atomically(output.with_suffix(".json"), json.dumps(listed, indent=1) + "\n")


def main() -> None:
    """Entry point behind the flags."""
    required(WORKDIR, COCO, OUTPUT)
    draw_attention(Path(WORKDIR.value), chosen_examples(Path(COCO.value)), new_file(OUTPUT.value, ".png"))


if __name__ == "__main__":
    run_main(main, takes_config=False)
