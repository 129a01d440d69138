"""Choose one text per image: the text that fits the image best."""

import dataclasses
from collections.abc import Iterator, Sequence

from data_pipelines.web_collection.funnel import Drop
from data_pipelines.web_collection.samples import WebImage


def longest(texts: Sequence[str]) -> int:
    """Index of the text with the most words; if several are equally long, the first one."""
    return max(range(len(texts)), key=lambda i: (len(texts[i].split()), -i))


def choose(image: WebImage, scores: Sequence[float] | None, min_score: float) -> Iterator[WebImage | Drop]:
    """The image with only its best text, and the drops.

    Args:
      image: image with at least one text.
      scores: scores of its texts; the text with the highest score is the best, or the first of several. None: the
        longest text is the best.
      min_score: the image is dropped if the score of its best text is lower.
    """
    location = str(image.location)
    best = longest(image.texts) if scores is None else max(range(len(scores)), key=lambda i: (scores[i], -i))
    for number, text in enumerate(image.texts):
        if number != best:
            yield Drop("best text", location, text, texts=1, detail=_against(image.texts[best], scores, number, best))
    if scores is not None and scores[best] < min_score:
        reason = f"score under {min_score:g}"
        yield Drop("score", location, image.texts[best], reason, images=1, texts=1, detail=f"{scores[best]:.4f}")
        return
    score = None if scores is None else scores[best]
    yield dataclasses.replace(image, texts=(image.texts[best],), score=score)


def _against(chosen: str, scores: Sequence[float] | None, number: int, best: int) -> str:
    both_scores = "" if scores is None else f"{scores[number]:.4f} against {scores[best]:.4f}: "
    return f"{both_scores}{chosen[:200]!r}"
