"""Examine an image from a page: size, language, texts, and finally decoding, which is the most expensive check."""

import hashlib
from collections.abc import Callable, Iterator

from data_pipelines.images import resize
from data_pipelines.images.files import BadImageError, read_header, verify
from data_pipelines.web_collection import languages
from data_pipelines.web_collection.funnel import FOUND, Drop
from data_pipelines.web_collection.near_duplicates import perceptual_hash
from data_pipelines.web_collection.samples import Found, WebImage
from data_pipelines.web_collection.settings import Settings
from data_pipelines.web_collection.texts import judge


def examine(found: Found, read: Callable[[], bytes], settings: Settings) -> Iterator[WebImage | Drop]:
    """The image with the texts that no heuristic drops, and the drops.

    Args:
      found: the image and its texts from the page.
      read: returns the encoded bytes; may raise BadImageError.
      settings: the thresholds.
    """
    location, number = str(found.location), len(found.texts)
    yield Drop(FOUND, images=1, texts=number)

    def drop(stage: str, reason: str = "", detail: str = "", texts: int = number) -> Drop:
        return Drop(stage, location, "", reason, images=1, texts=texts, detail=detail)

    try:
        encoded = read()
        header = read_header(encoded)
    except BadImageError as error:
        yield drop("image file", error.reason)
        return
    if min(header.height, header.width) < settings.min_side:
        yield drop("size", "", f"{header.height}x{header.width} pixels")
        return
    refused = languages.refuse_language(found.language, settings.language, settings.unknown_language)
    if refused:
        yield drop("language", refused)
        return
    texts = []
    for raw in found.texts:
        text, stage, reason = judge(raw, settings)
        if stage:
            yield Drop(stage, location, text, reason, texts=1)
        else:
            texts.append(text)
    if not texts:
        yield drop("some text", texts=0)
        return
    try:
        header = verify(encoded, turn=True)  # as `image_text` reads what is collected
        image_hash = perceptual_hash(resize.decode(encoded, orientation=header.orientation))
    except (BadImageError, resize.DataError) as error:
        yield drop("whole file", getattr(error, "reason", "not decodable by OpenCV"), texts=len(texts))
        return
    yield WebImage(
        hashlib.sha256(encoded).hexdigest(),
        found.location,
        header.format,
        header.height,
        header.width,
        image_hash,
        tuple(texts),
        languages.primary_tag(found.language),
        found.page,
    )
