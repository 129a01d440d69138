"""Texts that many images have: "click to enlarge", the name of a shop."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

from data_pipelines.web_collection.funnel import Drop
from data_pipelines.web_collection.samples import WebImage


@dataclasses.dataclass(frozen=True, order=True)
class Use:
    """A text, number `number` of the texts of the image `sha256`, which was found at `place`."""

    sha256: str
    number: int
    text: str
    place: str


def uses(image: WebImage) -> Iterator[Use]:
    """All texts of an image."""
    for number, text in enumerate(image.texts):
        yield Use(image.sha256, number, text, str(image.place))


def without_repeats(same: Iterable[Use], max_images: int) -> Iterator[Use | Drop]:
    """The uses of one text, each by another image: all are kept, or none if there are more than `max_images`.

    `same` is gone through twice, and never held.
    """
    repeated = sum(1 for _ in itertools.islice(same, max_images + 1)) > max_images
    for use in same:
        yield Drop("repeated", use.place, use.text, f"over {max_images} images", texts=1) if repeated else use


def with_texts(image: WebImage, left: Iterable[Use]) -> Iterator[WebImage | Drop]:
    """The image with the texts that are left of it, or none."""
    texts = tuple(use.text for use in sorted(left))
    if texts:
        yield dataclasses.replace(image, texts=texts)
    else:
        yield Drop("own text", str(image.place), images=1)
