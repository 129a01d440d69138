"""Read the encoded bytes of an image from its source file, each time that they are needed."""

from pathlib import Path
from typing import Any, BinaryIO

from data_pipelines.datasets.layout import source_below
from data_pipelines.images.files import MAX_BYTES, BadImageError
from data_pipelines.web_collection import parquet
from data_pipelines.web_collection.samples import Location


class ImageReader:
    """Reads images; reading of neighbouring images is fast.

    The last tar file stays open, and the last row group stays in memory.
    """

    def __init__(self, source: Path, image_folder: Path | None) -> None:
        """Args: source: folder of the source files; image_folder: folder of the images that Parquet files name."""
        self._source, self._image_folder = source, image_folder
        self._tar: tuple[str, BinaryIO] | None = None
        self._rows: tuple[tuple[str, int], Any] | None = None

    def read(self, location: Location) -> bytes:
        """Read the encoded bytes; raises BadImageError if the file is missing, unreadable or too large."""
        try:
            if location.path:
                return self._read_file(location.path)
            if parquet.is_parquet(location.file):
                return self._read_row(location)
            return self._read_tar(location)
        except OSError as error:
            raise BadImageError(f"cannot be read: {error.strerror or 'input/output error'}") from error

    def close(self) -> None:
        """Close the open file and release the memory."""
        if self._tar is not None:
            self._tar[1].close()
        self._tar = self._rows = None

    def _read_file(self, path: str) -> bytes:
        read = source_below(self._image_folder, path).read
        if read is None:
            raise BadImageError("missing file")
        return read()

    def _read_tar(self, location: Location) -> bytes:
        _check_size(location.size)
        if self._tar is None or self._tar[0] != location.file:
            self.close()
            self._tar = location.file, (self._source / location.file).open("rb")
        file = self._tar[1]
        file.seek(location.start)
        return file.read(location.size)

    def _read_row(self, location: Location) -> bytes:
        key = location.file, location.start
        if self._rows is None or self._rows[0] != key:
            self._rows = key, parquet.read_images(self._source / location.file, location.start)
        encoded = self._rows[1][location.size]
        if encoded is None:
            raise BadImageError("no image")
        _check_size(len(encoded))
        return encoded


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise BadImageError(f"file over {MAX_BYTES >> 20} MiB")
