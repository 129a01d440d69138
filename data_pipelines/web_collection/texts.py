"""Heuristics that drop texts that are not captions; each heuristic checks one text at a time."""

import html
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

from data_pipelines.datasets.candidates import clean_text, fault_of
from data_pipelines.errors import DataError
from data_pipelines.web_collection.settings import Settings

MAX_CHARACTERS = 1000
_MAX_RAW_CHARACTERS = 10_000  # longer texts are dropped before cleaning

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
_E_MAIL = re.compile(r"[\w.+-]+@[\w-]+\.\w")
_ADDRESS = re.compile(
    r"\w://|\bwww\.|\b[\w-]+\.(?:com|net|org|info|biz|edu|gov|io|html?|php|aspx?|jsp)\b", re.IGNORECASE
)
_FILE_NAME = re.compile(
    r"[\w()-]\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic|avif|psd|pdf|mp4|avi|mov)\b"
    r"|\b(?:IMG|DSC[NF]?|PICT|MVI|GOPR|PXL|VID)[ _-]?\d{3,}"
    r"|\bP\d{6,}"
    r"|\w_\w",
    re.IGNORECASE,
)


def clean(text: object) -> str:
    """A text with HTML entities resolved and whitespace collapsed; "" for values that are not strings."""
    return clean_text(html.unescape(text)) if isinstance(text, str) else ""


def words_of(text: str) -> list[str]:
    """Words that consist of letters, in lower case; curly apostrophes become straight."""
    return [word.replace("\u2019", "'").lower() for word in _WORD.findall(text)]


def refuse_length(text: str, settings: Settings) -> str | None:
    """Refuse a text with too few or too many words, or with too many characters."""
    words = sum(any(map(str.isalnum, word)) for word in text.split())
    if words < settings.min_words:
        return f"under {settings.min_words} words"
    if words > settings.max_words:
        return f"over {settings.max_words} words"
    return f"over {MAX_CHARACTERS} characters" if len(text) > MAX_CHARACTERS else None


def refuse_e_mail(text: str, _: Settings) -> str | None:
    """Refuse a text with an e-mail address."""
    return "e-mail address" if _E_MAIL.search(text) else None


def refuse_address(text: str, _: Settings) -> str | None:
    """Refuse a text with the address of a page or the name of a site."""
    return "web address" if _ADDRESS.search(text) else None


def refuse_file_name(text: str, _: Settings) -> str | None:
    """Refuse a text with a file name, the name of an image from a camera, or a word with an underscore."""
    return "file name" if _FILE_NAME.search(text) else None


def refuse_characters(text: str, settings: Settings) -> str | None:
    """Refuse a text with too few letters among its characters."""
    characters = [c for c in text if not c.isspace()]
    # A vowel sign of an Indic script is a mark (M) and not a letter (L), but it is part of a word.
    letters = sum(c.isalpha() or unicodedata.category(c)[0] == "M" for c in characters)
    few = letters < settings.min_letters * len(characters)
    return f"letters under {settings.min_letters:.0%}" if few else None


def refuse_capitals(text: str, _: Settings) -> str | None:
    """Refuse a text whose letters are all capitals."""
    return "capitals only" if text.isupper() else None


def refuse_unknown_words(text: str, settings: Settings) -> str | None:
    """Refuse a text with too many words that are not in the list of words, if there is a list; numbers do not count."""
    words = words_of(text)
    unknown = sum(word not in settings.words for word in words) if settings.words else 0
    too_many = unknown > settings.max_unknown_words * len(words)
    return f"unknown words over {settings.max_unknown_words:.0%}" if too_many else None


# Stage -> heuristic, in the order of the checks; the first one limits the work of the others.
HEURISTICS: dict[str, Callable[[str, Settings], str | None]] = {
    "length": refuse_length,
    "e-mail": refuse_e_mail,
    "address": refuse_address,
    "file name": refuse_file_name,
    "characters": refuse_characters,
    "capitals": refuse_capitals,
    "vocabulary": refuse_unknown_words,
}


def judge(text: object, settings: Settings) -> tuple[str, str, str]:
    """The cleaned text, the stage that drops it, and the reason; stage and reason are "" if the text is kept."""
    if fault := fault_of(text):
        return "", "length", fault
    if isinstance(text, str) and len(text) > _MAX_RAW_CHARACTERS:
        return text[:MAX_CHARACTERS], "length", f"over {MAX_CHARACTERS} characters"
    cleaned = clean(text)
    for stage, refuse in HEURISTICS.items():
        reason = refuse(cleaned, settings)
        if reason:
            return cleaned, stage, reason
    return cleaned, "", ""


def read_words(path: Path) -> frozenset[str]:
    """Known words in lower case, from a list with one word per line, or from a WordPiece vocab.txt, without parts of
    words.

    Raises:
      DataError: the file does not exist, is not UTF-8 text, or has no word.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").split("\n")
    except OSError as error:
        reason = error.strerror
        raise DataError(f"--words={path} cannot be read ({reason}); give a file with one word per line.") from None
    except UnicodeDecodeError:
        raise DataError(f"--words={path} is not UTF-8 text; give a file with one word per line.") from None
    words = frozenset(line.strip().lower() for line in lines if _WORD.fullmatch(line.strip()))
    if not words:
        raise DataError(f"--words={path} holds no word; give a file with one word per line.")
    return words
