"""A folder with one .npz file per image; the file has the name of the image."""

import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from data_pipelines.regions.arrays import Stored, row_of
from data_pipelines.regions.rows import MAX_ROW_BYTES, BadRowError, RegionSource, Row
from data_pipelines.storage.detectors import read_detector
from data_pipelines.storage.paths import AnyPath, files_below, size_of

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_HEADER_BYTES = 1 << 16
_DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError)
_DAMAGE += (SyntaxError, TypeError, LookupError, OverflowError, RecursionError, MemoryError)


class NpzFolder(RegionSource):
    """The .npz files in a folder and its subfolders; the id of an image is the relative path without the suffix."""

    def __init__(self, path: AnyPath) -> None:
        """Args: path: path of the folder."""
        super().__init__(path)
        self._names: list[str] = []
        self.detector = read_detector(path)

    def ids(self) -> Iterator[str | None]:
        """See RegionSource."""
        self._names = sorted(file.relative_to(self.path).as_posix() for file in files_below(self.path, ".npz"))
        for name in self._names:
            yield name.removesuffix(".npz")

    def read(self, number: int) -> Row:
        """See RegionSource."""
        return read_npz(self.path / self._names[number])

    def location(self, number: int) -> str:
        """See RegionSource."""
        return str(self.path / self._names[number])


def read_npz(path: AnyPath) -> Row:
    """The regions of one image.

    Raises:
      BadRowError: the file is too large, damaged, or lacks an array.
      OSError: it cannot be read.
    """
    if size_of(path) > MAX_ROW_BYTES:
        raise BadRowError(f"file over {MAX_ROW_BYTES >> 20} MiB")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = frozenset(archive.namelist())
            return row_of(lambda name: _stored(archive, f"{name}.npy") if f"{name}.npy" in members else None)
    except BadRowError:
        raise
    except _DAMAGE as error:
        raise BadRowError("not a whole .npz file") from error


def _stored(archive: zipfile.ZipFile, member: str) -> Stored:
    """An array by its header; NumPy would read the whole array to find its size."""

    def load() -> np.ndarray:
        with archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    with archive.open(member) as file:
        start = file.read(12)
    # In version 2 of the format, NumPy would read a header of any length.
    if start[6:7] != b"\x01" and int.from_bytes(start[8:12], "little") > _HEADER_BYTES:
        raise ValueError("a header of that length")
    with archive.open(member) as file:
        read_header = _HEADERS.get(np.lib.format.read_magic(file))
        if read_header is None:
            raise BadRowError("an array of an unknown version of .npy")
        shape, _, dtype = read_header(file)
    return Stored(shape, dtype, load)
