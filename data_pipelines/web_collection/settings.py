"""What is kept: the thresholds of all stages, and how the output is cut."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.web_collection.near_duplicates import MAX_DISTANCE


@dataclasses.dataclass(frozen=True)
class Settings:
    """Thresholds; the flags of `data_pipelines.collect` have the same names.

    Attributes:
      language: tags of the languages of the pages that are kept, such as ("en",); empty: all pages.
      unknown_language: what becomes of a page that does not say its language, "keep" or "drop".
      min_side: pixels that both sides of an image must have.
      min_words, max_words: of a text; a word has at least one letter or digit.
      min_letters: share of the characters of a text, blanks not counted, that must be letters.
      words: known words, lower case; empty: any word is known.
      max_unknown_words: share of the words of a text that may be unknown.
      max_images_per_text: a text that more images have is boilerplate.
      max_texts_per_image: further texts of an image are not looked at.
      model: a trained model that scores the texts; "": the longest text is taken.
      min_score: an image whose best text scores less is dropped.
      max_distance: bits in which the fingerprints of near duplicates differ at most; -1: near duplicates are kept.
      split: name of the split that is written.
      images_per_shard: images in each tar file but the last.
    """

    language: tuple[str, ...] = ("en",)
    unknown_language: str = "drop"
    min_side: int = 300
    min_words: int = 3
    max_words: int = 50
    min_letters: float = 0.6
    words: frozenset[str] = frozenset()
    max_unknown_words: float = 0.3
    max_images_per_text: int = 10
    max_texts_per_image: int = 64
    model: str = ""
    min_score: float = 0.5
    max_distance: int = 4
    split: str = "train"
    images_per_shard: int = 1000

    def __post_init__(self) -> None:
        """Refuse values that mean nothing; raises DataError."""
        for name, least, most in (
            ("min_side", 1, None),
            ("min_words", 1, None),
            ("max_words", self.min_words, None),
            ("min_letters", 0, 1),
            ("max_unknown_words", 0, 1),
            ("max_images_per_text", 1, None),
            ("max_texts_per_image", 1, None),
            ("min_score", 0, 1),
            ("max_distance", -1, MAX_DISTANCE),
            ("images_per_shard", 1, None),
        ):
            value = getattr(self, name)
            if not value >= least or (most is not None and value > most):
                allowed = f"at least {least}" if most is None else f"between {least} and {most}"
                raise DataError(f"--{name}={value} is not {allowed}; change it.")
        if self.unknown_language not in ("keep", "drop"):
            raise DataError(f"--unknown_language={self.unknown_language} is neither keep nor drop; give one of them.")
        if not re.fullmatch(r"[A-Za-z]\w*", self.split) or self.split.lower() == "all":
            raise DataError(f"--split={self.split} cannot be the name of a split; give a word such as train.")

    def summary(self) -> Mapping[str, Any]:
        """As plain values for funnel.json; of the known words only how many there are."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {"language": list(self.language), "words": len(self.words)}
