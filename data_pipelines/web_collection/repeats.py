"""Drop texts that many images have, such as "click to enlarge" or the name of a shop."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

from data_pipelines.web_collection.funnel import Drop
from data_pipelines.web_collection.samples import WebImage


@dataclasses.dataclass(frozen=True, order=True)
class Use:
    """Text number `number` of the image `sha256`, which is at `location`."""

    sha256: str
    number: int
    text: str
    location: str


def uses(image: WebImage) -> Iterator[Use]:
    """All texts of an image."""
    for number, text in enumerate(image.texts):
        yield Use(image.sha256, number, text, str(image.location))


def without_repeats(same: Iterable[Use], max_images: int) -> Iterator[Use | Drop]:
    """The uses of one text by different images: all of them, or drops if there are more than `max_images`.

    `same` is iterated twice, and is never held in memory.
    """
    repeated = sum(1 for _ in itertools.islice(same, max_images + 1)) > max_images
    for use in same:
        yield Drop("repeated", use.location, use.text, f"over {max_images} images", texts=1) if repeated else use


def with_texts(image: WebImage, left: Iterable[Use]) -> Iterator[WebImage | Drop]:
    """The image with its remaining texts, or a drop if there are none."""
    texts = tuple(use.text for use in sorted(left))
    if texts:
        yield dataclasses.replace(image, texts=texts)
    else:
        yield Drop("own text", str(image.location), images=1)
