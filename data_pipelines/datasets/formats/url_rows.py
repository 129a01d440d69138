"""Rows of a URL, a caption and perhaps an image, made into candidates: one for each URL that has an image."""

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
      url: of the image, or what tells it from others where the URL is not known.
      texts: as published.
      source: the image; without `read` where it is missing.
      has_url: whether the URL is known.
    """

    url: str
    texts: Sequence[object]
    source: Source
    has_url: bool = True


ReadRows = Callable[[], Iterable[Row]]  # the same rows at each call


def key_of(digest: str) -> int:
    """A number below KEY_LIMIT for a URL, from its digest: drawn evenly, the same everywhere."""
    return int(digest[:16], 16)


@dataclasses.dataclass(frozen=True)
class Links:
    """What became of the rows of a list.

    Attributes:
      rows: how many there are; None where that is not known.
      found: those whose URL has an image here.
      repeated: those whose URL an earlier one had.
    """

    rows: int | None
    found: int
    repeated: int

    @property
    def missing(self) -> int | None:
        """Rows whose URL has no image here."""
        return None if self.rows is None else self.rows - self.found

    def to_json(self) -> dict[str, Any]:
        """Counts, and the share that is missing."""
        share = None if self.rows is None else self.missing / max(self.rows, 1)
        return {**vars(self), "missing": self.missing, "missing_share": share}

    def lines(self) -> list[str]:
        """For the summary."""
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
    """All rows, looked through once; 8 bytes are kept of each, and the texts of those with a repeated URL.

    Attributes:
      read: gives the rows.
      links: what became of them, as far as they tell.
      keys: of the URLs that have an image, uint64, sorted, each once.
      joined: key -> one row for all that have its URL, for URLs of several rows.
      has_urls: whether any URL is known.
      unused: what else lies among the images -> how many; complete once rows have been read to their end.
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
        """Look through rows; `step` is called after each. `unused` is filled by `read`."""
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
        """Those of data set `name` with a key from `first` to below `limit`, in the order of their first rows."""
        inside = (self.keys >= np.uint64(first)) & (self.keys <= np.uint64(limit - 1))
        # Of several parts the one with the last images tells what is not used.
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
    """The first image and each different text of rows that have one URL."""
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
