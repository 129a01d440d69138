"""The model, and how an image and a text go through it.

python -m benchmarks.pictures.diagram --output=docs/images/diagram.png
"""

from pathlib import Path

import numpy as np

from benchmarks.pictures.card import GREY, INK, LINE, card, save
from data_pipelines.datasets import shapes_scene
from experiments.run.common_flags import OUTPUT, new_file, required
from experiments.run.config_flags import run_main

_SCENE = 8  # of the test split
_MASKED = "blue"
_GRID, _SAMPLED, _SEED = 6, 10, 39  # pixels of a side, pixels that are kept, and which
_TEXT, _SPECIAL, _IMAGE, _MODEL, _HEAD = "#eff6ff", "#bfdbfe", "#fde9d0", "#e0e7ff", "#d1fae5"
_CENTRED = {"ha": "center", "va": "center"}


def draw(output: Path) -> None:
    """Write the diagram."""
    from matplotlib.patches import FancyBboxPatch, Rectangle

    figure, axes = card(11, 5.7)

    def box(x, y, width, height, fill, label="", *, edge=LINE, size=12.0, weight="normal", round_by=1.1):
        style = f"round,pad=0,rounding_size={round_by}"
        axes.add_patch(FancyBboxPatch((x, y), width, height, style, facecolor=fill, edgecolor=edge, linewidth=1.1))
        axes.text(x + width / 2, y + height / 2 - 0.1, label, size=size, weight=weight, color=INK, **_CENTRED)

    def arrow(start, end, width=1.4):
        style = {
            "arrowstyle": "-|>",
            "color": GREY,
            "linewidth": width,
            "mutation_scale": 11,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes.annotate("", end, start, arrowprops=style)

    def note(x, y, text, **style):
        axes.text(x, y, text, **({**_CENTRED, "size": 10.5, "color": GREY} | style))

    def pixel(x, y, side, colour, kept=True):
        edge, width = (GREY, 1.0) if kept else ("#d1d5db", 0.6)
        axes.add_patch(
            Rectangle((x, y), side, side, facecolor=colour, edgecolor=edge, linewidth=width, zorder=2 + kept)
        )

    def grid(x, y, kept, rest):
        for row, column in np.ndindex(_GRID, _GRID):
            shown = (row, column) in kept
            colour = colours[row, column] if shown or rest else "#f9fafb"
            pixel(x + 2 * column, y + 2 * (_GRID - 1 - row), 2, colour, shown)

    scene = shapes_scene.scene(0, "test", _SCENE)
    image = shapes_scene.render(scene, 240)
    colours = image.reshape(_GRID, 240 // _GRID, _GRID, 240 // _GRID, 3).mean((1, 3)) / 255
    chosen = np.sort(np.random.default_rng(_SEED).choice(_GRID**2, _SAMPLED, replace=False))
    kept = [divmod(int(cell), _GRID) for cell in chosen]
    caption = shapes_scene.captions(scene)[3]
    tokens = ["[CLS]", *("[MASK]" if word == _MASKED else word for word in caption.split()), "[SEP]"]

    # The image's way: image, backbone, grid, sample.
    axes.imshow(image, extent=(49, 63, 5, 19), zorder=2)
    axes.add_patch(Rectangle((49, 5), 14, 14, fill=False, edgecolor=LINE, linewidth=0.9, zorder=3))
    box(66.6, 8.5, 9.6, 7, _IMAGE, "ResNet", edge="#f5c78e", weight="bold")
    grid(79.8, 6, list(np.ndindex(_GRID, _GRID)), rest=True)
    grid(95, 6, kept, rest=False)
    for start, end in ((63.4, 66.3), (76.5, 79.5), (92.1, 94.7)):
        arrow((start, 12), (end, 12))
    for x, text in ((56, "image"), (85.8, "grid of pixels"), (101, "random sample")):
        note(x, 3, text)

    # The text's way.
    box(3, 9.5, 38, 5, "white", f"“{caption}”", size=11)
    note(22, 7, "text")
    arrow((22, 14.8), (22, 23.4))
    note(23.3, 18.7, "WordPiece, random masks", ha="left")

    # One sequence: text tokens, then the sampled pixels.
    y, x = 23.8, 3.0
    centres = []
    for token in tokens:
        width = 1.5 + 0.94 * len(token)
        box(
            x,
            y,
            width,
            4.2,
            _SPECIAL if token.startswith("[") else _TEXT,
            token,
            edge="#93c5fd",
            size=10.5,
            round_by=0.8,
        )
        centres.append(x + width / 2)
        x += width + 0.45
    for number, cell in enumerate(kept):
        left = 74.2 + 3.35 * number
        pixel(left, y + 0.7, 2.7, colours[cell])
        centres.append(left + 1.35)
    arrow((101, 18.4), (101, y + 0.3))
    box(3, 32, 104, 8, _MODEL, "Transformer", edge="#a5b4fc", size=17, weight="bold")
    for at in centres:
        arrow((at, y + 4.5), (at, 31.7), 1.0)

    # The heads.
    for token, left, width, head, question in (
        ("[CLS]", 3, 30, "image-text matching (ITM)", "do image and text belong together?"),
        ("[MASK]", 38, 36, "masked language modelling (MLM)", f"which token is masked?  “{_MASKED}”"),
    ):
        at = centres[tokens.index(token)]
        arrow((at, 40.3), (at, 44.6))
        box(left, 45, width, 4.8, _HEAD, head, edge="#6ee7b7", size=11.5, weight="bold")
        note(left + width / 2, 52.3, question, size=11, color=INK)
    note(107, 47.4, "both tasks train the transformer\nand the ResNet, end to end", ha="right", linespacing=1.5)

    save(figure, output)


def main() -> None:
    """Entry point behind the flags."""
    required(OUTPUT)
    draw(new_file(OUTPUT.value, ".png"))


if __name__ == "__main__":
    run_main(main, takes_config=False)
