"""The elements of the pipeline: an image as found on a page, and later an image with its remaining texts."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, order=True)
class Location:
    """The location of the encoded bytes of an image, so that the bytes need not pass between the stages.

    Attributes:
      file: file that lists the image, relative to the source folder.
      number: number of the record in this file, from 0.
      start, size: in a tar file, the first byte and the number of bytes; in a Parquet file, the row group and the row
        in it.
      path: path of an image file, relative to the image folder; "" if `file` contains the bytes.
    """

    file: str
    number: int
    start: int = 0
    size: int = 0
    path: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.number}" + (f" ({self.path})" if self.path else "")


@dataclasses.dataclass(frozen=True)
class Found:
    """One image as found on one page.

    Attributes:
      location: location of the image.
      texts: unchecked texts of the page about the image; the items may have any type.
      language: unchecked language of the page.
      page: address of the page, or "".
    """

    location: Location
    texts: Sequence[object]
    language: object = None
    page: str = ""


@dataclasses.dataclass(frozen=True)
class WebImage:
    """An image that can be decoded, with its remaining texts.

    Attributes:
      sha256: hash of the encoded bytes, which identifies the image.
      location: location of the image; the first one if there are several.
      format: "JPEG", "PNG", ...
      height, width: size in pixels.
      image_hash: perceptual hash of 64 bits.
      texts: cleaned texts.
      language, page: language and address of the page.
      score: score of the only remaining text; None without a model.
    """

    sha256: str
    location: Location
    format: str
    height: int
    width: int
    image_hash: int
    texts: tuple[str, ...]
    language: str = ""
    page: str = ""
    score: float | None = None
