"""What a worker does: look at the images of a chunk, and write a file of records. Both may be done twice."""

import dataclasses
import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipelines.beam.exchange import Exchange, Verdict
from data_pipelines.datasets.candidates import BadRegionsError, Candidate
from data_pipelines.datasets.reading import examine_all, fields_of, map_in_order
from data_pipelines.errors import DataError
from data_pipelines.images.files import BadImageError, open_image
from data_pipelines.images.orientation import AS_STORED, orientation_of
from data_pipelines.regions.rows import RegionSource
from data_pipelines.storage.records import RecordImage
from data_pipelines.storage.shards import Serializer, write_shard


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file to write: its split, its number there, and its path, in the folder of the records."""

    split: str
    number: int
    path: Path


@dataclasses.dataclass(frozen=True)
class Worker:
    """Reads images, four times as many at once as threads, and no more.

    Attributes:
      exchange: where its orders lie.
      serialize: examples to records.
      num_threads: that read and decode.
      regions: of the exchange.
      progress: called after each image with its place.
    """

    exchange: Exchange
    serialize: Serializer
    num_threads: int
    regions: RegionSource | None
    progress: Callable[[str], None]

    def verify(self, split: str, chunk: int) -> None:
        """Look at the images of a chunk and write what was found."""
        candidates = self.exchange.read_candidates(split, chunk, self.regions)
        verdicts = []
        for candidate, (outcome, example) in zip(candidates, examine_all(candidates, self.num_threads), strict=True):
            if outcome.problem or not outcome.has_texts:
                verdicts.append(Verdict(outcome))
            else:
                prefixes = ("", "second_")[: len(candidate.sources)]
                sizes = tuple((example[f"{prefix}height"], example[f"{prefix}width"]) for prefix in prefixes)
                serialized = self.serialize(example)
                verdicts.append(Verdict(outcome, sizes, len(serialized), _digest(serialized)))
            self.progress(candidate.place)
        self.exchange.write_verdicts(split, chunk, verdicts)

    def write(self, shard: Shard) -> None:
        """Write a file of records, whole or not at all.

        Raises:
          DataError: an image is not what it was when it was looked at, or the disk does not take the file.
        """
        folder = shard.path.parent
        handle, temporary = tempfile.mkstemp(prefix=f".{shard.path.name}.", suffix=".part", dir=folder)
        os.close(handle)
        try:
            write_shard(Path(temporary), self._records(shard), folder)
            Path(temporary).chmod(0o664)
            Path(temporary).replace(shard.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _records(self, shard: Shard) -> Iterator[bytes]:
        pairs = map_in_order(_read_again, self._chosen(shard), self.num_threads, look_ahead=4 * self.num_threads)
        for candidate, verdict, images in pairs:
            try:
                serialized = self.serialize(fields_of(candidate, images)[0]) if images else b""
            except BadRegionsError:
                serialized = b""
            if _digest(serialized) != verdict.digest:
                raise DataError(
                    f"{candidate.place} changed while it was prepared; leave the source files alone and run again."
                )
            yield serialized
            self.progress(candidate.place)

    def _chosen(self, shard: Shard) -> Iterator[tuple[Candidate, Verdict]]:
        size = self.exchange.chunk
        positions = self.exchange.read_positions(shard.split, shard.number)
        for chunk, its_positions in itertools.groupby(positions, key=lambda position: position // size):
            candidates = self.exchange.read_candidates(shard.split, chunk, self.regions)
            verdicts = self.exchange.read_verdicts(shard.split, chunk)
            for position in its_positions:
                yield candidates[position % size], verdicts[position % size]


def _read_again(chosen: tuple[Candidate, Verdict]) -> tuple[Candidate, Verdict, list[RecordImage]]:
    """With the images, not decoded again; with none if one cannot be read."""
    candidate, verdict = chosen
    try:
        images = []
        for source, (height, width) in zip(candidate.sources, verdict.sizes, strict=True):
            image = source.read()
            orientation = orientation_of(open_image(image)[1]) if source.turn else AS_STORED
            images.append(RecordImage(image, height, width, orientation))
    except (OSError, BadImageError):
        images = []
    return candidate, verdict, images


def _digest(serialized: bytes) -> bytes:
    return hashlib.blake2b(serialized, digest_size=16).digest()
