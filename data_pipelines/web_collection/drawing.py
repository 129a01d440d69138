"""Draw the funnel as a bar chart."""

import io
from collections.abc import Sequence

from data_pipelines.web_collection.funnel import Row

_LEFT, _DROPPED = "#2f6f9f", "#e2a76f"


def draw(rows: Sequence[Row], title: str) -> bytes:
    """A PNG with the kept and dropped items of each stage: images on the left, texts on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 1.6 + 0.34 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    sides = figure.subplots(1, 2, sharey=True)
    names = ["found", *(row.stage for row in rows)]
    for axes, unit, counts in (
        (sides[0], "images", [(row.images_left, row.dropped_images) for row in rows]),
        (sides[1], "texts", [(row.texts_left, row.dropped_texts) for row in rows]),
    ):
        found = getattr(rows[0], unit)
        left, dropped = zip((found, 0), *counts, strict=True)
        positions = range(len(names))
        axes.barh(positions, left, color=_LEFT, label="left")
        axes.barh(positions, dropped, left=left, color=_DROPPED, label="dropped here")
        for position, (num_left, num_dropped) in enumerate(zip(left, dropped, strict=True)):
            label = f" {num_left:,}" + (f"  (-{num_dropped:,})" if num_dropped else "")
            axes.text(num_left + num_dropped, position, label, va="center", fontsize=8)
        axes.set(title=unit, xlim=(0, max(found, 1) * 1.28), yticks=list(positions), yticklabels=names)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)
    sides[0].yaxis.set_inverted(True)
    sides[1].legend(loc="lower right", frameon=False)
    png = io.BytesIO()
    figure.savefig(png, dpi=90, format="png", metadata={"Software": None})
    return png.getvalue()
