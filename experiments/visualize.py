"""Draw the attention of words over an image, as in the paper's figure 3.

    python -m experiments.visualize --workdir=RUN --image=FILE --text="a red square" --output=FILE.png \
        [--words=red,square] [--layer=0] [--head=3] [--regions=FOLDER]

There is one map per word, side by side; without --words all words of the text. The weights of each word are scaled to
its own greatest. An ImageBERT takes a folder with an .npz file of regions for the image; where boxes overlap, the
greater weight is drawn. The sum of a word's attention over the image is printed (the rest is on tokens). If the model
has an image-text matching (ITM) head, the probability that image and text match is printed too.
"""

import io

import matplotlib
from absl import flags

from data_pipelines.storage.atomic_files import write_atomically
from experiments.run.common_flags import (
    CHECKPOINT,
    DETECTOR,
    IMAGES,
    OUTPUT,
    REGIONS,
    TEXTS,
    WORKDIR,
    new_file,
    only,
    required,
)
from experiments.run.config_flags import run_main
from experiments.run.progress import say
from pixelbert_jax.predictor import Predictor
from pixelbert_jax.visual_readers import AttentionMap

_WORDS = flags.DEFINE_list("words", [], "Words of the text, joined by commas; none: all of them.")
_LAYER = flags.DEFINE_integer("layer", 0, "Layer of the encoder, counted from 0.")
_HEAD = flags.DEFINE_integer("head", None, "One head of the layer; none: the mean of all.")

_COLUMNS = 4


def contact_sheet(maps: list[AttentionMap], title: str) -> bytes:
    """The image, then each word's map over it, as a PNG."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(_COLUMNS, len(maps) + 1)
    rows = -(-(len(maps) + 1) // columns)
    height, width = maps[0].image.shape[:2]
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(3 * columns, 3 * rows * height / width + 0.7), layout="constrained", squeeze=False
    )
    for panel in axes.flat:
        panel.axis("off")
    axes.flat[0].imshow(maps[0].image)
    for panel, attention in zip(list(axes.flat)[1:], maps, strict=False):
        panel.imshow(attention.overlay())
        panel.set_title(attention.word, fontsize=11)
    figure.suptitle(title, fontsize=10, wrap=True)
    png = io.BytesIO()
    figure.savefig(png, dpi=100)
    pyplot.close(figure)
    return png.getvalue()


def main() -> None:
    """Entry point behind the flags."""
    required(WORKDIR, IMAGES, TEXTS, OUTPUT)
    image, text = only(IMAGES), only(TEXTS)
    output = new_file(OUTPUT.value, ".png")
    predictor = Predictor.load(
        WORKDIR.value, checkpoint=CHECKPOINT.value, regions=REGIONS.value, detector=DETECTOR.value
    )
    say(predictor.loaded.origin())
    encoded = predictor.encode(image)
    words = _WORDS.value or list(dict.fromkeys(word for word in text.split() if any(map(str.isalnum, word))))
    maps = [predictor.attention_map(encoded, text, word, layer=_LAYER.value, head=_HEAD.value) for word in words]
    probability = float(predictor.match(encoded, text)[0, 0]) if "match" in predictor.methods else None
    matches = "" if probability is None else f"  matches {probability:.2f}"
    head = "mean of heads" if _HEAD.value is None else f"head {_HEAD.value}"
    write_atomically(output, contact_sheet(maps, f"“{text}”{matches}\nlayer {_LAYER.value}, {head}"))
    for attention in maps:
        say(f"{attention.word}: {attention.grid.sum():.2f} of its attention lies on the image")
    if probability is not None:
        say(f"the image and the text belong together with probability {probability:.3f}")
    say(f"{output} shows the attention of {len(maps)} word(s)")


if __name__ == "__main__":
    run_main(main, takes_config=False)
