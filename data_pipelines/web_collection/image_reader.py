"""The encoded bytes of an image from where they lie, as often as they are needed."""

from pathlib import Path
from typing import Any, BinaryIO

from data_pipelines.datasets.layout import source_below
from data_pipelines.images.files import MAX_BYTES, BadImageError
from data_pipelines.web_collection import parquet
from data_pipelines.web_collection.samples import Place


class ImageReader:
    """Reads images near each other fast: the last tar file stays open, the last row group stays in memory."""

    def __init__(self, source: Path, image_folder: Path | None) -> None:
        """Args: source: the folder of the files; image_folder: of the images that Parquet files name."""
        self._source, self._image_folder = source, image_folder
        self._tar: tuple[str, BinaryIO] | None = None
        self._rows: tuple[tuple[str, int], Any] | None = None

    def read(self, place: Place) -> bytes:
        """Encoded bytes; raises BadImageError if the file is missing, unreadable or too large."""
        try:
            if place.path:
                return self._read_file(place.path)
            if parquet.is_parquet(place.file):
                return self._read_row(place)
            return self._read_tar(place)
        except OSError as error:
            raise BadImageError(f"cannot be read: {error.strerror or 'input/output error'}") from error

    def close(self) -> None:
        """Let go of the file that is open."""
        if self._tar is not None:
            self._tar[1].close()
        self._tar = self._rows = None

    def _read_file(self, path: str) -> bytes:
        read = source_below(self._image_folder, path).read
        if read is None:
            raise BadImageError("missing file")
        return read()

    def _read_tar(self, place: Place) -> bytes:
        _check_size(place.size)
        if self._tar is None or self._tar[0] != place.file:
            self.close()
            self._tar = place.file, (self._source / place.file).open("rb")
        file = self._tar[1]
        file.seek(place.start)
        return file.read(place.size)

    def _read_row(self, place: Place) -> bytes:
        key = place.file, place.start
        if self._rows is None or self._rows[0] != key:
            self._rows = key, parquet.read_images(self._source / place.file, place.start)
        encoded = self._rows[1][place.size]
        if encoded is None:
            raise BadImageError("no image")
        _check_size(len(encoded))
        return encoded


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise BadImageError(f"file over {MAX_BYTES >> 20} MiB")
