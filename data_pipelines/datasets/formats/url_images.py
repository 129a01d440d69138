"""Images that were downloaded from their URLs, found again under the names that downloaders give them.

A name does not say which of the rules below it follows, and may fit several. So each rule is tried on the whole list,
and the one that finds the most images holds for all of them, the earlier of equals.
"""

import dataclasses
import hashlib
import os
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.datasets.candidates import FileBytes
from data_pipelines.datasets.layout import IMAGE_SUFFIXES
from data_pipelines.errors import DataError

ReadUrls = Callable[[], Iterable[tuple[str, str]]]  # URL and caption of each row of a list, anew at each call
_MOST_DIGITS = 31  # longer runs of digits are no numbers but hashes


@dataclasses.dataclass(slots=True)
class ImageFile:
    """`Candidate.read` for a file whose path is parsed only when it is read: a list may have millions."""

    path: str

    def __call__(self) -> bytes:
        return FileBytes(Path(self.path))()


@dataclasses.dataclass(frozen=True)
class Naming:
    """How a downloader names an image.

    Attributes:
      what: the rule, for messages.
      stem: the name without its suffix; takes the number of the row, from 0, and the URL.
    """

    what: str
    stem: Callable[[int, str], str]


ROW_NUMBER = Naming("row number, counted from 0", lambda row, url: str(row))
ROW_NUMBER_FROM_1 = Naming("row number, counted from 1", lambda row, url: str(row + 1))
ROW_NUMBERS = (ROW_NUMBER, ROW_NUMBER_FROM_1)
NAMINGS = (
    *ROW_NUMBERS,
    Naming("row number and CRC-32 of the URL", lambda row, url: f"{row}_{_crc32(url)}"),
    Naming("row number, counted from 1, and CRC-32 of the URL", lambda row, url: f"{row + 1}_{_crc32(url)}"),
    Naming("MD5 of the URL", lambda row, url: url_digest(url)),
    Naming("SHA-1 of the URL", lambda row, url: hashlib.sha1(_encoded(url)).hexdigest()),
    Naming("CRC-32 of the URL", lambda row, url: str(_crc32(url))),
    Naming("last part of the URL", lambda row, url: _last_parts(url, 1)),
    Naming("last two parts of the URL, joined by _", lambda row, url: _last_parts(url, 2)),
)


def url_digest(url: str) -> str:
    """MD5 of a URL, in hex."""
    return hashlib.md5(_encoded(url)).hexdigest()


def is_image(name: str) -> bool:
    """Whether a file name ends as one of an image does."""
    return bool(_without_suffix(name)[1])


class ImageFolder:
    """The images in a folder, and in the folders in it, by name; files without any suffix count as images.

    One listing, no look at the files; about 200 bytes of memory an image.
    """

    def __init__(self, path: Path) -> None:
        """Args: path: of the folder; OSError if it cannot be read."""
        self.path = path
        self.repeated_number = ""  # a file with the number of another one
        self.min_number, self.max_number = 10**_MOST_DIGITS, -1
        self._places: dict[str, tuple[str, int, str]] = {}  # stem -> folder, digits to pad it to, suffix
        self._shared: dict[tuple[str, int, str], tuple[str, int, str]] = {}
        for folder in self._add(str(path)):
            self._add(folder)

    def _add(self, folder: str) -> list[str]:
        """Take the images of one folder; returns the folders in it."""
        folders = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                    continue
                written, suffix = _without_suffix(entry.name)
                if suffix or "." not in entry.name:
                    self._add_image(folder, written, suffix)
        return folders

    def _add_image(self, folder: str, written: str, suffix: str) -> None:
        stem, digits = written, 0
        if _is_number(written):
            stem, digits = _plain(written), len(written)
            self.min_number, self.max_number = min(self.min_number, int(stem)), max(self.max_number, int(stem))
            if stem in self._places:
                self.repeated_number = max(self.repeated_number, f"{folder}/{written}{suffix}")
        place = (folder, digits, suffix)
        place = self._shared.setdefault(place, place)
        # Not the first that is listed: the order of a listing is the file system's.
        self._places[stem] = min(place, self._places.get(stem, place))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, stem: str) -> bool:
        return stem in self._places

    def __iter__(self) -> Iterator[str]:
        """The stems."""
        return iter(self._places)

    def find(self, stem: str) -> str | None:
        """Path of the image of that name, None if there is none."""
        place = self._places.get(stem)
        if place is None:
            return None
        folder, digits, suffix = place
        return f"{folder}/{stem.zfill(digits)}{suffix}"

    def forget(self, stems: Iterable[str]) -> None:
        """As if the images of those names were not there."""
        for stem in stems:
            del self._places[stem]


def choose_naming(
    folder: ImageFolder, place: str, read_urls: ReadUrls, namings: Sequence[Naming], first_row: str = ""
) -> Naming:
    """The rule that finds the most images of the list at `place`, the first of equals.

    Args:
      folder: of the images.
      place: of the list, for messages.
      read_urls: gives its rows.
      namings: the rules to try.
      first_row: "0" or "1", the number of the first row where images are named by those; "": found out.

    Raises:
      DataError: the list is empty, no rule finds an image of it, or the images are named by numbers that cannot be
        those of its rows, or may be so in both ways of counting.
    """
    counts, rows, first = [0] * len(namings), 0, ""
    for row, (url, _) in enumerate(read_urls()):
        first = first or url
        rows += 1
        for i, naming in enumerate(namings):
            counts[i] += naming.stem(row, url) in folder
    if not rows:
        raise DataError(f"{place} lists no image; download it again.")
    most = max(counts)
    if not most:
        looked_for = ", ".join(f"{naming.stem(0, first)}.jpg ({naming.what})" for naming in namings)
        raise DataError(
            f"None of the {len(folder):,} images in {folder.path} is one of the {rows:,} of {place}: for {first} it "
            f"looked for {looked_for}, there and in the folders in it; rename the images, or move that list away."
        )
    naming = namings[counts.index(most)]
    return _way_of_counting(folder, place, rows, first_row) if naming in ROW_NUMBERS else naming


def _way_of_counting(folder: ImageFolder, place: str, rows: int, first_row: str) -> Naming:
    """From 0 or from 1; the numbers that only one of them has decide, or else `first_row`.

    Numbers that are not those of the rows would give every image the caption of another one.
    """
    if folder.repeated_number:
        raise DataError(
            f"{folder.repeated_number} has the number of another image in {folder.path}, so the numbers there are not "
            "those of the rows; name the images by the MD5 of their URLs."
        )
    from_0, from_1 = "0" in folder, folder.max_number >= rows
    start = int(first_row) if first_row else int(from_1 and not from_0)
    if folder.max_number >= rows + start:
        raise DataError(
            f"{folder.path} has an image number {folder.max_number}, but {place} has only {rows:,} rows, counted from "
            f"{start}, so the numbers are not those of its rows; give the list that the images were downloaded from, "
            "or name them by the MD5 of their URLs."
        )
    if from_0 and start == 1:
        raise DataError(
            f"{folder.path} has an image number 0, so the rows were not counted from 1; leave --first_row=1 out."
        )
    if not first_row and not from_0 and not from_1:
        raise DataError(
            f"{folder.path} has images numbered {folder.min_number} to {folder.max_number}, which fit the {rows:,} "
            f"rows of {place} counted from 0 and from 1 alike; give --first_row=0 or --first_row=1, the number that "
            "the downloader gave to the first row."
        )
    return ROW_NUMBERS[start]


def forget_ambiguous(folder: ImageFolder, read_urls: ReadUrls, naming: Naming) -> int:
    """Forget the images whose name fits several URLs, for nothing tells whose they are; returns how many."""
    stems, urls = array("q"), array("q")
    for row, (url, _) in enumerate(read_urls()):
        stem = naming.stem(row, url)
        if stem in folder:
            stems.append(hash(stem))
            urls.append(hash(url))
    stems_N, urls_N = np.array(stems, np.int64), np.array(urls, np.int64)
    order_N = np.lexsort((urls_N, stems_N))
    stems_N, urls_N = stems_N[order_N], urls_N[order_N]
    several = (stems_N[1:] == stems_N[:-1]) & (urls_N[1:] != urls_N[:-1])
    ambiguous = frozenset(stems_N[1:][several].tolist())
    if ambiguous:
        folder.forget([stem for stem in folder if hash(stem) in ambiguous])
    return len(ambiguous)


def _encoded(url: str) -> bytes:
    return url.encode("utf-8", "surrogatepass")


def _crc32(url: str) -> int:
    return zlib.crc32(_encoded(url))


def _last_parts(url: str, count: int) -> str:
    path = url.partition("?")[0].partition("#")[0].rstrip("/")
    return _plain(_without_suffix("_".join(path.split("/")[-count:]))[0])


def _without_suffix(name: str) -> tuple[str, str]:
    """Name and suffix of an image; no suffix where it is not one of an image."""
    stem, _, ending = name.rpartition(".")
    return (stem, f".{ending}") if stem and f".{ending.lower()}" in IMAGE_SUFFIXES else (name, "")


def _is_number(stem: str) -> bool:
    return stem.isascii() and stem.isdigit() and len(stem) <= _MOST_DIGITS


def _plain(stem: str) -> str:
    """A number without its leading zeros; anything else as it is."""
    return stem.lstrip("0") or "0" if _is_number(stem) else stem
