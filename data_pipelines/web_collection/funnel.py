"""The funnel: the number of images and texts that each stage keeps and drops, with examples of the dropped ones."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

EXAMPLES = 5  # per stage
_MAX_CHARACTERS = 200  # per part of an example

# Stage -> description of the dropped items, in the order of the stages.
STAGES = {
    "image file": "images whose header cannot be read or promises too much",
    "size": "images with a side that is too small",
    "language": "images on pages in another language",
    "length": "texts that are too short or too long",
    "e-mail": "texts with an e-mail address",
    "address": "texts with a web address",
    "file name": "texts with a file's name",
    "characters": "texts of too few letters",
    "capitals": "texts in capitals",
    "vocabulary": "texts of unknown words",
    "some text": "images without a text that is left",
    "whole file": "images that do not decode",
    "same file": "images that were found before; their texts join those of the first",
    "same text": "texts that an image has already",
    "many texts": "further texts of an image that has enough",
    "repeated": "texts that many images have",
    "own text": "images without a text that is left",
    "best text": "texts that fit their image less well than another",
    "score": "images whose best text does not fit",
    "near duplicate": "images that look like a better one",
}
FOUND = "found"  # not a stage: counts the input
KEPT = "kept"  # not a stage: counts the output


@dataclasses.dataclass(frozen=True)
class Drop:
    """One drop of a stage, or one item of the input or output.

    Attributes:
      stage: a key of STAGES, or FOUND or KEPT.
      location: location of the image, for users.
      text: the dropped text, or "".
      reason: short reason, the same for all drops of one kind; "": the stage has only one reason.
      images, texts: number of dropped images and texts.
      detail: further explanation of this drop.
    """

    stage: str
    location: str = ""
    text: str = ""
    reason: str = ""
    images: int = 0
    texts: int = 0
    detail: str = ""

    def example(self) -> tuple[str, str, str, str]:
        """Location, text, reason and detail, each cut to a maximum length."""
        return tuple(part[:_MAX_CHARACTERS] for part in (self.location, self.text, self.reason, self.detail))


@dataclasses.dataclass(frozen=True)
class Tally:
    """The sum of all drops of one stage; addition is associative and independent of the order.

    Attributes:
      images, texts: number of dropped images and texts.
      reasons: reason -> number of drops.
      examples: reason -> the first `EXAMPLES` examples in alphabetical order.
    """

    images: int = 0
    texts: int = 0
    reasons: Mapping[str, int] = dataclasses.field(default_factory=dict)
    examples: Mapping[str, tuple[tuple[str, str, str, str], ...]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, drop: Drop) -> "Tally":
        """The tally of one drop."""
        examples = {drop.reason: (drop.example(),)} if drop.stage in STAGES else {}
        return cls(drop.images, drop.texts, {drop.reason: 1} if drop.reason else {}, examples)

    @classmethod
    def total(cls, tallies: Iterable["Tally"]) -> "Tally":
        """The sum of tallies."""
        images = texts = 0
        reasons: collections.Counter[str] = collections.Counter()
        examples: dict[str, set[tuple[str, str, str, str]]] = collections.defaultdict(set)
        for tally in tallies:
            images, texts = images + tally.images, texts + tally.texts
            reasons.update(tally.reasons)
            for reason, some in tally.examples.items():
                examples[reason].update(some)
        least = {reason: tuple(sorted(some)[:EXAMPLES]) for reason, some in examples.items()}
        return cls(images, texts, dict(reasons), least)

    def chosen_examples(self) -> list[tuple[str, str, str, str]]:
        """At most `EXAMPLES` examples: the first of each reason, then the second ones, the commonest reason first."""
        ordered = sorted(self.examples, key=lambda reason: (-self.reasons.get(reason, 0), reason))
        return [
            self.examples[reason][turn]
            for turn in range(EXAMPLES)
            for reason in ordered
            if turn < len(self.examples[reason])
        ][:EXAMPLES]


@dataclasses.dataclass(frozen=True)
class Row:
    """One stage: the number of images and texts in its input, and the number that it dropped."""

    stage: str
    images: int
    dropped_images: int
    texts: int
    dropped_texts: int
    tally: Tally

    @property
    def images_left(self) -> int:
        return self.images - self.dropped_images

    @property
    def texts_left(self) -> int:
        return self.texts - self.dropped_texts


def funnel(tallies: Mapping[str, Tally]) -> list[Row]:
    """All stages in order; raises ValueError if the remaining items do not match the counted output."""
    nothing = Tally()
    found, kept = tallies.get(FOUND, nothing), tallies.get(KEPT, nothing)
    rows, images, texts = [], found.images, found.texts
    for stage in STAGES:
        tally = tallies.get(stage, nothing)
        rows.append(Row(stage, images, tally.images, texts, tally.texts, tally))
        images, texts = rows[-1].images_left, rows[-1].texts_left
    if (images, texts) != (kept.images, kept.texts) or tallies.keys() - STAGES.keys() - {FOUND, KEPT}:
        raise ValueError(
            f"funnel: {images} images with {texts} texts should be left, but {kept.images} with {kept.texts} are."
        )
    return rows


def table(rows: Iterable[Row]) -> str:
    """One line per stage: the input, the dropped items, the remaining items, and their share."""
    heads = [f"{unit:>11}{'dropped':>10}{'left':>11}{'share':>8}" for unit in ("images", "texts")]
    lines = [f"{'stage':<15}{heads[0]}  {heads[1]}"]
    for row in rows:
        cells = (
            f"{came:>11,}{dropped:>10,}{came - dropped:>11,}{_share(came - dropped, came):>8}"
            for came, dropped in ((row.images, row.dropped_images), (row.texts, row.dropped_texts))
        )
        lines.append(f"{row.stage:<15}{'  '.join(cells)}")
    return "\n".join(lines)


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The stages for funnel.json."""
    return [
        {
            "stage": row.stage,
            "drops": STAGES[row.stage],
            "images": _counts(row.images, row.dropped_images),
            "texts": _counts(row.texts, row.dropped_texts),
            "reasons": dict(sorted(row.tally.reasons.items(), key=lambda item: (-item[1], item[0]))),
            "examples": [
                {name: part for name, part in zip(("image", "text", "reason", "detail"), example, strict=True) if part}
                for example in row.tally.chosen_examples()
            ],
        }
        for row in rows
    ]


def _counts(came: int, dropped: int) -> dict[str, Any]:
    left = came - dropped
    return {"in": came, "dropped": dropped, "out": left, "share": round(left / came, 6) if came else None}


def _share(left: int, came: int) -> str:
    return f"{left / came:.1%}" if came else "-"
