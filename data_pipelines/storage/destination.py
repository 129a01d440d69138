"""Where the files of a data set go once they are whole: they stay, or they are moved to a bucket one by one."""

import time
from collections.abc import Callable
from pathlib import Path

from etils import epath

from data_pipelines.errors import DataError
from data_pipelines.progress import LINE_EVERY
from data_pipelines.storage.bucket_errors import reason
from data_pipelines.storage.transfer import download, move, upload


class StayHere:
    """Files stay in the folder where they were written."""

    def put(self, file: Path) -> None:
        """Take a file that is whole."""

    def fetch(self, file: Path) -> None:
        """Give a file back, to be read and removed."""

    def rename(self, file: Path, target: Path) -> None:
        """Rename a file that was put."""
        file.rename(target)


class ToBucket:
    """Files are uploaded to a folder in a bucket under their own names, and removed here."""

    def __init__(self, folder: epath.Path, note: Callable[[str], None] = lambda line: None) -> None:
        """Args: folder: in the bucket. note: called with a line about each upload."""
        self._folder, self.note = folder, note
        self.check: Callable[[], None] = lambda: None  # raises DataError where this run must not write any more

    def put(self, file: Path) -> None:
        """Upload a file that is whole, and remove it here; raises DataError if the bucket does not take it."""
        self.check()
        size = file.stat().st_size
        try:
            upload(file, self._folder / file.name, self._progress_of(file.name, size))
        except OSError as error:
            raise DataError(
                f"{file.name} cannot be uploaded to {self._folder} ({reason(error)}); run the same command again."
            ) from error
        file.unlink()
        self.note(f"uploaded {file.name}: {size / (1 << 20):,.1f} MiB")

    def _progress_of(self, name: str, size: int) -> Callable[[int], None]:
        """To be called with the bytes that are uploaded; a line every few seconds says so."""
        began = last = time.monotonic()

        def sent(count: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= LINE_EVERY and 0 < count < size:
                last, left = now, (now - began) * (size - count) / count
                self.note(
                    f"uploading {name}: {count / (1 << 20):,.1f} of {size / (1 << 20):,.1f} MiB, "
                    f"{left / 60:,.1f} minutes left"
                )

        return sent

    def fetch(self, file: Path) -> None:
        """Download a file, and remove it in the bucket; raises DataError if that fails."""
        self.check()
        try:
            download(self._folder / file.name, file)
            (self._folder / file.name).unlink()
        except OSError as error:
            raise DataError(
                f"{self._folder / file.name} cannot be read again ({reason(error)}); run the same command again."
            ) from error

    def rename(self, file: Path, target: Path) -> None:
        """Rename a file that was put; the bucket copies it without this machine."""
        self.check()
        move(self._folder / file.name, self._folder / target.name)
