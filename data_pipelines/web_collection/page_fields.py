"""What a crawler writes beside an image: the names of the fields, in .json files and in Parquet columns alike."""

from collections.abc import Mapping, Sequence
from typing import Any

TEXTS = ("alt", "title", "caption", "captions", "text", "texts")
LANGUAGES = ("language", "lang")
PAGES = ("page", "url")
_MAX_ADDRESS = 2048


def texts_of(fields: Mapping[str, Any]) -> Sequence[object]:
    """All texts, field by field; a field holds one text or a list of them."""
    texts: list[object] = []
    for name in TEXTS:
        value = fields.get(name)
        texts += value if isinstance(value, list) else [] if value is None else [value]
    return texts


def language_of(fields: Mapping[str, Any]) -> object:
    """The page's language, None if no field says it."""
    return next((fields[name] for name in LANGUAGES if fields.get(name)), None)


def page_of(fields: Mapping[str, Any]) -> str:
    """The page's address, "" if no field says it."""
    value = next((fields[name] for name in PAGES if isinstance(fields.get(name), str)), "")
    return value.encode("utf-8", "ignore").decode()[:_MAX_ADDRESS]
