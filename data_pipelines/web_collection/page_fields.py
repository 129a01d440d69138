"""The fields that a crawler stores with an image; .json files and Parquet files use the same names."""

from collections.abc import Mapping, Sequence
from typing import Any

TEXTS = ("alt", "title", "caption", "captions", "text", "texts")
LANGUAGES = ("language", "lang")
PAGES = ("page", "url")
_MAX_ADDRESS = 2048


def texts_of(fields: Mapping[str, Any]) -> Sequence[object]:
    """All texts, field by field; a field has one text or a list of texts."""
    texts: list[object] = []
    for name in TEXTS:
        value = fields.get(name)
        texts += value if isinstance(value, list) else [] if value is None else [value]
    return texts


def language_of(fields: Mapping[str, Any]) -> object:
    """The language of the page; None if no field has it."""
    return next((fields[name] for name in LANGUAGES if fields.get(name)), None)


def page_of(fields: Mapping[str, Any]) -> str:
    """The address of the page; "" if no field has it."""
    value = next((fields[name] for name in PAGES if isinstance(fields.get(name), str)), "")
    return value.encode("utf-8", "ignore").decode()[:_MAX_ADDRESS]
