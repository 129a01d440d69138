"""Karpathy and Fei-Fei's split files: `dataset_coco.json`, `dataset_flickr30k.json`, ..."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.datasets.layout import field, load_json

_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(000000\d{6})", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image of a split file.

    Attributes:
      split: split of the image.
      folder: the publisher's folder of the image; may be empty.
      file_name: file name of the image, without folders.
      coco_id: COCO id from the file name, or otherwise the stated id; None if there is neither.
      stated_id: COCO id that the file states; None if there is none.
      texts: sentences.
    """

    split: str
    folder: str
    file_name: str
    coco_id: int | None
    stated_id: int | None
    texts: tuple[object, ...]


def read_entries(path: Path) -> list[Entry]:
    """All images of a split file, in its order; raises DataError if it is not a split file."""
    entries = []
    for image in field(load_json(path), "images", list, path):
        file_name = field(image, "filename", str, path)
        stated = foreign_id(image.get("cocoid"))
        stated = stated if isinstance(stated, int) else None
        number = coco_id_of(file_name)
        entries.append(
            Entry(
                split=field(image, "split", str, path),
                folder=str(image.get("filepath") or ""),
                file_name=Path(file_name).name,
                coco_id=stated if number is None else number,
                stated_id=stated,
                texts=tuple(_raw(sentence, path) for sentence in field(image, "sentences", list, path)),
            )
        )
    return entries


def _raw(sentence: object, path: Path) -> object:
    """The text of a sentence; NaN stays, so that it is counted as a fault of its image."""
    raw = sentence.get("raw") if isinstance(sentence, Mapping) else None
    return raw if isinstance(raw, float) and math.isnan(raw) else field(sentence, "raw", str, path)


def coco_id_of(file_name: str) -> int | None:
    """The COCO id in a file name: 139 for "000000000139.jpg" and "COCO_val2014_000000000139.jpg"; otherwise None.

    Other names with 12 digits, such as camera_202301011200.jpg, are no COCO names: several files may share the digits.
    """
    name = _COCO_NAME.fullmatch(Path(file_name).stem)
    return int(name[1]) if name else None


def foreign_id(value: object) -> object:
    """The id of an image in another data set; None for null, NaN, and numbers that are not positive: they mean "none".

    Other values that are no ids, such as strings, are returned as they are. A column with absent ids may have become
    one of floats; those of whole numbers are ids.
    """
    if value is None or isinstance(value, bool) or (isinstance(value, int | float) and not value > 0):
        return None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def coco_ids(path: Path, splits: Sequence[str]) -> frozenset[int]:
    """COCO ids of the images in some splits of `dataset_coco.json`."""
    return frozenset(
        entry.coco_id for entry in read_entries(path) if entry.split in splits and entry.coco_id is not None
    )
