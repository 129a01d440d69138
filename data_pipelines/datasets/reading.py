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
from data_pipelines.datasets.identical import Identical, digest_of
from data_pipelines.errors import DataError
from data_pipelines.images.files import BadImageError, verify
from data_pipelines.images.orientation import AS_STORED
from data_pipelines.storage.records import RecordImage
from data_pipelines.storage.regions import to_fields

In = TypeVar("In")
Out = TypeVar("Out")

MAX_LISTED = 1000  # places of bad images that are kept
_ENOUGH = 10_000  # images after which a share says something, where the total is not known

NOT_FOUND = "image file not found"
REPEATED = "image occurs twice"
NO_TEXT = "no text"

_ALWAYS_KEPT = ("images", "bad", "empty_texts", "listed")  # in JSON


@dataclasses.dataclass
class Skipped:
    """Counts of what one split leaves out.

    Attributes:
      images: reason -> number of images.
      bad: how many of them count as bad (damaged or missing, as against repeated or without text).
      empty_texts: number of texts.
      listed: "place: reason" of the first bad images.
      texts: reason -> number of texts that a fault of the source took away.
      listed_texts: "place: reason" of the first of them.
      unused: what else lay among the images -> how many.
      identical: number of images that an earlier one has the same bytes as, kept or not.
      identical_place: the first of them.
      transparent: number of images with something transparent, which white then lies behind.
      turned: number of images that their orientation tag turned upright.
      boxes: reason -> number of boxes that were left out of the regions of images that are used.
    """

    images: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    bad: int = 0
    empty_texts: int = 0
    listed: list[str] = dataclasses.field(default_factory=list)
    boxes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    texts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    listed_texts: list[str] = dataclasses.field(default_factory=list)
    unused: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    identical: int = 0
    identical_place: str = ""
    transparent: int = 0
    turned: int = 0

    def __post_init__(self) -> None:
        self._first: dict[str, str] = {}  # reason -> place of the first image

    def add(self, place: str, reason: str) -> None:
        """Count one image that is left out, but is not bad."""
        self.images[reason] += 1
        self._first.setdefault(reason, place)

    def add_texts(self, place: str, faults: Mapping[str, int]) -> None:
        """Count texts of one image that a fault took away."""
        self.texts.update(faults)
        room = MAX_LISTED - len(self.listed_texts)
        self.listed_texts += [f"{place}: {reason}" for reason in faults][:room]

    def add_bad(self, place: str, reason: str) -> None:
        """Count one bad image."""
        self.images[reason] += 1
        self.bad += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(f"{place}: {reason}")

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON holds them; those after `listed` only where there is something."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields = {name: dict(value) if isinstance(value, dict) else value for name, value in fields.items()}
        return {name: value for name, value in fields.items() if name in _ALWAYS_KEPT or value}

    def reasons(self) -> str:
        """Such as "3 empty file, 1 image file not found (first: images/a.jpg: empty file)"."""
        counts = ", ".join(f"{count:,} {reason}" for reason, count in self.images.most_common())
        return f"{counts} (first: {self.listed[0]})" if self.listed else counts

    def nothing_usable(self, split: str) -> DataError:
        """The error to raise where a split has no record: what was found, and what each image lacks."""
        found = self.images.total()
        faults = [f"{count:,} {reason}" + self._place(reason) for reason, count in self.images.most_common()]
        faults += [f"{count:,} {reason}" for reason, count in self.texts.most_common()]
        faults += [f"{self.empty_texts:,} empty texts"] if self.empty_texts else []
        faults += [f"{count:,} {what} not used" for what, count in self.unused.most_common()]
        said = f"{found:,} images found" + (f": {', '.join(faults)}" if faults else "")
        remedy = "give an image of it a text in UTF-8" if self.images[NO_TEXT] else "check the source files"
        return DataError(f"No usable image with a text in split {split!r}, {said}; {remedy}.")

    def _place(self, reason: str) -> str:
        place = self._first.get(reason) or next((line for line in self.listed if line.endswith(f": {reason}")), "")
        return f" (first: {place.removesuffix(f': {reason}')})" if place else ""


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
      place: where the problem is, or the image.
      faults: reason -> number of texts that a fault of the source took away.
      digest: of the bytes of the image, as `identical.digest_of`.
      transparent: number of its images with something transparent.
      turned: number of its images that their orientation tag turned upright.
    """

    image_id: str
    has_texts: bool = False
    empty_texts: int = 0
    boxes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    problem: str = ""
    place: str = ""
    faults: Mapping[str, int] = dataclasses.field(default_factory=dict)
    digest: int = 0
    transparent: int = 0
    turned: int = 0


class Selection:
    """Decides, candidate after candidate in their order, which become records, and counts the others."""

    def __init__(
        self,
        candidates: Candidates,
        seen: set[int],
        skipped: Skipped,
        max_bad_share: float,
        identical: Identical | None = None,
    ) -> None:
        """Begin with a split.

        Args:
          candidates: of the split; they are not read here.
          seen: hashes of the image ids so far, in all splits; grows. A repeated id is skipped.
          skipped: is filled as a side effect.
          max_bad_share: of damaged or missing images, 0 to 1.
          identical: counts images with the same bytes in all splits; None: whether there are some does not matter.
        """
        self._identical = identical
        self._candidates, self._seen, self._skipped, self._max_bad_share = candidates, seen, skipped, max_bad_share
        self._count = 0

    def takes(self, outcome: Outcome) -> bool:
        """Whether the next candidate becomes a record; DataError once it is certain that too many are bad."""
        self._count += 1
        skipped = self._skipped
        if outcome.problem:
            skipped.add_bad(outcome.place, outcome.problem)
            total = self._candidates.total or max(self._count, _ENOUGH)
            self._check_share(total, all_seen=self._count == total)
            return False
        skipped.empty_texts += outcome.empty_texts
        skipped.add_texts(outcome.place, outcome.faults)
        key = hash(outcome.image_id)
        if key in self._seen:
            skipped.add(outcome.place, REPEATED)
            return False
        if not outcome.has_texts:
            skipped.add(outcome.place, NO_TEXT)
            return False
        self._seen.add(key)
        if self._identical is not None:
            earlier = self._identical.earlier(outcome.digest)
            if earlier:
                skipped.identical += 1
                skipped.identical_place = skipped.identical_place or outcome.place
            if not self._identical.takes(earlier):
                skipped.add(outcome.place, self._identical.reason)
                return False
        skipped.boxes.update(outcome.boxes)
        skipped.transparent += outcome.transparent
        skipped.turned += outcome.turned
        return True

    def finish(self) -> None:
        """All candidates have been offered; raises DataError if too many are bad."""
        self._check_share(max(self._count, 1))
        self._skipped.images.update(self._candidates.skipped)
        self._skipped.unused.update(self._candidates.unused)

    def _check_share(self, total: int, *, all_seen: bool = True) -> None:
        if self._skipped.bad:  # the reasons take time to put together
            reasons = self._skipped.reasons()
            check_share(self._skipped.bad, total, self._max_bad_share, reasons, all_seen=all_seen)


def verified_examples(
    candidates: Candidates,
    *,
    seen: set[int],
    skipped: Skipped,
    num_threads: int,
    max_bad_share: float,
    progress: Callable[[], None],
    identical: Identical | None = None,
) -> Iterator[dict[str, Any]]:
    """Examples with the fields of `data_pipelines.storage.records.Record`, in order.

    Args:
      candidates: of one split.
      seen, skipped, max_bad_share, identical: as in `Selection`.
      num_threads: that read and decode; four times as many images are held in memory.
      progress: called after each candidate.

    Raises:
      DataError: too many bad images; as soon as that is certain, where the total is known.
    """
    selection = Selection(candidates, seen, skipped, max_bad_share, identical)
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
    images, transparent = [], 0
    for source in candidate.sources:
        try:
            image, shows_through = _image(source)
            images.append(image)
            transparent += shows_through
        except BadImageError as error:
            return _bad(candidate, error.reason, source.place)
        except FileNotFoundError:
            return _bad(candidate, NOT_FOUND, source.place)
        except OSError as error:
            return _bad(candidate, error.strerror or type(error).__name__, source.place)
    try:
        example, boxes = fields_of(candidate, images)
    except BadRegionsError as error:
        return _bad(candidate, error.reason, error.place)
    left, faults = len(example["texts"]), candidate.faults()
    empty = len(candidate.texts) - left - faults.total()
    digest = digest_of(images[0].image)
    turned = sum(image.orientation != AS_STORED for image in images)
    outcome = Outcome(
        candidate.image_id, left > 0, empty, boxes, "", candidate.place, dict(faults), digest, transparent, turned
    )
    return outcome, example


def fields_of(candidate: Candidate, images: Sequence[RecordImage]) -> tuple[dict[str, Any], Mapping[str, int]]:
    """Fields of a record from the image of a candidate, or both of a pair, and the boxes left out, by reason.

    Raises:
      BadRegionsError: its regions cannot be used.
    """
    texts, labels = candidate.cleaned()
    example: dict[str, Any] = {"image_id": candidate.image_id, "texts": texts}
    for prefix, image in zip(("", "second_"), images, strict=False):
        # Data sets whose images are as stored have no orientation.
        fields = {name: value for name, value in vars(image).items() if candidate.turn or name != "orientation"}
        example |= {f"{prefix}{name}": value for name, value in fields.items()}
    boxes: Mapping[str, int] = {}
    if candidate.regions is not None:
        found = candidate.regions(images[0].height, images[0].width)
        example |= to_fields(found.regions)
        boxes = found.dropped
    return example | ({"labels": labels} if labels else {}), boxes


def _bad(candidate: Candidate, problem: str, place: str) -> tuple[Outcome, dict[str, Any]]:
    return Outcome(candidate.image_id, problem=problem, place=place), {}


def _image(source: Source) -> tuple[RecordImage, bool]:
    """An image, and whether something of it is transparent."""
    if source.read is None:
        raise FileNotFoundError
    image = source.read()
    header = verify(image, turn=source.turn)
    return RecordImage(image, header.height, header.width, header.orientation), header.transparent
