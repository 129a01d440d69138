"""Where the words of a caption look, and how well texts match: the quickstart's model on drawn scenes.

    python -m benchmarks.pictures.attention --workdir=runs/quickstart --output=docs/images/attention.png

The scenes are not chosen by eye: the first three of the test split with two objects of different colours and shapes.
The maps are of the first layer, the mean of its heads.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pictures.card import GREY, INK, LINE, card, save
from data_pipelines.datasets import shapes_scene
from experiments.run.common_flags import OUTPUT, WORKDIR, new_file, required
from experiments.run.config_flags import run_main
from pixelbert_jax.predictor import Predictor

_SCENES = 3
_SIDE, _STEP = 12, 12.8  # of an image, and from one to the next, in tenths of an inch
_TEXTS = 69.5  # where they begin
_PIXELS = 240  # of a side


def scenes() -> Iterator[shapes_scene.Scene]:
    """The scenes of the test split that fit the rule, without end."""
    for index in itertools.count():
        scene = shapes_scene.scene(0, "test", index)
        colours, shapes = ({getattr(thing, name) for thing in scene.objects} for name in ("colour", "shape"))
        if len(scene.objects) == len(colours) == len(shapes) == 2:
            yield scene


def texts_of(scene: shapes_scene.Scene) -> dict[str, str]:
    """What is drawn, the same with another colour, and with the colours exchanged."""
    caption = shapes_scene.captions(scene)[3]
    first, second = (thing.colour for thing in scene.objects)
    other = next(colour for colour in shapes_scene.COLOURS if colour not in (first, second))
    exchanged = {first: second, second: first}
    return {
        "true": caption,
        "another colour": caption.replace(first, other),
        "colours exchanged": " ".join(exchanged.get(word, word) for word in caption.split()),
    }


def draw(predictor: Predictor, output: Path) -> None:
    """Write the picture."""
    from matplotlib.patches import Rectangle

    figure, axes = card(11, 0.3 + 1.55 * _SCENES)
    for row, scene in enumerate(itertools.islice(scenes(), _SCENES)):
        image, texts = shapes_scene.render(scene, _PIXELS), texts_of(scene)
        named = {word for thing in scene.objects for word in (thing.colour, thing.shape)}
        maps = [predictor.attention_map(image, texts["true"], word) for word in texts["true"].split() if word in named]
        bottom = 15.5 * (_SCENES - 1 - row) + 2.5
        for column, (title, pixels) in enumerate([("image", image), *((each.word, each.overlay()) for each in maps)]):
            left = 2.5 + _STEP * column + (0.8 if column else 0)
            axes.imshow(pixels, extent=(left, left + _SIDE, bottom, bottom + _SIDE), zorder=2)
            axes.add_patch(Rectangle((left, bottom), _SIDE, _SIDE, fill=False, edgecolor=LINE, linewidth=0.8, zorder=3))
            axes.text(
                left + _SIDE / 2, bottom + _SIDE + 0.6, title, size=11, color=INK if column else GREY, ha="center"
            )
        left, width = _TEXTS, 33.0
        scores = predictor.match(image, texts.values())[0]
        for number, ((kind, text), score) in enumerate(zip(texts.items(), scores, strict=True)):
            top = bottom + _SIDE - 4.3 * number
            axes.text(left, top - 1.2, text, size=10.5, color=INK, va="center")
            axes.add_patch(Rectangle((left, top - 3.4), width, 1.1, facecolor="#eef2f7"))
            fill = "#10b981" if kind == "true" else "#f59e0b"
            axes.add_patch(Rectangle((left, top - 3.4), width * score, 1.1, facecolor=fill))
            axes.text(left + width + 0.6, top - 2.9, f"{score:.2f}", size=10.5, color=INK, va="center")
    axes.text(_TEXTS, 15.5 * _SCENES - 0.4, "image-text matching", size=11, color=GREY)
    save(figure, output)


def main() -> None:
    """Entry point behind the flags."""
    required(WORKDIR, OUTPUT)
    draw(Predictor.load(WORKDIR.value), new_file(OUTPUT.value, ".png"))


if __name__ == "__main__":
    run_main(main, takes_config=False)
