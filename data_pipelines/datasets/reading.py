"""Candidates in, verified examples out, in order: files are read and decoded ahead, in threads."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, TypeVar

from data_pipelines.datasets.candidates import (
    BadRegionsError,
    Candidate,
    Candidates,
    FoundRegions,
    Source,
    check_share,
)
from data_pipelines.image_files import BadImageError, verify
from data_pipelines.records import Picture
from data_pipelines.regions import to_fields

In = TypeVar("In")
Out = TypeVar("Out")

MAX_LISTED = 1000  # places of bad images that are kept
_ENOUGH = 10_000  # images after which a share says something, where the total is not known

NOT_FOUND = "image file not found"
REPEATED = "image occurs twice"
NO_TEXT = "no text"


@dataclasses.dataclass
class Skipped:
    """Counts of what one split leaves out.

    Attributes:
      images: reason -> number of images.
      bad: how many of them count as bad (damaged or missing, as against repeated or without text).
      empty_texts: number of texts.
      listed: "place: reason" of the first bad images.
      boxes: reason -> number of boxes that were left out of the regions of images that are used.
    """

    images: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    bad: int = 0
    empty_texts: int = 0
    listed: list[str] = dataclasses.field(default_factory=list)
    boxes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def add_bad(self, place: str, reason: str) -> None:
        """Count one bad image."""
        self.images[reason] += 1
        self.bad += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(f"{place}: {reason}")

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON holds them; `boxes` only where there are some."""
        fields = {**vars(self), "images": dict(self.images), "boxes": dict(self.boxes)}
        return {name: value for name, value in fields.items() if name != "boxes" or value}

    def reasons(self) -> str:
        """Such as "3 empty file, 1 image file not found (first: images/a.jpg: empty file)"."""
        counts = ", ".join(f"{count:,} {reason}" for reason, count in self.images.most_common())
        return f"{counts} (first: {self.listed[0]})" if self.listed else counts


def map_in_order(
    function: Callable[[In], Out], items: Iterable[In], num_threads: int, look_ahead: int
) -> Iterator[Out]:
    """`map` in threads: results in order, at most `look_ahead` items taken but not yet yielded."""
    pending: collections.deque[futures.Future[Out]] = collections.deque()
    with futures.ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= look_ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def verified_examples(
    candidates: Candidates,
    *,
    seen: set[int],
    skipped: Skipped,
    num_threads: int,
    max_bad_share: float,
    progress: Callable[[], None],
) -> Iterator[dict[str, Any]]:
    """Examples with the fields of `data_pipelines.records.Record`, in order.

    Args:
      candidates: of one split.
      seen: hashes of the image ids so far, in all splits; grows. A repeated id is skipped.
      skipped: is filled as a side effect.
      num_threads: that read and decode; four times as many images are held in memory.
      max_bad_share: of damaged or missing images, 0 to 1.
      progress: called after each candidate.

    Raises:
      DataError: too many bad images; as soon as that is certain, where the total is known.
    """
    count = 0
    for loaded in map_in_order(_load, candidates.items, num_threads, look_ahead=4 * num_threads):
        count += 1
        progress()
        candidate = loaded.candidate
        if loaded.problem:
            skipped.add_bad(loaded.place, loaded.problem)
            total = candidates.total or max(count, _ENOUGH)
            check_share(skipped.bad, total, max_bad_share, skipped.reasons())
            continue
        texts, labels = candidate.cleaned()
        skipped.empty_texts += len(candidate.texts) - len(texts)
        key = hash(candidate.image_id)
        if key in seen:
            skipped.images[REPEATED] += 1
        elif not texts:
            skipped.images[NO_TEXT] += 1
        else:
            seen.add(key)
            example = {"image_id": candidate.image_id, "texts": texts}
            for prefix, picture in zip(("", "second_"), loaded.pictures, strict=False):
                example |= {f"{prefix}{name}": value for name, value in vars(picture).items()}
            if loaded.found is not None:
                example |= to_fields(loaded.found.regions)
                skipped.boxes.update(loaded.found.dropped)
            yield example | ({"labels": labels} if labels else {})
    check_share(skipped.bad, max(count, 1), max_bad_share, skipped.reasons())
    skipped.images.update(candidates.left_out)


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A candidate with its pictures and regions, or with a problem, its place and no pictures."""

    candidate: Candidate
    pictures: tuple[Picture, ...] = ()
    found: FoundRegions | None = None
    problem: str = ""
    place: str = ""


def _load(candidate: Candidate) -> _Loaded:
    """Read and decode an image or both of a pair; problems are returned: one bad image is no reason to stop."""
    pictures = []
    for source in candidate.sources:
        try:
            pictures.append(_picture(source))
        except BadImageError as error:
            return _Loaded(candidate, problem=error.reason, place=source.place)
        except FileNotFoundError:
            return _Loaded(candidate, problem=NOT_FOUND, place=source.place)
        except OSError as error:
            return _Loaded(candidate, problem=error.strerror or type(error).__name__, place=source.place)
    found = None
    if candidate.regions is not None:
        try:
            found = candidate.regions(pictures[0].height, pictures[0].width)
        except BadRegionsError as error:
            return _Loaded(candidate, problem=error.reason, place=error.place)
    return _Loaded(candidate, tuple(pictures), found)


def _picture(source: Source) -> Picture:
    if source.read is None:
        raise FileNotFoundError
    image = source.read()
    header = verify(image)
    return Picture(image, header.height, header.width)
