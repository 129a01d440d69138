"""The language of a page, as the page says it."""

from collections.abc import Collection

UNKNOWN = frozenset({"", "und", "unknown", "unk", "zxx", "mul", "none", "null"})


def primary_tag(language: object) -> str:
    """`en` of "en", "EN", "en-GB", "en_US.UTF-8"; "" if the page does not say, or says that it does not know."""
    if not isinstance(language, str):
        return ""
    tag = language.strip().replace("_", "-").partition("-")[0].partition(".")[0].lower()
    return "" if tag in UNKNOWN or len(tag) > 32 else tag


def refuse_language(language: object, wanted: Collection[str], unknown: str) -> str | None:
    """Why a page is dropped, None if it is kept.

    Args:
      language: as the page says it.
      wanted: primary tags; empty: all pages are kept.
      unknown: "keep" or "drop", for a page that does not say its language.
    """
    if not wanted:
        return None
    tag = primary_tag(language)
    if not tag:
        return None if unknown == "keep" else "language not said"
    return None if tag in wanted else tag
