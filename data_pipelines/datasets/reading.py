"""Turn candidates into verified examples, in order; threads read and decode the files ahead."""

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

MAX_LISTED = 1000  # maximum number of listed bad images
_MIN_TOTAL = 10_000  # minimum number of images for the share of bad ones, if the total is not known

NOT_FOUND = "image file not found"
REPEATED = "image occurs twice"
NO_TEXT = "no text"

_ALWAYS_KEPT = ("images", "bad", "empty_texts", "listed")  # in JSON


@dataclasses.dataclass
class Skipped:
    """Counts of the skipped images and texts of one split.

    Attributes:
      images: reason -> number of skipped images.
      bad: number of bad ones among them (damaged or missing, not repeated or without text).
      empty_texts: number of empty texts.
      listed: "location: reason" of the first bad images.
      texts: reason -> number of texts that are missing because of a fault of the source.
      listed_texts: "location: reason" of the first of these texts.
      unused: kind of other files among the images -> their number.
      identical: number of images with the same bytes as an earlier image, whether kept or skipped.
      identical_place: location of the first of these images; the name is a key in index.json.
      transparent: number of partly transparent images, which are drawn over white.
      turned: number of images that were turned upright by their orientation tag.
      boxes: reason -> number of dropped boxes in the regions of the used images.
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
        self._first: dict[str, str] = {}  # reason -> location of the first image

    def add(self, location: str, reason: str) -> None:
        """Count one skipped image that is not bad."""
        self.images[reason] += 1
        self._first.setdefault(reason, location)

    def add_texts(self, location: str, faults: Mapping[str, int]) -> None:
        """Count the missing texts of one image."""
        self.texts.update(faults)
        room = MAX_LISTED - len(self.listed_texts)
        self.listed_texts += [f"{location}: {reason}" for reason in faults][:room]

    def add_bad(self, location: str, reason: str) -> None:
        """Count one bad image."""
        self.images[reason] += 1
        self.bad += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(f"{location}: {reason}")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON; optional fields are omitted if they are empty or zero."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields = {name: dict(value) if isinstance(value, dict) else value for name, value in fields.items()}
        return {name: value for name, value in fields.items() if name in _ALWAYS_KEPT or value}

    def reasons(self) -> str:
        """Such as "3 empty file, 1 image file not found (first: images/a.jpg: empty file)"."""
        counts = ", ".join(f"{count:,} {reason}" for reason, count in self.images.most_common())
        return f"{counts} (first: {self.listed[0]})" if self.listed else counts

    def nothing_usable(self, split: str) -> DataError:
        """The error for a split without records: it names the number of images and their faults."""
        found = self.images.total()
        faults = [f"{count:,} {reason}" + self._location(reason) for reason, count in self.images.most_common()]
        faults += [f"{count:,} {reason}" for reason, count in self.texts.most_common()]
        faults += [f"{self.empty_texts:,} empty texts"] if self.empty_texts else []
        faults += [f"{count:,} {what} not used" for what, count in self.unused.most_common()]
        summary = f"{found:,} images found" + (f": {', '.join(faults)}" if faults else "")
        remedy = "give at least one image a text in UTF-8" if self.images[NO_TEXT] else "check the source files"
        return DataError(f"No usable image with a text in split {split!r}, {summary}; {remedy}.")

    def _location(self, reason: str) -> str:
        location = self._first.get(reason) or next((line for line in self.listed if line.endswith(f": {reason}")), "")
        return f" (first: {location.removesuffix(f': {reason}')})" if location else ""


def map_in_order(
    function: Callable[[In], Out], items: Iterable[In], num_threads: int, look_ahead: int
) -> Iterator[Out]:
    """`map` with threads: results are in order, and at most `look_ahead` items are in progress."""
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
    """The result of examining one candidate; small, because it does not contain the image.

    Attributes:
      image_id: id of the candidate.
      has_texts: whether a text is left after cleaning.
      empty_texts: number of texts that are empty after cleaning.
      boxes: reason -> number of dropped boxes of its regions.
      problem: reason why it cannot be used, the same for all problems of one kind; empty if there is none.
      location: location of the problem, or of the image.
      faults: reason -> number of texts that are missing because of a fault of the source.
      digest: hash of the bytes of the image, as `identical.digest_of`.
      transparent: number of its images that are partly transparent.
      turned: number of its images that were turned upright by their orientation tag.
    """

    image_id: str
    has_texts: bool = False
    empty_texts: int = 0
    boxes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    problem: str = ""
    location: str = ""
    faults: Mapping[str, int] = dataclasses.field(default_factory=dict)
    digest: int = 0
    transparent: int = 0
    turned: int = 0


class Selection:
    """Decides in order which candidates become records, and counts the others."""

    def __init__(
        self,
        candidates: Candidates,
        seen: set[int],
        skipped: Skipped,
        max_bad_share: float,
        identical: Identical | None = None,
    ) -> None:
        """Create a selection for one split.

        Args:
          candidates: candidates of the split; they are not read here.
          seen: hashes of the image ids so far, in all splits; new ids are added. A repeated id is skipped.
          skipped: counts, which are updated.
          max_bad_share: maximum share of damaged or missing images, 0 to 1.
          identical: counter of images with the same bytes in all splits; None: such images are not counted.
        """
        self._identical = identical
        self._candidates, self._seen, self._skipped, self._max_bad_share = candidates, seen, skipped, max_bad_share
        self._count = 0

    def takes(self, outcome: Outcome) -> bool:
        """Whether the next candidate becomes a record; raises DataError as soon as too many are certainly bad."""
        self._count += 1
        skipped = self._skipped
        if outcome.problem:
            skipped.add_bad(outcome.location, outcome.problem)
            total = self._candidates.total or max(self._count, _MIN_TOTAL)
            self._check_share(total, all_examined=self._count == total)
            return False
        skipped.empty_texts += outcome.empty_texts
        skipped.add_texts(outcome.location, outcome.faults)
        key = hash(outcome.image_id)
        if key in self._seen:
            skipped.add(outcome.location, REPEATED)
            return False
        if not outcome.has_texts:
            skipped.add(outcome.location, NO_TEXT)
            return False
        self._seen.add(key)
        if self._identical is not None:
            earlier = self._identical.earlier(outcome.digest)
            if earlier:
                skipped.identical += 1
                skipped.identical_place = skipped.identical_place or outcome.location
            if not self._identical.takes(earlier):
                skipped.add(outcome.location, self._identical.reason)
                return False
        skipped.boxes.update(outcome.boxes)
        skipped.transparent += outcome.transparent
        skipped.turned += outcome.turned
        return True

    def finish(self) -> None:
        """Complete the counts after the last candidate; raises DataError if too many candidates are bad."""
        self._check_share(max(self._count, 1))
        self._skipped.images.update(self._candidates.skipped)
        self._skipped.unused.update(self._candidates.unused)

    def _check_share(self, total: int, *, all_examined: bool = True) -> None:
        if self._skipped.bad:  # collecting the reasons takes time
            reasons = self._skipped.reasons()
            check_share(self._skipped.bad, total, self._max_bad_share, reasons, all_examined=all_examined)


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
      candidates: candidates of one split.
      seen, skipped, max_bad_share, identical: as in `Selection`.
      num_threads: threads that read and decode; four times as many images are held in memory.
      progress: called after each candidate.

    Raises:
      DataError: too many images are bad; raised as soon as this is certain, if the total is known.
    """
    selection = Selection(candidates, seen, skipped, max_bad_share, identical)
    for outcome, example in examine_all(candidates.items, num_threads):
        progress()
        if selection.takes(outcome):
            yield example
    selection.finish()


def examine_all(candidates: Iterable[Candidate], num_threads: int) -> Iterator[tuple[Outcome, dict[str, Any]]]:
    """Call `examine` for each candidate, in order; four times as many images as threads are held in memory."""
    return map_in_order(examine, candidates, num_threads, look_ahead=4 * num_threads)


def examine(candidate: Candidate) -> tuple[Outcome, dict[str, Any]]:
    """Read and decode the image or both images of a pair; return the outcome and the fields of a record.

    A problem is not raised but reported in the outcome, with no fields: one bad image does not stop the preparation.
    """
    images, transparent = [], 0
    for source in candidate.sources:
        try:
            image, is_transparent = _image(source)
            images.append(image)
            transparent += is_transparent
        except BadImageError as error:
            return _bad(candidate, error.reason, source.location)
        except FileNotFoundError:
            return _bad(candidate, NOT_FOUND, source.location)
        except OSError as error:
            return _bad(candidate, error.strerror or type(error).__name__, source.location)
    try:
        example, boxes = fields_of(candidate, images)
    except BadRegionsError as error:
        return _bad(candidate, error.reason, error.location)
    left, faults = len(example["texts"]), candidate.faults()
    empty = len(candidate.texts) - left - faults.total()
    digest = digest_of(images[0].image)
    turned = sum(image.orientation != AS_STORED for image in images)
    outcome = Outcome(
        candidate.image_id, left > 0, empty, boxes, "", candidate.location, dict(faults), digest, transparent, turned
    )
    return outcome, example


def fields_of(candidate: Candidate, images: Sequence[RecordImage]) -> tuple[dict[str, Any], Mapping[str, int]]:
    """The fields of a record from the one or two images of a candidate, and the number of dropped boxes by reason.

    Raises:
      BadRegionsError: the regions of the candidate cannot be used.
    """
    texts, labels = candidate.cleaned()
    example: dict[str, Any] = {"image_id": candidate.image_id, "texts": texts}
    for prefix, image in zip(("", "second_"), images, strict=False):
        # Data sets that do not turn images have no field for the orientation.
        fields = {name: value for name, value in vars(image).items() if candidate.turn or name != "orientation"}
        example |= {f"{prefix}{name}": value for name, value in fields.items()}
    boxes: Mapping[str, int] = {}
    if candidate.regions is not None:
        found = candidate.regions(images[0].height, images[0].width)
        example |= to_fields(found.regions)
        boxes = found.dropped
    return example | ({"labels": labels} if labels else {}), boxes


def _bad(candidate: Candidate, problem: str, location: str) -> tuple[Outcome, dict[str, Any]]:
    return Outcome(candidate.image_id, problem=problem, location=location), {}


def _image(source: Source) -> tuple[RecordImage, bool]:
    """Read and verify an image; also returns whether it is partly transparent."""
    if source.read is None:
        raise FileNotFoundError
    image = source.read()
    header = verify(image, turn=source.turn)
    return RecordImage(image, header.height, header.width, header.orientation), header.transparent
