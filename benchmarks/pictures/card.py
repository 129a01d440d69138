"""A white card with round corners, to draw on: it reads well on light and on dark pages."""

import io
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_pipelines.storage.atomic_files import write_atomically

INK, GREY, LINE = "#1f2937", "#6b7280", "#9ca3af"


def card(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches, and axes over all of it in tenths of an inch."""
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import FancyBboxPatch

    figure = pyplot.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 10 * width), ylim=(0, 10 * height), aspect="equal")
    axes.axis("off")
    style = "round,pad=0,rounding_size=2"
    size = (10 * width - 0.6, 10 * height - 0.6)
    axes.add_patch(FancyBboxPatch((0.3, 0.3), *size, style, facecolor="white", edgecolor="#e5e7eb", linewidth=1.1))
    return figure, axes


def save(figure: Figure, output: Path) -> None:
    """Write a figure to a PNG file and close it."""
    from matplotlib import pyplot

    png = io.BytesIO()
    figure.savefig(png, dpi=130, transparent=True)
    pyplot.close(figure)
    write_atomically(output, png.getvalue())
