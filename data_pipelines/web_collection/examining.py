"""The first look at an image as a page shows it: size, language, texts, and last, since it costs most, decoding."""

import hashlib
from collections.abc import Callable, Iterator

from data_pipelines.images import resize
from data_pipelines.images.files import BadImageError, read_header, verify
from data_pipelines.web_collection import languages
from data_pipelines.web_collection.funnel import FOUND, Drop
from data_pipelines.web_collection.near_duplicates import fingerprint
from data_pipelines.web_collection.samples import Found, WebImage
from data_pipelines.web_collection.settings import Settings
from data_pipelines.web_collection.texts import judge


def examine(found: Found, read: Callable[[], bytes], settings: Settings) -> Iterator[WebImage | Drop]:
    """The image with the texts that no heuristic drops, and what is dropped.

    Args:
      found: what the page says.
      read: gives the encoded bytes; may raise BadImageError.
      settings: the thresholds.
    """
    place, number = str(found.place), len(found.texts)
    yield Drop(FOUND, images=1, texts=number)

    def drop(stage: str, reason: str = "", detail: str = "", texts: int = number) -> Drop:
        return Drop(stage, place, "", reason, images=1, texts=texts, detail=detail)

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
            yield Drop(stage, place, text, reason, texts=1)
        else:
            texts.append(text)
    if not texts:
        yield drop("some text", texts=0)
        return
    try:
        verify(encoded)
        image_hash = fingerprint(resize.decode(encoded))
    except (BadImageError, resize.DataError) as error:
        yield drop("whole file", getattr(error, "reason", "not decodable by OpenCV"), texts=len(texts))
        return
    yield WebImage(
        hashlib.sha256(encoded).hexdigest(),
        found.place,
        header.format,
        header.height,
        header.width,
        image_hash,
        tuple(texts),
        languages.primary_tag(found.language),
        found.page,
    )
