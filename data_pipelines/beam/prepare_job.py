"""The two pipelines of one run, and the work of the main process between them."""

import dataclasses
import functools
import itertools
import shutil
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import apache_beam as beam
import tensorflow_datasets as tfds
from apache_beam.utils.shared import Shared

from data_pipelines.beam.exchange import Exchange
from data_pipelines.beam.prepare_worker import Shard, Worker
from data_pipelines.beam.runner import WorkerProgress, run_pipeline
from data_pipelines.datasets.candidates import Candidates
from data_pipelines.datasets.reading import Selection
from data_pipelines.datasets.settings import Settings
from data_pipelines.storage import shards

CHUNK = 256  # candidates per file, and verdicts per file


@dataclasses.dataclass(frozen=True)
class Selected:
    """The candidates of a split that become records.

    Attributes:
      positions: positions of the candidates in the split, in the order of the records; int64.
      lengths: number of records of each file, if the number of files is not given.
      num_bytes: total size of all records.
    """

    positions: array
    lengths: Sequence[int]
    num_bytes: int


class Job:
    """Writes the splits of a data set; a context manager that removes its exchange files at the end."""

    def __init__(self, options: Any, folder: Path, features: tfds.features.FeaturesDict, settings: Settings) -> None:
        """Create a job.

        Args:
          options: options of the pipelines.
          folder: folder of the records; it has the same path for all workers.
          features: features of the data set.
          settings: settings for reading; each worker uses `num_threads` threads.
        """
        self._options = options
        self._exchange = Exchange(folder.absolute() / "exchange", CHUNK)
        self._serialize = shards.Serializer(features)
        self._settings = settings
        self._chunks: dict[str, int] = {}  # split -> number of chunks

    def __enter__(self) -> "Job":
        self._exchange.folder.mkdir()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        shutil.rmtree(self._exchange.folder, ignore_errors=True)

    def verify(self, splits: Mapping[str, Candidates]) -> None:
        """List the candidates of all splits and verify all of their images; raises DataError."""
        num_candidates = 0
        for split, candidates in splits.items():
            self._settings.start(f"list {split}", candidates.total)
            items = iter(candidates.items)
            for chunk in itertools.count():
                chunk_items = list(itertools.islice(items, self._exchange.chunk))
                if not chunk_items:
                    break
                self._exchange.write_candidates(split, chunk, chunk_items)
                num_candidates += len(chunk_items)
                for _ in chunk_items:
                    self._settings.progress()
            self._chunks[split] = chunk
        self._settings.start("verify", num_candidates)
        orders = [(split, chunk) for split, chunks in self._chunks.items() for chunk in range(chunks)]
        self._run(orders, _Verify)

    def select(self, split: str, selection: Selection) -> Selected:
        """Decide in order which candidates of a split become records; raises DataError as `Selection` does."""
        positions, lengths, num_bytes, position = array("q"), [], 0, 0
        rule = shards.SizeRule(shards.MAX_SHARD_BYTES)
        for chunk in range(self._chunks[split]):
            for verdict in self._exchange.read_verdicts(split, chunk):
                self._settings.progress()
                if selection.takes(verdict.outcome):
                    positions.append(position)
                    num_bytes += verdict.num_bytes
                    if rule.begins(verdict.num_bytes):
                        lengths.append(0)
                    lengths[-1] += 1
                position += 1
        selection.finish()
        return Selected(positions, lengths, num_bytes)

    def write(
        self, selected: Mapping[str, Selected], template: Callable[[str], tfds.core.ShardedFileTemplate]
    ) -> list[tfds.core.SplitInfo]:
        """Write the files of all splits and describe them; `template` gives the file names of a split.

        Raises:
          DataError: an image changed after it was verified, or the files cannot be written.
        """
        self._settings.start("write", sum(len(split.positions) for split in selected.values()))
        orders, infos = [], []
        for name, split in selected.items():
            lengths = split.lengths
            if self._settings.num_shards is not None:
                lengths = shards.cut_evenly(len(split.positions), self._settings.num_shards)
            starts = [0, *itertools.accumulate(lengths)]
            for number, (start, end) in enumerate(itertools.pairwise(starts)):
                self._exchange.write_positions(name, number, split.positions[start:end])
                path = template(name).sharded_filepath(shard_index=number, num_shards=len(lengths))
                orders.append(Shard(name, number, Path(path).absolute()))
            infos.append(shards.split_info(template(name), lengths, split.num_bytes))
        self._run(orders, _Write)
        for split in selected.values():
            for _ in split.positions:
                self._settings.progress()
        return infos

    def _run(self, orders: Sequence[Any], do: "type[_Work]") -> None:
        """Run a pipeline whose workers process the orders, in any sequence."""
        work = do(self._exchange, self._serialize, self._settings.num_threads)

        def build(pipeline: beam.Pipeline) -> None:
            _ = pipeline | "Orders" >> beam.Create(orders) | "Spread" >> beam.Reshuffle() | "Work" >> beam.ParDo(work)

        run_pipeline(build, self._options)


class _Work(beam.DoFn):
    """Processes orders; each process loads the table of the regions only once."""

    DONE = ""

    def __init__(self, exchange: Exchange, serialize: shards.Serializer, num_threads: int) -> None:
        self._exchange, self._serialize, self._num_threads = exchange, serialize, num_threads
        self._shared = Shared()

    def setup(self) -> None:
        regions = self._shared.acquire(functools.partial(_shared_regions, self._exchange))
        progress = WorkerProgress(self.DONE)
        self._worker = Worker(self._exchange, self._serialize, self._num_threads, regions.source, progress.step)


class _Verify(_Work):
    DONE = "verified"

    def process(self, order: tuple[str, int]) -> None:
        self._worker.verify(*order)


class _Write(_Work):
    DONE = "written"

    def process(self, order: Shard) -> None:
        self._worker.write(order)


@dataclasses.dataclass
class _SharedRegions:
    """The source of the regions, or None; a wrapper, because Beam cannot share None."""

    source: Any


def _shared_regions(exchange: Exchange) -> _SharedRegions:
    return _SharedRegions(exchange.read_regions())
