"""HDF5 files of regions: a group for each image, or arrays with the values of all images."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import DataError, in_short
from data_pipelines.regions.arrays import (
    BOXES,
    FEATURES,
    FRACTIONS,
    GLOBAL,
    HEIGHT,
    NUMBER,
    WIDTH,
    Stored,
    row_of,
)
from data_pipelines.regions.rows import BadRowError, RegionSource, Row

_IDS = ("image_ids", "image_id", "img_ids", "img_id", "ids")
_ENDS = "pos_boxes"
_CHUNK = 10_000  # ids per read
_MAX_ID_BYTES = 1000
_MAX_PIECE_BYTES = 256 << 20
# Exceptions of h5py for damaged files.
_DAMAGE = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError)


def open_hdf5(path: Path) -> RegionSource:
    """Open an HDF5 file of either layout.

    Raises:
      DataError: h5py is not installed, the file is damaged, or it has neither layout.
    """
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            f"--regions={path} is HDF5, which takes h5py; install it with `pip install 'pixelbert_jax[regions]'`."
        ) from error
    try:
        file = h5py.File(path, "r")
        kinds = {type(_within(file, name)) for name in _first_names(file)}
        ids = next((name for name in _IDS if _array(file, name) is not None), None)
    except BadRowError as fault:
        raise DataError(f"--regions={path} holds {fault}; make it again, with all of it in one file.") from fault
    except _DAMAGE as error:
        reason = in_short(error)
        raise DataError(f"--regions={path} is a damaged HDF5 file ({reason}); copy or make it again.") from error
    if ids is not None:
        return _FlatHdf5(path, file, ids)
    if kinds == {h5py.Group}:
        return _GroupedHdf5(path, file)
    raise DataError(
        f"--regions={path} has neither a group for each image nor an array of their ids called {' or '.join(_IDS)}; "
        "add the array image_ids."
    )


def _first_names(file: Any) -> list[str]:
    return [name for name, _ in zip(file, range(100), strict=False)]


class _Hdf5(RegionSource):
    """Common base class of both layouts."""

    def __init__(self, path: Path, file: Any) -> None:
        super().__init__(path)
        self._file = file
        self._names: list[str] = []  # names of the groups, if there are groups

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self._names)

    def read(self, number: int) -> Row:
        """See RegionSource."""
        try:
            return self._row(number)
        except BadRowError:
            raise
        except _DAMAGE as error:
            raise BadRowError("a part of the HDF5 file that cannot be read") from error

    def _row(self, number: int) -> Row:
        """Read a row; exceptions of h5py may pass."""
        raise NotImplementedError


def _reopen(path: Path, names: list[str]) -> RegionSource:
    source = open_hdf5(path)
    source._names = names
    return source


class _GroupedHdf5(_Hdf5):
    """A group for each image, named by its id; sizes may be attributes of the group."""

    def ids(self) -> Iterator[str | None]:
        """See RegionSource."""
        self._names = list(self._file)
        yield from self._names

    def location(self, number: int) -> str:
        """See RegionSource."""
        return f"{self.path}, group {self._names[number]}"

    def _row(self, number: int) -> Row:
        group = _within(self._file, self._names[number])
        if not hasattr(group, "keys"):
            raise BadRowError("an array where a group of arrays should be")

        def find(name: str) -> Stored | None:
            if name in group.attrs:
                _check_bytes(group.attrs.get_id(name).get_storage_size())
                value = np.asarray(group.attrs[name])
                return Stored(value.shape, value.dtype, lambda: value)
            array = _array(group, name)
            return None if array is None else Stored(array.shape, array.dtype, lambda: np.asarray(array[()]))

        return row_of(find)


class _FlatHdf5(_Hdf5):
    """Arrays with the values of all images.

    Either each array has a row for each image, or the features and boxes of all images are concatenated. Then the array
    pos_boxes has the first row of each image and the row after its last one.
    """

    def __init__(self, path: Path, file: Any, ids: str) -> None:
        super().__init__(path, file)
        self._ids = _array(file, ids)
        self._ends = _array(file, _ENDS)
        number = len(self._ids) if self._ids.shape else 0
        if number > path.stat().st_size or self._ids.dtype.itemsize > _MAX_ID_BYTES:
            raise DataError(f"--regions={path}: {ids} promises more than the file can hold; make the file again.")
        if self._ends is not None and self._ends.shape != (number, 2):
            raise DataError(f"--regions={path}: {_ENDS} is {self._ends.shape}, not {(number, 2)}; make the file again.")
        if self._ends is None:
            for name in (*FEATURES, *BOXES, *FRACTIONS):
                array = _array(file, name)
                if array is not None and (len(array.shape) != 3 or array.shape[0] != number):
                    raise DataError(
                        f"--regions={path}: {name} is {array.shape} for {number} images, and there is no {_ENDS} "
                        "to tell which rows are whose; make the file again."
                    )

    def ids(self) -> Iterator[str | None]:
        """See RegionSource."""
        for start in range(0, len(self._ids) if self._ids.shape else 0, _CHUNK):
            try:
                values = np.asarray(self._ids[start : start + _CHUNK]).tolist()
            except _DAMAGE as error:
                raise DataError(
                    f"--regions={self.path}: {self._ids.name.strip('/')} cannot be read from row {start} on; copy or "
                    "make the file again."
                ) from error
            for value in values:
                yield _text(value)

    def location(self, number: int) -> str:
        """See RegionSource."""
        return f"{self.path}, row {number}"

    def _row(self, number: int) -> Row:
        if self._ends is None:
            return row_of(lambda name: self._of_image(name, number))
        start, end = (int(value) for value in self._ends[number])
        if not 0 <= start <= end:
            raise BadRowError(f"{_ENDS} that are not in order")
        return row_of(lambda name: self._of_boxes(name, number, start, end))

    def _of_image(self, name: str, number: int) -> Stored | None:
        array = _array(self._file, name)
        if array is None:
            return None
        if array.shape[:1] != self._ids.shape[:1]:
            raise BadRowError(f"{name} of {array.shape} for {len(self._ids)} images")
        return Stored(array.shape[1:], array.dtype, lambda: np.asarray(array[number]))

    def _of_boxes(self, name: str, number: int, start: int, end: int) -> Stored | None:
        """The part of an array that belongs to an image; its name decides if its rows are for images or for boxes."""
        if name in (*HEIGHT, *WIDTH, *GLOBAL):
            return self._of_image(name, number)
        array = None if name in NUMBER else _array(self._file, name)
        if array is None:
            return None
        if not array.shape or end > array.shape[0]:
            raise BadRowError(f"{_ENDS} beyond the end of {name}")
        return Stored((end - start, *array.shape[1:]), array.dtype, lambda: np.asarray(array[start:end]))


def _array(group: Any, name: str) -> Any:
    """The array with a name in a group; None if there is none. Raises BadRowError if its data is in another file."""
    array = _within(group, name)
    if getattr(array, "shape", None) is None:
        return None
    if array.external or array.is_virtual:
        raise BadRowError("an array that lies in other files, which are never opened")
    if array.chunks is not None:
        _check_bytes(math.prod(array.chunks) * array.dtype.itemsize)
    return array


def _within(group: Any, name: str) -> Any:
    """The group or array with a name; None if there is none. Raises BadRowError if it is in another file."""
    import h5py

    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise BadRowError("a link to another file, which is never followed")
    return None if link is None else group.get(name)


def _check_bytes(size: int) -> None:
    """Raise BadRowError if a piece that HDF5 always reads as a whole is too large."""
    if size > _MAX_PIECE_BYTES:
        raise BadRowError(f"a piece over {_MAX_PIECE_BYTES >> 20} MiB")


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return None
    return str(value).strip() or None if isinstance(value, (str, int)) else None
