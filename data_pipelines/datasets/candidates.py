"""What a data set's reader hands to the builder: images that may become records."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.image_files import MAX_BYTES, BadImageError


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One image of a data set before it has been looked at.

    Attributes:
      image_id: global identity, `coco/<id>` or `<data set>/<id>`.
      texts: as published, not cleaned yet.
      read: gives the encoded bytes; may raise BadImageError or OSError. None: not found.
      place: where the image is, for messages.
    """

    image_id: str
    texts: Sequence[object]
    read: Callable[[], bytes] | None
    place: str


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The candidates of one split, in the order in which they become records.

    Attributes:
      items: read once, front to back; may be a generator.
      total: how many there are, None if that is not known beforehand.
      missing: places of the files that are known beforehand to be missing.
    """

    items: Iterable[Candidate]
    total: int | None = None
    missing: Sequence[str] = ()

    @classmethod
    def of(cls, items: Sequence[Candidate]) -> "Candidates":
        """All that is known of a list."""
        missing = [candidate.place for candidate in items if candidate.read is None]
        return cls(items, len(items), missing)


@dataclasses.dataclass(frozen=True)
class FileBytes:
    """`Candidate.read` for a file on disk."""

    path: Path

    def __call__(self) -> bytes:
        if self.path.stat().st_size > MAX_BYTES:
            raise BadImageError(f"file over {MAX_BYTES >> 20} MiB")
        return self.path.read_bytes()


def clean_texts(texts: Sequence[object]) -> tuple[tuple[str, ...], int]:
    """Texts with whitespace collapsed, NUL and broken unicode removed; how many were left empty.

    Anything that is not a string counts as empty.
    """
    strings = [text if isinstance(text, str) else "" for text in texts]
    cleaned = [" ".join(text.replace("\0", " ").encode("utf-8", "ignore").decode().split()) for text in strings]
    kept = tuple(text for text in cleaned if text)
    return kept, len(cleaned) - len(kept)


def check_share(bad: int, total: int, max_share: float, reasons: str) -> None:
    """Raise DataError if more than `max_share` of `total` images are bad; `reasons` says how."""
    if bad > max_share * total:
        raise DataError(
            f"{bad:,} of {total:,} images ({bad / total:.1%}) cannot be used, more than "
            f"--max_bad_share={max_share:g}: {reasons}; repair the source files or raise "
            "--max_bad_share."
        )
