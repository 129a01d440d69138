"""Find images that were downloaded from URLs, by the file names that downloaders give them.

A file name does not tell which of the naming rules below it follows, and it may match several. So each rule is tried on
the whole list, and the rule that finds the most images is used for all images. If rules that disagree find
equally many, none is chosen.
"""

import dataclasses
import hashlib
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.datasets.candidates import FileBytes
from data_pipelines.datasets.layout import IMAGE_SUFFIXES
from data_pipelines.errors import DataError
from data_pipelines.storage.paths import as_path, entries

ReadUrls = Callable[[], Iterable[tuple[str, str]]]  # each call reads URL and caption of all rows of a list again
_MAX_DIGITS = 31  # longer sequences of digits are not numbers but hashes


@dataclasses.dataclass(slots=True)
class ImageFile:
    """`Candidate.read` for a file; the path is parsed only at reading, because a list may have millions of files."""

    path: str

    def __call__(self) -> bytes:
        return FileBytes(as_path(self.path))()


@dataclasses.dataclass(frozen=True)
class Naming:
    """A rule for the file name of a downloaded image.

    Attributes:
      what: description of the rule, for messages.
      stem: function from the row number (from 0) and the URL to the file name without suffix.
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
    """Whether a file name has the suffix of an image."""
    return bool(_without_suffix(name)[1])


class ImageFolder:
    """The images in a folder and its subfolders by name; files without a suffix count as images.

    The folders are listed once, and no file is opened. It takes about 200 bytes of memory per image.
    """

    def __init__(self, path: Path) -> None:
        """Args: path: path of the folder; raises OSError if it cannot be read."""
        self.path = path
        self.repeated_number = ""  # path of a file with the same number as another file
        self.min_number, self.max_number = 10**_MAX_DIGITS, -1
        self._locations: dict[str, tuple[str, int, str]] = {}  # stem -> (folder, number of padded digits, suffix)
        self._shared: dict[tuple[str, int, str], tuple[str, int, str]] = {}  # equal tuples are stored only once
        for folder in self._add(str(path)):
            self._add(folder)

    def _add(self, folder: str) -> list[str]:
        """Add the images of one folder; returns its subfolders."""
        folders = []
        for name, is_folder in entries(folder):
            if is_folder:
                folders.append(f"{folder}/{name}")
                continue
            written, suffix = _without_suffix(name)
            if suffix or "." not in name:
                self._add_image(folder, written, suffix)
        return folders

    def _add_image(self, folder: str, written: str, suffix: str) -> None:
        stem, digits = written, 0
        if _is_number(written):
            stem, digits = _plain(written), len(written)
            self.min_number, self.max_number = min(self.min_number, int(stem)), max(self.max_number, int(stem))
            if stem in self._locations:
                self.repeated_number = max(self.repeated_number, f"{folder}/{written}{suffix}")
        location = (folder, digits, suffix)
        location = self._shared.setdefault(location, location)
        # The minimum, because the order of a listing depends on the file system.
        self._locations[stem] = min(location, self._locations.get(stem, location))

    def __len__(self) -> int:
        return len(self._locations)

    def __contains__(self, stem: str) -> bool:
        return stem in self._locations

    def __iter__(self) -> Iterator[str]:
        """The stems."""
        return iter(self._locations)

    def find(self, stem: str) -> str | None:
        """Path of the image with a name; None if there is none."""
        location = self._locations.get(stem)
        if location is None:
            return None
        folder, digits, suffix = location
        return f"{folder}/{stem.zfill(digits)}{suffix}"

    def forget(self, stems: Iterable[str]) -> None:
        """Remove the images with the given names from this object."""
        for stem in stems:
            del self._locations[stem]


def choose_naming(
    folder: ImageFolder, location: str, read_urls: ReadUrls, namings: Sequence[Naming], first_row: str = ""
) -> Naming:
    """The rule that finds the most images of a list; if several do, and find the same images, the first one.

    Args:
      folder: folder of the images.
      location: location of the list, for messages.
      read_urls: returns the rows of the list.
      namings: the rules to try.
      first_row: "0" or "1", the number of the first row, if images are named by row numbers; "": detect it.

    Raises:
      DataError: the list is empty, or no rule finds an image of it; two rules fit equally well and disagree; or the
        images are named by numbers, and these cannot be row numbers, or match the rows with both ways of counting.
    """
    counts, rows, first = [0] * len(namings), 0, ""
    for row, (url, _) in enumerate(read_urls()):
        first = first or url
        rows += 1
        for i, naming in enumerate(namings):
            counts[i] += naming.stem(row, url) in folder
    if not rows:
        raise DataError(f"{location} lists no image; download it again.")
    most = max(counts)
    if not most:
        looked_for = ", ".join(f"{naming.stem(0, first)}.jpg ({naming.what})" for naming in namings)
        raise DataError(
            f"None of the {len(folder):,} images in {folder.path} is one of the {rows:,} of {location}: for {first} it "
            f"looked for {looked_for}, there and in the folders in it; rename the images, or move that list away."
        )
    naming = namings[counts.index(most)]
    if naming in ROW_NUMBERS:
        naming = _way_of_counting(folder, location, rows, first_row)
        if first_row:
            return naming
    for other, count in zip(namings, counts, strict=True):
        if count == most and other not in (naming, *ROW_NUMBERS):
            _check_agreement(folder, location, read_urls, naming, other)
    return naming


def _check_agreement(folder: ImageFolder, location: str, read_urls: ReadUrls, naming: Naming, other: Naming) -> None:
    """Raise DataError if an image belongs to different rows by two rules, of which neither is better."""
    for row, (url, _) in enumerate(read_urls()):
        stem = naming.stem(row, url)
        if stem in folder and stem != other.stem(row, url):
            start = ROW_NUMBERS.index(naming) if naming in ROW_NUMBERS else None
            flag = "" if start is None else f"give --first_row={start} if they are row numbers, otherwise "
            raise DataError(
                f"The names of the images in {folder.path} fit the rows of {location} as {naming.what} and as "
                f"{other.what} alike, and {folder.find(stem)} is of different rows; {flag}"
                "name the images by the MD5 of their URLs."
            )


def _way_of_counting(folder: ImageFolder, location: str, rows: int, first_row: str) -> Naming:
    """Count rows from 0 or from 1, depending on numbers that only one of the two has, or otherwise on `first_row`.

    This raises DataError for numbers that are not row numbers, because every image would get the caption of another.
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
            f"{folder.path} has an image number {folder.max_number}, but {location} has only {rows:,} rows, counted "
            f"from {start}, so the numbers are not those of its rows; give the list that the images were downloaded "
            "from, or name them by the MD5 of their URLs."
        )
    if from_0 and start == 1:
        raise DataError(
            f"{folder.path} has an image number 0, so the rows were not counted from 1; leave --first_row=1 out."
        )
    if not first_row and not from_0 and not from_1:
        raise DataError(
            f"{folder.path} has images numbered {folder.min_number} to {folder.max_number}, which fit the {rows:,} "
            f"rows of {location} counted from 0 and from 1 alike; give --first_row=0 or --first_row=1, the number "
            "that the downloader gave to the first row."
        )
    return ROW_NUMBERS[start]


def forget_ambiguous(folder: ImageFolder, read_urls: ReadUrls, naming: Naming) -> int:
    """Remove images whose name matches several URLs, because their URL is unknown; returns their number."""
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
    """The last parts of the path of a URL, joined by _ and without an image suffix."""
    path = url.partition("?")[0].partition("#")[0].rstrip("/")
    return _plain(_without_suffix("_".join(path.split("/")[-count:]))[0])


def _without_suffix(name: str) -> tuple[str, str]:
    """Name and suffix of an image; the suffix is empty if it is not an image suffix."""
    stem, _, ending = name.rpartition(".")
    return (stem, f".{ending}") if stem and f".{ending.lower()}" in IMAGE_SUFFIXES else (name, "")


def _is_number(stem: str) -> bool:
    return stem.isascii() and stem.isdigit() and len(stem) <= _MAX_DIGITS


def _plain(stem: str) -> str:
    """A number without leading zeros; other names are unchanged."""
    return stem.lstrip("0") or "0" if _is_number(stem) else stem
