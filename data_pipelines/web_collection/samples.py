"""What goes through the stages: an image as a page shows it, then an image with the texts that are left."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """Where the encoded bytes of an image lie, so that they need not travel from stage to stage.

    Attributes:
      file: the file that lists the image, relative to the source folder.
      number: of the record in that file, from 0.
      start, size: in a tar file, first byte and number of bytes; in a Parquet file, row group and row in it.
      path: of an image file, relative to the image folder; "" where the bytes lie in `file`.
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
    """One image as one page shows it.

    Attributes:
      place: of the image.
      texts: what the page says of it, as found; anything may be in it.
      language: of the page, as found.
      page: its address, or "".
    """

    place: Place
    texts: Sequence[object]
    language: object = None
    page: str = ""


@dataclasses.dataclass(frozen=True)
class WebImage:
    """An image that decodes, with the texts that are left.

    Attributes:
      sha256: of the encoded bytes; the identity of the image.
      place: where it was found, the first place if there are several.
      format: "JPEG", "PNG", ...
      height, width: in pixels.
      fingerprint: 64 bits that images alike have in common.
      texts: cleaned.
      language, page: of the page.
      score: of the only text that is left; None if no model was asked.
    """

    sha256: str
    place: Place
    format: str
    height: int
    width: int
    fingerprint: int
    texts: tuple[str, ...]
    language: str = ""
    page: str = ""
    score: float | None = None
