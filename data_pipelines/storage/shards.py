"""Write one split as ArrayRecord files, in the order of the examples.

The writer of TFDS sorts every split by key. It holds up to a gibibyte in memory, and for more it needs TensorFlow for
its temporary files. This writer streams the examples and keeps their order; it needs neither memory nor TensorFlow.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipelines.errors import DataError
from data_pipelines.storage.destination import StayHere, ToBucket

MAX_SHARD_BYTES = 512 << 20
# Encoded photographs cannot be compressed further; uncompressed files are written five times as fast.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_CHUNK_BYTES = 8 << 20  # approximate number of bytes per read


class SizeRule:
    """Decides where a file of records ends if the number of files is not given: after `max_shard_bytes` bytes."""

    def __init__(self, max_shard_bytes: int) -> None:
        self._max_shard_bytes = max_shard_bytes
        self._bytes: int | None = None  # size of the current file so far

    def begins(self, size: int) -> bool:
        """Whether the next record, of `size` bytes, is the first of a file."""
        first = self._bytes is None or self._bytes >= self._max_shard_bytes
        self._bytes = size if first else self._bytes + size
        return first


def cut_evenly(num_records: int, num_shards: int) -> list[int]:
    """Number of records of each file; if there are fewer records than files, each record is a file."""
    num_shards = min(num_shards, num_records)
    ends = [num_records * shard // num_shards for shard in range(num_shards + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]


class Serializer:
    """Serializes examples to bytes that TFDS can read; picklable."""

    def __init__(self, features: tfds.features.FeaturesDict) -> None:
        """Args: features: features of the data set."""
        self._features = features
        self._serializer = tfds.core.ExampleSerializer(features.get_serialized_info())

    def __call__(self, example: Mapping[str, Any]) -> bytes:
        """Serialize an example as a tf.train.Example; equal examples give equal bytes."""
        encoded = self._serializer.get_tf_example(self._features.encode_example(example))
        return encoded.SerializeToString(deterministic=True)  # otherwise the order of the fields depends on the process

    def __reduce__(self) -> tuple[Any, ...]:
        return Serializer, (self._features,)


def write_split(
    examples: Iterable[Mapping[str, Any]],
    features: tfds.features.FeaturesDict,
    template: tfds.core.ShardedFileTemplate,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    *,
    num_shards: int | None = None,
    destination: StayHere | ToBucket | None = None,
) -> tfds.core.SplitInfo:
    """Write all examples of a split and describe the files.

    Args:
      examples: examples in the form that `features` encodes.
      features: features of the data set.
      template: defines the names of the files.
      max_shard_bytes: a file is closed when it has this size.
      num_shards: number of files; their numbers of records differ by at most one, as in `cut_evenly`. The records are
        then copied once, which needs `max_shard_bytes` of extra disk space. None: the number follows from
        `max_shard_bytes`.
      destination: gets each file when it is whole; None: files stay where `template` says.

    Raises:
      DataError: a file cannot be written or uploaded.
      ValueError: there are no examples.
    """
    serialize = Serializer(features)
    folder = Path(template.data_dir)
    destination = destination or StayHere()
    parts: list[Path] = []
    lengths: list[int] = []
    num_bytes = 0
    rule = SizeRule(max_shard_bytes)
    writer = None
    try:
        for example in examples:
            serialized = serialize(example)
            if rule.begins(len(serialized)):
                if writer is not None:
                    closed, writer = writer, None
                    _attempt(folder, closed.close)
                    destination.put(parts[-1])
                parts.append(folder / f"{template.split}-{len(parts):05d}.part")
                writer = _open(parts[-1], folder)
                lengths.append(0)
            _attempt(folder, writer.write, serialized)
            lengths[-1] += 1
            num_bytes += len(serialized)
    finally:
        if writer is not None:
            _attempt(folder, writer.close)
    if not lengths:
        raise ValueError(f"no record in split {template.split!r}")
    destination.put(parts[-1])
    if num_shards is not None and (wanted := cut_evenly(sum(lengths), num_shards)) != lengths:
        parts, lengths = _cut_anew(parts, lengths, wanted, folder, template.split, destination), wanted
    # The names contain the number of files, which is known only now.
    for i, part in enumerate(parts):
        destination.rename(part, Path(template.sharded_filepath(shard_index=i, num_shards=len(parts))))
    return split_info(template, lengths, num_bytes)


def write_shard(path: Path, serialized: Iterable[bytes], folder: Path) -> None:
    """Write one file of records; raises DataError, which names `folder`, if it cannot be written."""
    writer = _open(path, folder)
    try:
        for record in serialized:
            _attempt(folder, writer.write, record)
    finally:
        _attempt(folder, writer.close)


def split_info(template: tfds.core.ShardedFileTemplate, lengths: Sequence[int], num_bytes: int) -> tfds.core.SplitInfo:
    """Description of a written split for TFDS."""
    return tfds.core.SplitInfo(
        name=template.split,
        shard_lengths=list(lengths),
        num_bytes=num_bytes,
        filename_template=template,
    )


def _cut_anew(
    parts: Sequence[Path],
    lengths: Sequence[int],
    wanted: Sequence[int],
    folder: Path,
    split: str,
    destination: StayHere | ToBucket,
) -> list[Path]:
    """Copy the records of some files to files of the wanted lengths; each source file is removed after its last record.

    Returns the paths of the new files.
    """
    records = _read_and_remove(parts, lengths, destination)
    cut = [folder / f"{split}-{i:05d}.cut.part" for i in range(len(wanted))]
    for path, length in zip(cut, wanted, strict=True):
        write_shard(path, (next(records) for _ in range(length)), folder)
        destination.put(path)
    next(records, None)  # removes the last source file
    return cut


def _read_and_remove(
    parts: Sequence[Path], lengths: Sequence[int], destination: StayHere | ToBucket
) -> Iterator[bytes]:
    """All records of some files; each file is removed after its last record."""
    for path, length in zip(parts, lengths, strict=True):
        destination.fetch(path)
        chunk = max(1, length * _CHUNK_BYTES // max(path.stat().st_size, 1))
        with contextlib.closing(ArrayRecordReader(str(path))) as reader:
            for start in range(0, length, chunk):
                yield from reader.read(list(range(start, min(start + chunk, length))))
        path.unlink()


def _open(path: Path, folder: Path) -> ArrayRecordWriter:
    return _attempt(folder, ArrayRecordWriter, str(path), _WRITER_OPTIONS)


def _attempt(folder: Path, write: Any, *args: Any) -> Any:
    """Call a function of the ArrayRecord writer; its errors are disk errors and become DataError."""
    try:
        return write(*args)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"Writing to {folder} failed ({error}); free some space or give another --data_dir.") from error
