"""Tab-separated files of bottom-up-attention, LXMERT and VinVL: one row per image, arrays in base64."""

import array
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.regions import vinvl
from data_pipelines.regions.rows import (
    MAX_ROW_BYTES,
    BadRowError,
    RegionSource,
    Row,
    positive,
)
from data_pipelines.regions.tsv_cells import decode_array, number_of_boxes

LXMERT = (
    *("img_id", "img_h", "img_w", "objects_id", "objects_conf"),
    *("attrs_id", "attrs_conf", "num_boxes", "boxes", "features"),
)
BOTTOM_UP = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
_FORMS = {len(columns): columns for columns in (LXMERT, BOTTOM_UP, vinvl.COLUMNS, vinvl.JSON_COLUMNS)}
_MAX_ID_BYTES = 1000


class TsvFiles(RegionSource):
    """One pass over the files finds the rows; later, single rows are read by their offsets. One row is in memory."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        """Args: path: path as given by the user. files: the files at this path, in order."""
        super().__init__(path)
        self._files = list(files)
        self._open = self._open_files()
        self._first_rows: list[int] = []  # number of the first row of each file
        self._offsets, self._lengths, self._lines = (array.array("q") for _ in range(3))
        self._columns: tuple[str, ...] = ()

    def _open_files(self) -> list[BinaryIO]:
        return [file.open("rb", buffering=1 << 20) for file in self._files]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open = self._open_files()

    def ids(self) -> Iterator[str | None]:
        """See RegionSource; raises DataError if no row has the columns of a known format."""
        for file in self._open:
            self._first_rows.append(len(self._offsets))
            for offset, length, line, start in _lines(file):
                cells = start.split(b"\t", 1)
                if line == 1 and cells[0] in (LXMERT[0].encode(), BOTTOM_UP[0].encode()):
                    continue  # header with the names of the columns
                self._offsets.append(offset)
                self._lengths.append(length)
                self._lines.append(line)
                if not self._columns and length <= MAX_ROW_BYTES:
                    number = os.pread(file.fileno(), length, offset).count(b"\t") + 1
                    self._columns = _FORMS.get(number, ())
                yield _text(cells[0]) if len(cells) == 2 else None
        if not self._columns:
            raise DataError(
                f"No row of --regions={self.path} has the {len(LXMERT)} columns of LXMERT ({' '.join(LXMERT)}), the "
                f"{len(BOTTOM_UP)} of bottom-up-attention ({' '.join(BOTTOM_UP)}) or those of VinVL "
                f"({' '.join(vinvl.COLUMNS)}, or {' '.join(vinvl.JSON_COLUMNS)}); give a file of such a form."
            )

    def read(self, number: int) -> Row:
        """See RegionSource."""
        length = self._lengths[number]
        if length > MAX_ROW_BYTES:
            raise BadRowError(f"row over {MAX_ROW_BYTES >> 20} MiB")
        file = self._open[self._file_of(number)]
        content = os.pread(file.fileno(), length, self._offsets[number])
        try:
            return _parse(content.rstrip(b"\r\n").split(b"\t"), self._columns)
        except BadRowError as fault:
            if content.endswith(b"\n"):
                raise
            raise BadRowError("row cut short") from fault  # only the last row of a file may have no line break

    def location(self, number: int) -> str:
        """See RegionSource."""
        return f"{self._files[self._file_of(number)]}, row {self._lines[number]}"

    def _file_of(self, number: int) -> int:
        return int(np.searchsorted(self._first_rows, number, side="right")) - 1


def _lines(file: BinaryIO) -> Iterator[tuple[int, int, int, bytes]]:
    """Offset, length, number from 1 and first bytes of each line that is not blank; huge lines are read in parts."""
    offset = line = 0
    while content := file.readline(MAX_ROW_BYTES + 1):
        line += 1
        start, length = content[: _MAX_ID_BYTES + 1], len(content)
        while not content.endswith(b"\n") and (content := file.readline(1 << 20)):
            length += len(content)
        if length > len(start) or start.strip():
            yield offset, length, line, start
        offset += length


def _text(cell: bytes) -> str | None:
    try:
        return cell.decode().strip() or None
    except UnicodeDecodeError:
        return None


def _parse(cells: Sequence[bytes], columns: Sequence[str]) -> Row:
    if len(cells) != len(columns):
        raise BadRowError("wrong number of columns")
    if columns in (vinvl.COLUMNS, vinvl.JSON_COLUMNS):
        return vinvl.parse(cells)
    row = dict(zip(columns, cells, strict=True))
    number = number_of_boxes(row["num_boxes"])
    has_classes = "objects_id" in row
    features = decode_array(row["features"], np.dtype("<f4"))
    if not len(features) or len(features) % number:
        raise BadRowError("base64 of a wrong length")
    return Row(
        features=features.reshape(number, -1),
        boxes=decode_array(row["boxes"], np.dtype("<f4"), number * 4).reshape(number, 4).astype(np.float64),
        in_pixels=True,
        height=positive(row["img_h" if has_classes else "image_h"], "height"),
        width=positive(row["img_w" if has_classes else "image_w"], "width"),
        classes=decode_array(row["objects_id"], np.dtype("<i8"), number) if has_classes else None,
        scores=decode_array(row["objects_conf"], np.dtype("<f4"), number) if has_classes else None,
        global_feature=np.zeros(0, np.float32),
    )
