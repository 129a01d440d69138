"""Write the index of a prepared folder: the last step of `prepare`.

Every record is read back once, so an index also proves that the files on disk are complete. The texts are copied to
separate files, for programs that need no images.
"""

import collections
import contextlib
import gzip
import hashlib
import io
import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath

from data_pipelines.errors import DataError
from data_pipelines.images.orientation import AS_STORED
from data_pipelines.storage.atomic_files import open_atomically, remove_leftovers, write_atomically
from data_pipelines.storage.paths import AnyPath, as_path
from data_pipelines.storage.records import INDEX_FILE, INDEX_FORMAT, Record, index_file, parse, texts_file
from data_pipelines.storage.regions import RegionStatistics
from data_pipelines.storage.transfer import temporary_copy

Shards = Sequence[tuple[str, int]]  # file name and number of records
_CHUNK_BYTES = 8 << 20  # approximate number of bytes per read
_COMPRESSION = 6  # Python's default of 9 takes twice the time and saves little


def write_index(
    folder: epath.PathLike,
    shards: Mapping[str, Shards],
    about: Mapping[str, Any],
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Read all records in `folder` and write `texts-<split>.jsonl.gz`, `index-<split>.npz` and finally `index.json`.

    Args:
      folder: folder of a data set that TFDS has finished; no other process may write its index.
      shards: split -> its files in order, with the number of records of each file.
      about: fields that are stored in the JSON unchanged (name, version, options, skipped images and texts).
      progress: called after each record.

    Raises:
      DataError: a file is missing or damaged, has a different number of records, or cannot be written.
    """
    folder = as_path(folder)
    splits = {}
    try:
        for split, files in shards.items():
            with _texts_writer(folder / texts_file(split)) as write_texts:
                arrays, splits[split] = _index_split(folder, files, write_texts, progress)
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)
            write_atomically(folder / index_file(split), buffer.getvalue())
        summary = {"format": INDEX_FORMAT, **about, "splits": splits}
        write_atomically(folder / INDEX_FILE, json.dumps(summary, indent=1).encode())
    except OSError as error:
        raise DataError(
            f"The index of {folder} cannot be written ({error}); free some space there and run `prepare` again."
        ) from error


@contextlib.contextmanager
def _texts_writer(path: AnyPath) -> Iterator[Callable[[Record], None]]:
    """A function that adds the texts of a record to an atomic file; the same records give the same bytes."""
    remove_leftovers(path)
    with (
        open_atomically(path) as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=_COMPRESSION, fileobj=file, mtime=0) as compressed,
    ):

        def write(record: Record) -> None:
            line = json.dumps([record.image_id, record.texts, record.labels], ensure_ascii=False)
            compressed.write(line.encode() + b"\n")

        yield write


def _index_split(
    folder: AnyPath, files: Shards, write_texts: Callable[[Record], None], progress: Callable[[], None]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays of the index, and the entry of the split in the JSON; `write_texts` is called with every record."""
    sizes, second_sizes = array("i"), array("i")  # 12 bytes per record; a list of tuples takes ten times as much
    regions = RegionStatistics()
    words: collections.Counter[int] = collections.Counter()
    digest = hashlib.blake2b(digest_size=16)
    for file, length in files:
        for record in _read_all(folder / file, length):
            sizes.extend((record.height, record.width, len(record.texts)))
            words.update(len(text.split()) for text in record.texts)
            digest.update(json.dumps(_fields(record)).encode() + b"\n")
            write_texts(record)
            if record.second is not None:
                second_sizes.extend((record.second.height, record.second.width))
            if record.regions is not None:
                regions.add(record.regions)
            progress()
    heights, widths, num_texts = np.array(sizes, np.int32).reshape(-1, 3).T
    number, pairs = len(heights), len(second_sizes) // 2
    arrays = {"heights": heights, "widths": widths, "num_texts": num_texts}
    if pairs:
        if pairs != number:
            raise DataError(
                f"{folder} has {pairs} pairs among {number} records of a split; "
                "remove it and prepare the data set again."
            )
        arrays["second_heights"], arrays["second_widths"] = np.array(second_sizes, np.int32).reshape(-1, 2).T
    if problem := regions.problem(number):
        raise DataError(f"{folder} has {problem}; remove it and prepare the data set again.")
    entry = {
        "shards": [list(file) for file in files],
        "fingerprint": digest.hexdigest(),
        "images": number,
        "texts": int(num_texts.sum()),
        "words": _word_statistics(words),
        **regions.to_json(),
    }
    return arrays, entry


def _fields(record: Record) -> list[Any]:
    """The content of a record for the fingerprint, without unused fields."""
    fields: list[Any] = [record.image_id, record.height, record.width, record.texts, _hash(record.image)]
    if record.labels:
        fields.append({"labels": record.labels})
    if record.second is not None:
        fields.append({"second": [record.second.height, record.second.width, _hash(record.second.image)]})
    turned = [record.orientation, *([record.second.orientation] if record.second else [])]
    if any(orientation != AS_STORED for orientation in turned):
        fields.append({"orientation": turned})
    if record.regions is not None:
        fields.append({"regions": record.regions.digest()})
    return fields


def _hash(image: bytes) -> str:
    return hashlib.blake2b(image, digest_size=16).hexdigest()


def _read_all(path: AnyPath, length: int) -> Iterator[Record]:
    """All records of a file; raises DataError if it is damaged or does not have `length` records."""
    remedy = f"remove {path.parent} and prepare the data set again."
    with contextlib.ExitStack() as copies:
        try:
            local = copies.enter_context(temporary_copy(path))
            reader = ArrayRecordReader(str(local))
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"{path} cannot be read ({error}); {remedy}") from error
        yield from _read_local(reader, path, local.stat().st_size, length, remedy)


def _read_local(reader: ArrayRecordReader, path: AnyPath, size: int, length: int, remedy: str) -> Iterator[Record]:
    """As `_read_all`, from an open file of `size` bytes, which is closed at the end."""
    try:
        if reader.num_records() != length:
            raise DataError(f"{path} holds {reader.num_records()} records, not {length}; {remedy}")
        chunk = max(1, length * _CHUNK_BYTES // max(size, 1))
        for start in range(0, length, chunk):
            for serialized in reader.read(list(range(start, min(start + chunk, length)))):
                yield parse(serialized)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} is damaged ({error}); {remedy}") from error
    finally:
        with contextlib.suppress(RuntimeError):  # closing a damaged file raises the error again
            reader.close()


def _word_statistics(words: Mapping[int, int]) -> dict[str, float]:
    """Mean, 95th percentile and maximum of the number of words per text; `words` is a histogram."""
    total, cumulative, percentile = sum(words.values()), 0, 0
    for length in sorted(words):
        percentile = length
        cumulative += words[length]
        if cumulative >= 0.95 * total:
            break
    mean = sum(length * count for length, count in words.items()) / max(total, 1)
    return {"mean": mean, "p95": percentile, "max": max(words, default=0)}
