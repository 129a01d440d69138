"""Candidates: images or pairs of images that may become records, as a data set passes them to its base class."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.images.files import MAX_BYTES, BadImageError
from data_pipelines.storage.paths import size_of
from data_pipelines.storage.regions import Regions


@dataclasses.dataclass(frozen=True)
class Source:
    """The source of one image.

    Attributes:
      read: returns the encoded bytes; may raise BadImageError or OSError. None: the image was not found.
      location: location of the image, for messages.
      turn: whether to turn the image upright by its orientation tag.
    """

    read: Callable[[], bytes] | None
    location: str
    turn: bool = False


@dataclasses.dataclass(frozen=True)
class FoundRegions:
    """Regions of one image; `dropped` is the number of dropped boxes by reason."""

    regions: Regions
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)


class BadRegionsError(DataError):
    """The regions cannot be used; `reason` is short and the same for all faults of one kind."""

    def __init__(self, reason: str, location: str) -> None:
        super().__init__(f"{location}: {reason}")
        self.reason = reason
        self.location = location


@dataclasses.dataclass(frozen=True)
class NoText:
    """Placeholder for an invalid text of a candidate; `reason` is the same for all faults of one kind."""

    reason: str


NOT_A_NUMBER = NoText("NaN instead of a text")
NOT_A_STRING = NoText("a number or another value instead of a text")
NOT_UTF_8 = NoText("text is not UTF-8")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One image of a data set, or one pair of images, before verification.

    Attributes:
      image_id: global id, `coco/<id>` or `<data set>/<id>`.
      texts: published texts, not cleaned yet; items that are not strings are not texts.
      read, location: as in `Source`, for the image or the left image of a pair.
      labels: a JSON object for each text, or empty.
      second: the right image of a pair.
      regions: returns the regions for the image's height and width in pixels; may raise BadRegionsError. None: the
        data set has no regions.
      turn: as in `Source`.
    """

    image_id: str
    texts: Sequence[object]
    read: Callable[[], bytes] | None
    location: str
    labels: Sequence[str] = ()
    second: Source | None = None
    regions: Callable[[int, int], FoundRegions] | None = None
    turn: bool = False

    def __post_init__(self) -> None:
        if not self.image_id.isascii():
            # A file name may be invalid Unicode, which a record cannot store.
            valid = self.image_id.encode("utf-8", "backslashreplace").decode()
            object.__setattr__(self, "image_id", valid)

    @classmethod
    def of(
        cls,
        image_id: str,
        texts: Sequence[object],
        source: Source,
        labels: Sequence[str] = (),
        second: Source | None = None,
    ) -> "Candidate":
        """A candidate with the image of a `Source`."""
        return cls(image_id, texts, source.read, source.location, labels, second, turn=source.turn)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The source of the image, or of both images of a pair."""
        first = Source(self.read, self.location, self.turn)
        return (first,) if self.second is None else (first, self.second)

    def cleaned(self) -> tuple[list[str], list[str]]:
        """Texts after `clean_text`, and their labels, without empty texts."""
        texts = [clean_text(text) for text in self.texts]
        labels = [label for text, label in zip(texts, self.labels, strict=True) if text] if self.labels else []
        return [text for text in texts if text], labels

    def faults(self) -> collections.Counter[str]:
        """Reason -> number of texts that are missing because of a fault of the source; empty texts do not count."""
        reasons = (fault_of(text) for text in self.texts)
        return collections.Counter(reason for reason in reasons if reason)


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The candidates of one split, in the order in which they become records.

    Attributes:
      items: the candidates, which are read only once; may be a generator.
      total: number of candidates; None if it is not known in advance.
      missing: locations of the files that are known in advance to be missing.
      skipped: reason -> number of images that are not among the items; complete after all items have been read.
      unused: kind of other files among the images -> their number; complete after all items have been read.
    """

    items: Iterable[Candidate]
    total: int | None = None
    missing: Sequence[str] = ()
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unused: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, items: Sequence[Candidate]) -> "Candidates":
        """Candidates of a list, with its length and the missing files."""
        missing = []
        for candidate in items:
            missing += [source.location for source in candidate.sources if source.read is None][:1]
        return cls(items, len(items), missing)


@dataclasses.dataclass(frozen=True)
class FileBytes:
    """`Candidate.read` for a file on disk."""

    path: Path

    def __call__(self) -> bytes:
        if size_of(self.path) > MAX_BYTES:
            raise BadImageError(f"file over {MAX_BYTES >> 20} MiB")
        return self.path.read_bytes()


def clean_text(text: object) -> str:
    """A text with whitespace collapsed, and without NUL and invalid Unicode; empty for values that are not strings."""
    if not isinstance(text, str):
        return ""
    return " ".join(text.replace("\0", " ").encode("utf-8", "ignore").decode().split())


def fault_of(text: object) -> str:
    """The fault of the source because of which a value is not a text; "" for texts and for None."""
    if text is None or isinstance(text, str):
        return ""
    if isinstance(text, float) and math.isnan(text):
        return NOT_A_NUMBER.reason
    return text.reason if isinstance(text, NoText) else NOT_A_STRING.reason


def decode_text(content: bytes) -> str | NoText:
    """Decode the bytes of a file without a byte order mark; NOT_UTF_8 if they are not UTF-8.

    UTF-16 without a byte order mark may be valid UTF-8, but then a large part of it are control characters.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return NOT_UTF_8
    controls = sum(letter < " " and not letter.isspace() for letter in text)
    return NOT_UTF_8 if 3 * controls > len(text) else text


def check_share(bad: int, total: int, max_share: float, reasons: str, *, all_examined: bool = True) -> None:
    """Raise DataError if more than `max_share` of `total` images are bad; `reasons` describes the faults.

    Without `all_examined`, there may be more bad images among those that were not examined yet.
    """
    if bad > max_share * total:
        raise DataError(
            f"{'' if all_examined else 'At least '}{bad:,} of {total:,} images ({bad / total:.1%}) cannot be used, "
            f"more than --max_bad_share={max_share:g}: {reasons}; repair the source files or raise --max_bad_share."
        )
