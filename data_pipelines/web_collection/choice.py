"""One text an image: the one that fits it best."""

import dataclasses
from collections.abc import Iterator, Sequence

from data_pipelines.web_collection.funnel import Drop
from data_pipelines.web_collection.samples import WebImage


def longest(texts: Sequence[str]) -> int:
    """Place of the text with the most words, of equally long ones the first."""
    return max(range(len(texts)), key=lambda place: (len(texts[place].split()), -place))


def choose(image: WebImage, scores: Sequence[float] | None, min_score: float) -> Iterator[WebImage | Drop]:
    """The image with its best text alone, and what is dropped.

    Args:
      image: with at least one text.
      scores: of its texts, the greatest is the best, of equal ones the first; None: the longest text is the best.
      min_score: the image is dropped if its best text scores less.
    """
    place = str(image.place)
    best = longest(image.texts) if scores is None else max(range(len(scores)), key=lambda i: (scores[i], -i))
    for number, text in enumerate(image.texts):
        if number != best:
            yield Drop("best text", place, text, texts=1, detail=_against(image.texts[best], scores, number, best))
    if scores is not None and scores[best] < min_score:
        reason = f"score under {min_score:g}"
        yield Drop("score", place, image.texts[best], reason, images=1, texts=1, detail=f"{scores[best]:.4f}")
        return
    score = None if scores is None else scores[best]
    yield dataclasses.replace(image, texts=(image.texts[best],), score=score)


def _against(chosen: str, scores: Sequence[float] | None, number: int, best: int) -> str:
    mean_metrics = "" if scores is None else f"{scores[number]:.4f} against {scores[best]:.4f}: "
    return f"{mean_metrics}{chosen[:200]!r}"
