"""The language of a page, as the page declares it."""

from collections.abc import Collection

UNKNOWN = frozenset({"", "und", "unknown", "unk", "zxx", "mul", "none", "null"})


def primary_tag(language: object) -> str:
    """The primary tag: `en` for "en", "EN", "en-GB", "en_US.UTF-8"; "" if the language is missing or unknown."""
    if not isinstance(language, str):
        return ""
    tag = language.strip().replace("_", "-").partition("-")[0].partition(".")[0].lower()
    return "" if tag in UNKNOWN or len(tag) > 32 else tag


def refuse_language(language: object, wanted: Collection[str], unknown: str) -> str | None:
    """The reason why a page is dropped; None if it is kept.

    Args:
      language: language that the page declares.
      wanted: primary tags of the languages to keep; empty: all pages are kept.
      unknown: "keep" or "drop", for pages without a language.
    """
    if not wanted:
        return None
    tag = primary_tag(language)
    if not tag:
        return None if unknown == "keep" else "language not given"
    return None if tag in wanted else tag
