"""Rows with a URL, a caption and possibly an image; each URL with an image becomes a candidate."""

import dataclasses
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.datasets.candidates import Candidate, Candidates, Source
from data_pipelines.datasets.formats.url_images import url_digest

KEY_LIMIT = 1 << 64  # above every key


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
      url: URL of the image, or another unique name if the URL is not known.
      texts: published texts.
      source: source of the image; without `read` if the image is missing.
      has_url: whether the URL is known.
    """

    url: str
    texts: Sequence[object]
    source: Source
    has_url: bool = True


ReadRows = Callable[[], Iterable[Row]]  # each call gives the same rows


def key_of(digest: str) -> int:
    """A key below KEY_LIMIT for a URL, from its digest; keys are uniformly distributed and the same on all machines."""
    return int(digest[:16], 16)


@dataclasses.dataclass(frozen=True)
class Links:
    """Counts of the rows of a list.

    Attributes:
      rows: number of rows; None if it is not known.
      found: number of rows whose URL has an image here.
      repeated: number of rows with the URL of an earlier row.
    """

    rows: int | None
    found: int
    repeated: int

    @property
    def missing(self) -> int | None:
        """Number of rows whose URL has no image here; None if it is not known."""
        return None if self.rows is None else self.rows - self.found

    def to_json(self) -> dict[str, Any]:
        """The counts, and the share of missing rows."""
        share = None if self.rows is None else self.missing / max(self.rows, 1)
        return {**vars(self), "missing": self.missing, "missing_share": share}

    def lines(self) -> list[str]:
        """Lines for the summary."""
        if self.rows is None:
            lines = [f"{self.found:,} rows with an image; how many are missing is not known, for there is no list"]
        else:
            share = self.missing / max(self.rows, 1)
            lines = [
                f"{self.rows:,} rows listed, {self.found:,} with an image here, {self.missing:,} missing "
                f"({share:.1%}: dead links, or not downloaded)"
            ]
        if self.repeated:
            lines.append(f"rows that repeat an earlier URL, whose image has the captions of all: {self.repeated:,}")
        return lines


@dataclasses.dataclass(frozen=True)
class Survey:
    """The result of a first pass over all rows; it keeps 8 bytes per row, and the texts of rows with a repeated URL.

    Attributes:
      read: returns the rows.
      links: counts of the rows.
      keys: uint64, distinct keys of the URLs that have an image, ascending.
      joined: key -> one row with the texts of all rows with this URL, for repeated URLs.
      has_urls: whether any URL is known.
      unused: kind of other files among the images -> their number; complete after all rows have been read.
    """

    read: ReadRows
    links: Links
    keys: np.ndarray
    joined: Mapping[int, Row]
    has_urls: bool
    unused: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls, read: ReadRows, step: Callable[[], None] = lambda: None, unused: Mapping[str, int] | None = None
    ) -> "Survey":
        """Read all rows once; `step` is called after each row. `read` fills `unused`."""
        keys, found, has_urls = array("Q"), bytearray(), False
        for row in read():
            has_urls |= row.has_url
            keys.append(key_of(url_digest(row.url)))
            found.append(row.source.read is not None)
            step()
        keys_N = np.array(keys, np.uint64)
        distinct, counts = np.unique(keys_N, return_counts=True)
        with_image = np.unique(keys_N[np.frombuffer(found, np.bool_)])
        links = Links(len(keys_N), int(np.isin(keys_N, with_image).sum()), len(keys_N) - len(distinct))
        repeated = frozenset(distinct[counts > 1].tolist())
        joined = _join(read(), repeated) if repeated else {}
        return cls(read, links, with_image, joined, has_urls, {} if unused is None else unused)

    def candidates(self, name: str, first: int = 0, limit: int = KEY_LIMIT) -> Candidates:
        """Candidates of data set `name` with a key >= `first` and < `limit`, in the order of their first rows."""
        inside = (self.keys >= np.uint64(first)) & (self.keys <= np.uint64(limit - 1))
        # If the rows are divided into several splits, the split with the last keys reports the unused files.
        unused = self.unused if limit == KEY_LIMIT else {}
        return Candidates(self._items(name, first, limit), int(inside.sum()), unused=unused)

    def _items(self, name: str, first: int, limit: int) -> Iterator[Candidate]:
        waiting = dict(self.joined)
        for row in self.read():
            digest = url_digest(row.url)
            key = key_of(digest)
            if key in self.joined:
                row = waiting.pop(key, None)
            if row is not None and row.source.read is not None and first <= key < limit:
                yield Candidate.of(f"{name}/{digest}", row.texts, row.source)


def _join(rows: Iterable[Row], repeated: frozenset[int]) -> dict[int, Row]:
    """The first image and all different texts of the rows with the same URL."""
    joined: dict[int, Row] = {}
    for row in rows:
        key = key_of(url_digest(row.url))
        if key not in repeated:
            continue
        before = joined.get(key)
        if before is None:
            joined[key] = row
            continue
        texts = [*before.texts, *(text for text in row.texts if text not in before.texts)]
        joined[key] = Row(row.url, texts, before.source if before.source.read is not None else row.source)
    return joined
