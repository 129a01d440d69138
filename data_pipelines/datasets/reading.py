"""Candidates in, verified examples out, in order: files are read and decoded ahead, in threads."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

from data_pipelines.datasets.candidates import (
    BadRegionsError,
    Candidate,
    Candidates,
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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a look at one candidate found; small, whatever the image.

    Attributes:
      image_id: of the candidate.
      has_texts: whether a text is left after cleaning.
      empty_texts: number of texts that are left empty.
      boxes: reason -> number of boxes that were left out of its regions.
      problem: why it cannot be used, the same for problems of one kind; empty if there is none.
      place: where the problem is.
    """

    image_id: str
    has_texts: bool = False
    empty_texts: int = 0
    boxes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    problem: str = ""
    place: str = ""


class Selection:
    """Decides, candidate after candidate in their order, which become records, and counts the others."""

    def __init__(self, candidates: Candidates, seen: set[int], skipped: Skipped, max_bad_share: float) -> None:
        """Begin with a split.

        Args:
          candidates: of the split; they are not read here.
          seen: hashes of the image ids so far, in all splits; grows. A repeated id is skipped.
          skipped: is filled as a side effect.
          max_bad_share: of damaged or missing images, 0 to 1.
        """
        self._candidates, self._seen, self._skipped, self._max_bad_share = candidates, seen, skipped, max_bad_share
        self._count = 0

    def takes(self, outcome: Outcome) -> bool:
        """Whether the next candidate becomes a record; DataError once it is certain that too many are bad."""
        self._count += 1
        skipped = self._skipped
        if outcome.problem:
            skipped.add_bad(outcome.place, outcome.problem)
            self._check_share(self._candidates.total or max(self._count, _ENOUGH))
            return False
        skipped.empty_texts += outcome.empty_texts
        key = hash(outcome.image_id)
        if key in self._seen:
            skipped.images[REPEATED] += 1
            return False
        if not outcome.has_texts:
            skipped.images[NO_TEXT] += 1
            return False
        self._seen.add(key)
        skipped.boxes.update(outcome.boxes)
        return True

    def finish(self) -> None:
        """All candidates have been offered; raises DataError if too many are bad."""
        self._check_share(max(self._count, 1))
        self._skipped.images.update(self._candidates.left_out)

    def _check_share(self, total: int) -> None:
        if self._skipped.bad:  # the reasons take time to put together
            check_share(self._skipped.bad, total, self._max_bad_share, self._skipped.reasons())


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
      seen, skipped, max_bad_share: as in `Selection`.
      num_threads: that read and decode; four times as many images are held in memory.
      progress: called after each candidate.

    Raises:
      DataError: too many bad images; as soon as that is certain, where the total is known.
    """
    selection = Selection(candidates, seen, skipped, max_bad_share)
    for outcome, example in examine_all(candidates.items, num_threads):
        progress()
        if selection.takes(outcome):
            yield example
    selection.finish()


def examine_all(candidates: Iterable[Candidate], num_threads: int) -> Iterator[tuple[Outcome, dict[str, Any]]]:
    """`examine` of each candidate, in order; four times as many images as threads are held in memory."""
    return map_in_order(examine, candidates, num_threads, look_ahead=4 * num_threads)


def examine(candidate: Candidate) -> tuple[Outcome, dict[str, Any]]:
    """Read and decode an image or both of a pair: what was found, and the fields of a record.

    Problems are told, not raised: one bad image is no reason to stop. There are no fields then.
    """
    pictures = []
    for source in candidate.sources:
        try:
            pictures.append(_picture(source))
        except BadImageError as error:
            return _bad(candidate, error.reason, source.place)
        except FileNotFoundError:
            return _bad(candidate, NOT_FOUND, source.place)
        except OSError as error:
            return _bad(candidate, error.strerror or type(error).__name__, source.place)
    try:
        example, boxes = fields_of(candidate, pictures)
    except BadRegionsError as error:
        return _bad(candidate, error.reason, error.place)
    left = len(example["texts"])
    return Outcome(candidate.image_id, left > 0, len(candidate.texts) - left, boxes), example


def fields_of(candidate: Candidate, pictures: Sequence[Picture]) -> tuple[dict[str, Any], Mapping[str, int]]:
    """Fields of a record from the image of a candidate, or both of a pair, and the boxes left out, by reason.

    Raises:
      BadRegionsError: its regions cannot be used.
    """
    texts, labels = candidate.cleaned()
    example: dict[str, Any] = {"image_id": candidate.image_id, "texts": texts}
    for prefix, picture in zip(("", "second_"), pictures, strict=False):
        example |= {f"{prefix}{name}": value for name, value in vars(picture).items()}
    boxes: Mapping[str, int] = {}
    if candidate.regions is not None:
        found = candidate.regions(pictures[0].height, pictures[0].width)
        example |= to_fields(found.regions)
        boxes = found.dropped
    return example | ({"labels": labels} if labels else {}), boxes


def _bad(candidate: Candidate, problem: str, place: str) -> tuple[Outcome, dict[str, Any]]:
    return Outcome(candidate.image_id, problem=problem, place=place), {}


def _picture(source: Source) -> Picture:
    if source.read is None:
        raise FileNotFoundError
    image = source.read()
    header = verify(image)
    return Picture(image, header.height, header.width)
