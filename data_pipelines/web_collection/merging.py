"""One image from all places where the same file was found."""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator

from data_pipelines.web_collection.funnel import Drop
from data_pipelines.web_collection.samples import WebImage

_RUN = re.compile(r"\w+")


def text_key(text: str) -> str:
    """What texts that say the same have in common: case, punctuation and width of the letters do not count."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_RUN.findall(folded)) or folded


def merge(images: Iterable[WebImage], max_texts: int) -> Iterator[WebImage | Drop]:
    """The image that was found first, with the texts of all in the order of their places, and what is dropped.

    Args:
      images: of one file's content; at least one.
      max_texts: that are kept.
    """
    first, *others = sorted(images, key=lambda image: image.place)
    kept: dict[str, str] = {}
    for image in (first, *others):
        if image is not first:
            yield Drop("same file", f"{image.place}", images=1, detail=f"as {first.place}")
        for text in image.texts:
            key = text_key(text)
            if key in kept:
                yield Drop("same text", f"{image.place}", text, texts=1, detail=f"as {kept[key][:200]!r}")
            elif len(kept) == max_texts:
                yield Drop("many texts", f"{image.place}", text, f"over {max_texts} texts", texts=1)
            else:
                kept[key] = text
    yield dataclasses.replace(first, texts=tuple(kept.values()))
