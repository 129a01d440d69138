"""What a data set's reader hands to the builder: images, or pairs of them, that may become records."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.images.files import MAX_BYTES, BadImageError
from data_pipelines.storage.regions import Regions


@dataclasses.dataclass(frozen=True)
class Source:
    """Where one image comes from.

    Attributes:
      read: gives the encoded bytes; may raise BadImageError or OSError. None: not found.
      place: where the image is, for messages.
      turn: turn it upright by its orientation tag.
    """

    read: Callable[[], bytes] | None
    place: str
    turn: bool = False


@dataclasses.dataclass(frozen=True)
class FoundRegions:
    """Regions of one image; `dropped` says how many boxes were left out, by reason."""

    regions: Regions
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)


class BadRegionsError(DataError):
    """Regions that cannot be used; `reason` is short, the same for faults of one kind, `place` says where they are."""

    def __init__(self, reason: str, place: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.reason = reason
        self.place = place


@dataclasses.dataclass(frozen=True)
class NoText:
    """Stands among the texts of a candidate for what should be one; `reason` is the same for faults of one kind."""

    reason: str


NOT_A_NUMBER = NoText("NaN instead of a text")
NOT_UTF_8 = NoText("text is not UTF-8")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One image of a data set, or one pair, before it has been looked at.

    Attributes:
      image_id: global identity, `coco/<id>` or `<data set>/<id>`.
      texts: as published, not cleaned yet; what is no string is no text.
      read, place: of the image, as in `Source`.
      labels: a JSON object for each text, or none at all.
      second: the right-hand image of a pair.
      regions: gives what a detector found, from the image's height and width in pixels; may raise
        BadRegionsError. None: the data set has no regions.
      turn: as in `Source`.
    """

    image_id: str
    texts: Sequence[object]
    read: Callable[[], bytes] | None
    place: str
    labels: Sequence[str] = ()
    second: Source | None = None
    regions: Callable[[int, int], FoundRegions] | None = None
    turn: bool = False

    def __post_init__(self) -> None:
        if not self.image_id.isascii():
            # A file's name may be no valid unicode, which records could not hold.
            whole = self.image_id.encode("utf-8", "backslashreplace").decode()
            object.__setattr__(self, "image_id", whole)

    @classmethod
    def of(
        cls,
        image_id: str,
        texts: Sequence[object],
        source: Source,
        labels: Sequence[str] = (),
        second: Source | None = None,
    ) -> "Candidate":
        """A candidate whose image comes from a `Source`."""
        return cls(image_id, texts, source.read, source.place, labels, second, turn=source.turn)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The image, or both of a pair."""
        first = Source(self.read, self.place, self.turn)
        return (first,) if self.second is None else (first, self.second)

    def cleaned(self) -> tuple[list[str], list[str]]:
        """Texts after `clean_text` and their labels, without the texts that are left empty."""
        texts = [clean_text(text) for text in self.texts]
        labels = [label for text, label in zip(texts, self.labels, strict=True) if text] if self.labels else []
        return [text for text in texts if text], labels

    def faults(self) -> collections.Counter[str]:
        """Reason -> number of texts that a fault of the source took away, as against those that are empty."""
        reasons = (fault_of(text) for text in self.texts)
        return collections.Counter(reason for reason in reasons if reason)


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The candidates of one split, in the order in which they become records.

    Attributes:
      items: read once, front to back; may be a generator.
      total: how many there are, None if that is not known beforehand.
      missing: places of the files that are known beforehand to be missing.
      left_out: reason -> number of images that are not among the items; complete once those have been read.
      unused: what else lies among the images and is not used -> how many; complete once the items have been read.
    """

    items: Iterable[Candidate]
    total: int | None = None
    missing: Sequence[str] = ()
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unused: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, items: Sequence[Candidate]) -> "Candidates":
        """All that is known of a list."""
        missing = []
        for candidate in items:
            missing += [source.place for source in candidate.sources if source.read is None][:1]
        return cls(items, len(items), missing)


@dataclasses.dataclass(frozen=True)
class FileBytes:
    """`Candidate.read` for a file on disk."""

    path: Path

    def __call__(self) -> bytes:
        if self.path.stat().st_size > MAX_BYTES:
            raise BadImageError(f"file over {MAX_BYTES >> 20} MiB")
        return self.path.read_bytes()


def clean_text(text: object) -> str:
    """A text with whitespace collapsed, NUL and broken unicode removed; empty for what is not a string."""
    if not isinstance(text, str):
        return ""
    return " ".join(text.replace("\0", " ").encode("utf-8", "ignore").decode().split())


def fault_of(text: object) -> str:
    """Why something is no text, where a fault of the source is the reason; "" for texts and for what is just empty."""
    if isinstance(text, float) and math.isnan(text):
        return NOT_A_NUMBER.reason
    return text.reason if isinstance(text, NoText) else ""


def decode_text(content: bytes) -> str | NoText:
    """A text from the bytes of a file, without a byte order mark; NOT_UTF_8 where they are something else."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return NOT_UTF_8


def check_share(bad: int, total: int, max_share: float, reasons: str, *, all_seen: bool = True) -> None:
    """Raise DataError if more than `max_share` of `total` images are bad; `reasons` says how.

    Unless `all_seen`, there may be more of them among images that were not looked at.
    """
    if bad > max_share * total:
        raise DataError(
            f"{'' if all_seen else 'At least '}{bad:,} of {total:,} images ({bad / total:.1%}) cannot be used, more "
            f"than --max_bad_share={max_share:g}: {reasons}; repair the source files or raise "
            "--max_bad_share."
        )
