"""Merge all occurrences of the same image file."""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator

from data_pipelines.web_collection.funnel import Drop
from data_pipelines.web_collection.samples import WebImage

_RUN = re.compile(r"\w+")


def text_key(text: str) -> str:
    """A key that is the same for equivalent texts: case, punctuation and width of the characters are ignored."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_RUN.findall(folded)) or folded


def merge(images: Iterable[WebImage], max_texts: int) -> Iterator[WebImage | Drop]:
    """The first occurrence of an image with the texts of all occurrences, in the order of locations, and the drops.

    Args:
      images: at least one image; all have the same bytes.
      max_texts: maximum number of texts to keep.
    """
    first, *others = sorted(images, key=lambda image: image.location)
    kept: dict[str, str] = {}
    for image in (first, *others):
        if image is not first:
            yield Drop("same file", f"{image.location}", images=1, detail=f"as {first.location}")
        for text in image.texts:
            key = text_key(text)
            if key in kept:
                yield Drop("same text", f"{image.location}", text, texts=1, detail=f"as {kept[key][:200]!r}")
            elif len(kept) == max_texts:
                yield Drop("many texts", f"{image.location}", text, f"over {max_texts} texts", texts=1)
            else:
                kept[key] = text
    yield dataclasses.replace(first, texts=tuple(kept.values()))
