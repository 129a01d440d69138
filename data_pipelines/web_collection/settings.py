"""Settings: the thresholds of all stages, and the size of the output files."""

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
      language: language tags of the pages to keep, such as ("en",); empty: all pages.
      unknown_language: "keep" or "drop", for pages without a language.
      min_side: minimum length in pixels of both sides of an image.
      min_words, max_words: limits for the number of words of a text; a word has at least one letter or digit.
      min_letters: minimum share of letters among the characters of a text, without spaces.
      words: known words in lower case; empty: all words are known.
      max_unknown_words: maximum share of unknown words in a text.
      max_images_per_text: a text of more images than this is boilerplate.
      max_texts_per_image: further texts of an image are dropped.
      model: trained model that scores the texts; "": the longest text is kept.
      checkpoint: "best" or "last", of a model that is a run; "best" is the last if no best one is kept.
      min_score: an image is dropped if its best text has a lower score.
      max_distance: maximum number of different bits between the hashes of near-duplicates; -1: near-duplicates are
        kept.
      split: name of the split to write.
      images_per_shard: images per tar file, except the last one.
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
    checkpoint: str = "best"
    min_score: float = 0.5
    max_distance: int = 4
    split: str = "train"
    images_per_shard: int = 1000

    def __post_init__(self) -> None:
        """Raise DataError for invalid values."""
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
        """Plain values for funnel.json; only the number of the known words is included."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {"language": list(self.language), "words": len(self.words)}
