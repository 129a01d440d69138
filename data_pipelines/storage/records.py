"""Prepared data sets: random access to records, and an index with the properties of all records.

A prepared split consists of a few ArrayRecord files with one record per image (or per pair of images). A record is a
tf.train.Example with the fields of `Record`, without the unused ones. Finally, `prepare` writes an index to the same
folder (`data_pipelines.storage.index_writer`). A folder without an index is unfinished.
"""

import dataclasses
import gzip
import json
import re
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.errors import BadRecordError, DataError, short_repr
from data_pipelines.images.orientation import AS_STORED
from data_pipelines.storage.bucket_copy import local_copies
from data_pipelines.storage.detectors import DetectorDescription, parse_detector
from data_pipelines.storage.paths import as_path, check_readable
from data_pipelines.storage.regions import Regions, from_feature

INDEX_FORMAT = 2
INDEX_FILE = "index.json"
_QUOTES = "'\""
_MAX_LINE_BYTES = 64 << 20  # maximum size of the texts of one record
_ENTRY_BYTES, _HEADERS_BYTES = 64, 1 << 16  # maximum size per record in all arrays of an index, and of their headers
_SAME_SPLIT = {"val": "validation", "validation": "val"}
_ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, SyntaxError, MemoryError)
_ARRAYS = ("heights", "widths", "num_texts")
_PAIR_ARRAYS = ("second_heights", "second_widths")
_REGION_NUMBERS = ("region_size", "global_size", "region_classes")  # not in a split's entry if all are 0


@dataclasses.dataclass(frozen=True)
class RecordImage:
    """An image: the publisher's encoded bytes, and the size in pixels before resizing.

    `orientation` is an orientation tag, as in `data_pipelines.images.orientation`. The size is the size after turning.
    """

    image: bytes
    height: int
    width: int
    orientation: int = AS_STORED


@dataclasses.dataclass(frozen=True)
class Record:
    """One image, or one pair of images, with all of its texts.

    Attributes:
      image: the publisher's encoded bytes (JPEG, PNG, WebP, BMP or GIF).
      height, width: size in pixels after turning and before resizing.
      image_id: global id: `coco/<id>` for COCO photographs in any data set, `<data set>/<id>` for other images.
      texts: at least one text, in the publisher's order, with whitespace collapsed.
      labels: a JSON object for each text, such as the answers of a question; empty in data sets without labels.
      second: the right image of a pair; None in data sets of single images.
      regions: regions of an object detector; None in data sets that were prepared without --regions.
      orientation: orientation tag, as in `RecordImage`; published data sets ignore the tag of the file.
    """

    image: bytes
    height: int
    width: int
    image_id: str
    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    second: RecordImage | None = None
    regions: Regions | None = None
    orientation: int = AS_STORED


@dataclasses.dataclass(frozen=True, slots=True)
class RecordTexts:
    """The texts of a Record, with the same fields; `parsed` has the JSON objects of the labels."""

    image_id: str
    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    parsed: tuple[dict[str, Any], ...] = dataclasses.field(default=(), compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Index:
    """Properties of all records of a split, available without reading them; arrays are in the order of the records.

    Attributes:
      heights, widths: int32, sizes in pixels.
      num_texts: int32, number of texts, at least 1.
      fingerprint: hex digest of the fields of all records; equal data sets have equal fingerprints.
      second_heights, second_widths: int32, sizes of the second images in pixels; None in data sets of single images.
      region_size: F, the length of the feature of a region; 0 in data sets without regions.
      global_size: G, the length of the feature of a whole image; 0 if there is none.
      region_classes: greatest region class + 1; 0 if no class is known.
      detector: description of the detector of the regions (`data_pipelines.storage.detectors`); None: unknown.
    """

    heights: np.ndarray
    widths: np.ndarray
    num_texts: np.ndarray
    fingerprint: str
    second_heights: np.ndarray | None = None
    second_widths: np.ndarray | None = None
    region_size: int = 0
    global_size: int = 0
    region_classes: int = 0
    detector: DetectorDescription | None = None

    def __len__(self) -> int:
        return len(self.heights)


class Records:
    """Random access to the records of one split.

    Pickling is cheap: each process opens the files at its first read. Reading is thread-safe.
    """

    def __init__(self, shards: tuple[tuple[str, int], ...], index: Index, texts: str) -> None:
        """Create the access to a split; no file is opened yet.

        Args:
          shards: path and number of records of each file.
          index: index of all records.
          texts: path of the file with the texts of all records.
        """
        self.index = index
        self._shards = shards
        self._texts = texts
        self._open_files()

    def _open_files(self) -> None:
        self._source: ArrayRecordDataSource | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index, "_shards": self._shards, "_texts": self._texts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_files()

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        folder = epath.Path(self._shards[0][0]).parent
        return f"Records({len(self)} images in {folder}, fingerprint {self.index.fingerprint[:8]})"

    def __getitem__(self, i: int) -> Record:
        """Record `i`, counted from 0; raises IndexError if it does not exist, BadRecordError if it is damaged."""
        i = i.__index__()
        if not 0 <= i < len(self):
            raise IndexError(f"record {i} of {len(self)}")
        try:
            return parse(self._files()[i])
        except (ValueError, RuntimeError, OSError, IndexError) as error:
            raise BadRecordError(
                f"Record {i} of {self!r} cannot be read ({error}); remove that folder and prepare the data set again."
            ) from error

    def copy_to_host(self) -> None:
        """Copy files in a bucket to this host, which the first read does otherwise; DataError as in `local_copies`."""
        local_copies([path for path, _ in self._shards])

    def texts(self) -> Iterator[RecordTexts]:
        """Texts and labels of all records in order, from a separate file: no image is read.

        Raises:
          DataError: this file is missing, damaged, or does not match the index; raised after its last line at latest.
        """
        path, found = epath.Path(self._texts), 0
        try:
            with path.open("rb") as file, gzip.GzipFile(fileobj=file) as lines:
                for found, line in enumerate(iter(lambda: lines.readline(_MAX_LINE_BYTES), b""), 1):
                    image_id, texts, labels = json.loads(line)
                    if not all(isinstance(text, str) for text in (image_id, *texts, *labels)):
                        raise ValueError(f"line {found} is not an id with texts")
                    if found <= len(self) and len(texts) != self.index.num_texts[found - 1]:
                        raise ValueError(f"line {found} has {len(texts)} texts")
                    yield RecordTexts(image_id, tuple(texts), tuple(labels), tuple(map(parse_label, labels)))
        except (OSError, EOFError, zlib.error, ValueError, TypeError, RecursionError) as error:
            raise _corrupt(path, "is missing or damaged") from error
        if found != len(self):
            raise _corrupt(path, f"has {found} lines for {len(self)} records")

    def _files(self) -> ArrayRecordDataSource:
        with self._lock:
            if self._source is None:
                paths, numbers = zip(*self._shards, strict=True)
                # The numbers of records are passed, so that no file is opened before it is needed.
                copies = zip(local_copies(paths), numbers, strict=True)
                self._source = ArrayRecordDataSource([f"{path}[0:{n}]" for path, n in copies])
            return self._source


def parse(serialized: bytes) -> Record:
    """Parse a serialized tf.train.Example into a Record; raises ValueError if it is not one."""
    try:
        feature = tf_example_pb2.Example.FromString(serialized).features.feature
        texts, labels = (
            tuple(text.decode() for text in feature[name].bytes_list.value) for name in ("texts", "labels")
        )
        if labels and len(labels) != len(texts):
            raise ValueError(f"{len(labels)} labels for {len(texts)} texts")
        first = _image(feature, "")
        return Record(
            image=first.image,
            height=first.height,
            width=first.width,
            image_id=feature["image_id"].bytes_list.value[0].decode(),
            texts=texts,
            labels=labels,
            second=_image(feature, "second_") if "second_image" in feature else None,
            regions=from_feature(feature),
            orientation=first.orientation,
        )
    except Exception as error:  # protobuf's own exception class depends on its implementation
        raise ValueError("not a record of an image with texts") from error


def parse_label(label: str) -> dict[str, Any]:
    """Parse the JSON object of a label; raises ValueError if it is not a JSON object."""
    try:
        fields = json.loads(label)
    except RecursionError as error:
        raise ValueError("a label that is nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError("a label that is no JSON object")
    return fields


def _image(feature: Mapping[str, Any], prefix: str) -> RecordImage:
    name = f"{prefix}orientation"
    return RecordImage(
        image=feature[f"{prefix}image"].bytes_list.value[0],
        height=feature[f"{prefix}height"].int64_list.value[0],
        width=feature[f"{prefix}width"].int64_list.value[0],
        orientation=next(iter(feature[name].int64_list.value), AS_STORED) if name in feature else AS_STORED,
    )


def find_folder(data_dir: str | Path, name: str) -> epath.Path | None:
    """Folder of the newest version of a data set, such as `data_dir/name/1.2.3`; None if there is none."""
    check_readable(as_path(data_dir))
    versions = [
        (tuple(map(int, folder.name.split("."))), folder)
        for folder in (epath.Path(as_path(data_dir)) / name).glob("*")
        if re.fullmatch(r"\d+\.\d+\.\d+", folder.name) and folder.is_dir()
    ]
    return max(versions)[1] if versions else None


def read_summary(folder: str | Path) -> dict[str, Any] | None:
    """Read the JSON part of the index of a prepared folder; None if the folder is unfinished.

    Raises:
      DataError: the file is damaged, or has the format of another release.
    """
    path = epath.Path(folder) / INDEX_FILE
    if not path.exists():
        return None
    try:
        summary = json.loads(path.read_text())
        if summary["format"] == INDEX_FORMAT and isinstance(summary["splits"], Mapping):
            return summary
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise _corrupt(path, "is damaged") from error
    what = f"has format {short_repr(summary['format']).strip(_QUOTES)}, not {INDEX_FORMAT}"
    if has_old_index(folder):
        raise DataError(f"{path} {what}; run `prepare` again, which writes the index anew and keeps the records.")
    raise _corrupt(path, what)


def has_old_index(folder: str | Path) -> bool:
    """Whether the index of a prepared folder has an older format; the records are usable in any case."""
    try:
        written = json.loads((epath.Path(folder) / INDEX_FILE).read_text())["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return isinstance(written, int) and written < INDEX_FORMAT


def read_index(folder: str | Path, split: str, summary: Mapping[str, Any]) -> Index:
    """Read the index of a split; `summary` is the result of `read_summary`. Raises DataError if it is damaged."""
    path = epath.Path(folder) / index_file(split)
    entry = summary["splits"][split]
    try:
        for file, length in entry["shards"]:
            named = isinstance(file, str) and Path(file).name == file and file not in ("", "..")
            if not named or type(length) is not int or length < 0:
                raise ValueError(f"{file!r} is no file of this folder")
        numbers = {key: int(entry.get(key, 0)) for key in _REGION_NUMBERS}
        fingerprint = str(entry["fingerprint"])
        detector = parse_detector((summary.get("regions") or {}).get("detector"))
        total = sum(length for _, length in entry["shards"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _corrupt(epath.Path(folder) / INDEX_FILE, "is damaged") from error
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > _ENTRY_BYTES * total + _HEADERS_BYTES:
                raise ValueError("arrays for more records")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                keys = _ARRAYS + (_PAIR_ARRAYS if any(key in stored for key in _PAIR_ARRAYS) else ())
                arrays = {key: stored[key].astype(np.int32) for key in keys}
        index = Index(**arrays, fingerprint=fingerprint, **numbers, detector=detector)
    except (OSError, ValueError, KeyError, TypeError, EOFError, *_ZIP_DAMAGE) as error:
        raise _corrupt(path, "is missing or damaged") from error
    if {array.shape for array in arrays.values()} != {(total,)}:
        raise _corrupt(path, f"does not hold {total} entries, the number of records")
    return index


def index_file(split: str) -> str:
    """Name of the file with the index arrays of a split."""
    return f"index-{split}.npz"


def texts_file(split: str) -> str:
    """Name of the file with the texts and labels of a split, one line of JSON per record."""
    return f"texts-{split}.jsonl.gz"


def open_records(data_dir: str | Path, name: str, split: str) -> Records:
    """Open one split of a prepared data set.

    Args:
      data_dir: folder of the prepared data sets, as for `prepare`.
      name: name of the data set, such as "coco_captions".
      split: name of the split, such as "train"; "val" and "validation" are synonyms if only one of them exists.

    Raises:
      DataError: the data set is not prepared or unfinished, the split does not exist, or the index is damaged.
    """
    command = f"python -m data_pipelines.prepare {name} --data_dir={data_dir}"
    folder = find_folder(data_dir, name)
    if folder is None:
        raise DataError(f"No prepared data set {name!r} in {data_dir}: run `{command}`, with its --source_dir.")
    summary = read_summary(folder)
    if summary is None:
        raise DataError(f"The data set in {folder} is unfinished: run `{command}` again.")
    # Both names are common for the validation split.
    twin = _SAME_SPLIT.get(split)
    if split not in summary["splits"] and twin in summary["splits"]:
        split = twin
    if split not in summary["splits"]:
        raise DataError(f"The data set in {folder} has no split {split!r}; it has {', '.join(summary['splits'])}.")
    index = read_index(folder, split, summary)
    shards = tuple((str(folder / file), int(length)) for file, length in summary["splits"][split]["shards"])
    for path, _ in shards:
        if not epath.Path(path).exists():
            raise DataError(f"{path} is missing; remove {folder} and run `{command}`.")
    texts = epath.Path(folder) / texts_file(split)
    if not texts.exists():
        raise _corrupt(texts, "is missing")
    return Records(shards, index, str(texts))


def _corrupt(path: epath.Path, what: str) -> DataError:
    return DataError(
        f"{path} {what}; delete {path.parent / INDEX_FILE} and run `prepare` again, which writes the index anew."
    )
