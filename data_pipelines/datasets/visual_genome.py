"""Visual Genome: photographs with about fifty short descriptions of regions each.

Half of the photographs are also in COCO. Those in Karpathy's validation and test splits of COCO are skipped; otherwise
a model would be pre-trained on the images that it is tested on.
"""

import dataclasses
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import tensorflow_datasets as tfds

from data_pipelines.datasets.builder import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.coco_captions import KARPATHY_FILES, find_karpathy
from data_pipelines.datasets.formats import karpathy
from data_pipelines.datasets.layout import field, list_images, load_json, reader, require, stream_json
from data_pipelines.errors import DataError, short_repr

_PAGE = "https://homes.cs.washington.edu/~ranjay/visualgenome/api.html"
_IMAGE_FOLDERS = ("VG_100K", "VG_100K_2", "images/VG_100K", "images2/VG_100K_2")
_SKIPPED_SPLITS = ("val", "test")


@dataclasses.dataclass(frozen=True)
class Photographs:
    """The photographs of Visual Genome.

    Attributes:
      identities: number of a photograph in Visual Genome -> image id of its record; None: skipped.
      paths: file name -> file.
      names: number -> file name, for photographs whose file has another name than their number.
    """

    identities: Mapping[int, str | None]
    paths: Mapping[str, Path]
    names: Mapping[int, str] = dataclasses.field(default_factory=dict)

    @property
    def num_skipped(self) -> int:
        """Number of skipped photographs."""
        return sum(identity is None for identity in self.identities.values())

    def candidates(self, items: Iterator[Candidate]) -> Candidates:
        """A split with all photographs that are not skipped."""
        numbers = [number for number, identity in self.identities.items() if identity is not None]
        missing = [name for number in numbers if (name := self._name(number)) not in self.paths]
        return Candidates(items, len(numbers), missing)

    def candidate(self, number: int, texts: Sequence[object], labels: Sequence[str] = ()) -> Candidate:
        """A candidate for a photograph that is not skipped."""
        path = self.paths.get(self._name(number))
        return Candidate(self.identities[number], texts, reader(path), str(path or self._name(number)), labels)

    def notes(self) -> list[str]:
        """Lines for the summary."""
        what = "images whose url in image_data.json has another name than their number; the url counts"
        return [f"{len(self.names):,} {what}"] if self.names else []

    def _name(self, number: int) -> str:
        return self.names.get(number, f"{number}.jpg")


def find_photographs(source_dir: Path, skipped: Container[int]) -> Photographs:
    """Read image_data.json and find the images; images with a COCO id in `skipped` are skipped.

    Raises:
      DataError: the list or the folders of images are missing or damaged.
    """
    image_data = require_file(source_dir, "image_data.json", "list of images")
    folders = [path for name in _IMAGE_FOLDERS if (path := source_dir / name).is_dir()]
    if not folders:
        raise DataError(
            f"No Visual Genome images in {source_dir}: looked for folders "
            f"{', '.join(_IMAGE_FOLDERS)}; unpack them there, from {_PAGE}."
        )
    paths, names = list_images(folders), {}
    identities: dict[int, str | None] = {}
    listed = load_json(image_data)
    if not isinstance(listed, list):
        raise DataError(f"{image_data} is not a list of images; download it again, from {_PAGE}.")
    for image in listed:
        number = field(image, "image_id", int, image_data)
        coco_id = karpathy.foreign_id(image.get("coco_id"))
        if not isinstance(coco_id, int | None):
            coco_id = field(image, "coco_id", int, image_data)
        identity = f"coco/{coco_id}" if coco_id is not None else f"visual_genome/{number}"
        identities[number] = None if coco_id in skipped else identity
        url = image.get("url")
        name = PurePosixPath(url.partition("?")[0]).name if isinstance(url, str) else ""
        # Sets that are exported in this format may have new numbers; other addresses do not name a file here.
        if name != f"{number}.jpg" and (name in paths or re.fullmatch(r"[0-9]+\.jpg", name)):
            names[number] = name
    return Photographs(identities, paths, names)


def require_file(source_dir: Path, name: str, what: str) -> Path:
    """A file of Visual Genome; raises DataError, which names the web page, if it is missing."""
    return require(source_dir, (name,), what, f"unpack it there, from {_PAGE}")


def read_entries(path: Path, key: str, photographs: Photographs) -> Iterator[tuple[int, list[Any]]]:
    """Number of the image and list `key` of each entry, without skipped images; read as a stream of a large file.

    Raises:
      DataError: the file is damaged, or has another version than image_data.json.
    """
    for image in stream_json(path, "item"):
        number = image.get("id", image.get("image_id")) if isinstance(image, Mapping) else None
        items = field(image, key, list, path)
        if number is None and items:
            number = field(items[0], "image_id", int, path)
        if not isinstance(number, int) or number not in photographs.identities:
            raise DataError(
                f"{path} describes image {short_repr(number)}, which image_data.json does not list; "
                "download both again, of one version."
            )
        if photographs.identities[number] is not None:
            yield number, items


class VisualGenome(ImageTextBuilder):
    """Visual Genome photographs with the descriptions of their regions."""

    name = "visual_genome"
    VERSION = tfds.core.Version("1.0.0")
    OPTIONS = {"karpathy_json": "", "keep_coco_test": False}
    PATH_OPTIONS = ("karpathy_json",)

    def candidates(self) -> dict[str, Candidates]:
        """The only split, train."""
        path = require_file(self.source_dir, "region_descriptions.json", "descriptions of regions")
        photographs = find_photographs(self.source_dir, self._skipped_coco_ids())
        if not self.options["keep_coco_test"]:
            self.notes.append(f"{photographs.num_skipped:,} images of COCO's val and test splits skipped")
        self.notes += photographs.notes()
        return {"train": photographs.candidates(_read_regions(path, photographs))}

    def _skipped_coco_ids(self) -> frozenset[int]:
        """COCO ids that must not be trained on."""
        if self.options["keep_coco_test"]:
            return frozenset()
        path = find_karpathy(self.source_dir, self.options["karpathy_json"])
        if path is None:
            raise DataError(
                f"No list of COCO's test images in {self.source_dir}: looked for "
                f"{', '.join(KARPATHY_FILES)}; give --karpathy_json=.../dataset_coco.json so that "
                "they are skipped, or --keep_coco_test to keep them."
            )
        return karpathy.coco_ids(path, _SKIPPED_SPLITS)


def _read_regions(path: Path, photographs: Photographs) -> Iterator[Candidate]:
    """Candidates in the order of the file."""
    for number, regions in read_entries(path, "regions", photographs):
        texts = [region.get("phrase") for region in regions if isinstance(region, Mapping)]
        yield photographs.candidate(number, texts)
