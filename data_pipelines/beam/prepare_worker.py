"""The work of a worker: verify the images of a chunk, and write a file of records. Beam may repeat both."""

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
    """A file to write: its split, its number in the split, and its path in the folder of the records."""

    split: str
    number: int
    path: Path


@dataclasses.dataclass(frozen=True)
class Worker:
    """Reads images; it holds at most four times as many images as it has threads.

    Attributes:
      exchange: files with its input and output.
      serialize: converts examples to records.
      num_threads: threads that read and decode.
      regions: source of the regions from the exchange.
      progress: called after each image with its location.
    """

    exchange: Exchange
    serialize: Serializer
    num_threads: int
    regions: RegionSource | None
    progress: Callable[[str], None]

    def verify(self, split: str, chunk: int) -> None:
        """Verify the images of a chunk and write the verdicts."""
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
            self.progress(candidate.location)
        self.exchange.write_verdicts(split, chunk, verdicts)

    def write(self, shard: Shard) -> None:
        """Write a file of records atomically.

        Raises:
          DataError: an image changed after it was verified, or the file cannot be written.
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
                    f"{candidate.location} changed while it was prepared; leave the source files alone and run again."
                )
            yield serialized
            self.progress(candidate.location)

    def _chosen(self, shard: Shard) -> Iterator[tuple[Candidate, Verdict]]:
        size = self.exchange.chunk
        positions = self.exchange.read_positions(shard.split, shard.number)
        for chunk, chunk_positions in itertools.groupby(positions, key=lambda position: position // size):
            candidates = self.exchange.read_candidates(shard.split, chunk, self.regions)
            verdicts = self.exchange.read_verdicts(shard.split, chunk)
            for position in chunk_positions:
                yield candidates[position % size], verdicts[position % size]


def _read_again(chosen: tuple[Candidate, Verdict]) -> tuple[Candidate, Verdict, list[RecordImage]]:
    """Add the images, which are not decoded again; an empty list if one of them cannot be read."""
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
