"""Visual Genome: photographs with about fifty short descriptions of regions each.

Half of its photographs are also in COCO. Those of COCO's validation and test splits (Karpathy's)
are left out, or a model would be pre-trained on the images that it is tested on.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ijson
import tensorflow_datasets as tfds

from data_pipelines.datasets import karpathy
from data_pipelines.datasets.base import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.coco_captions import KARPATHY_FILES, find_karpathy
from data_pipelines.datasets.layout import field, list_images, load_json, reader, require
from data_pipelines.errors import DataError

_PAGE = "https://homes.cs.washington.edu/~ranjay/visualgenome/api.html"
_IMAGE_FOLDERS = ("VG_100K", "VG_100K_2", "images/VG_100K", "images2/VG_100K_2")
_LEFT_OUT_SPLITS = ("val", "test")


class VisualGenome(ImageTextBuilder):
    """Visual Genome photographs with the descriptions of their regions."""

    name = "visual_genome"
    VERSION = tfds.core.Version("1.0.0")
    OPTIONS = {"karpathy_json": "", "keep_coco_test": False}
    PATH_OPTIONS = ("karpathy_json",)

    def candidates(self) -> dict[str, Candidates]:
        """One split, train."""
        regions = self._require("region_descriptions.json", "descriptions of regions")
        image_data = self._require("image_data.json", "list of images")
        folders = [path for name in _IMAGE_FOLDERS if (path := self.source_dir / name).is_dir()]
        if not folders:
            raise DataError(
                f"No Visual Genome images in {self.source_dir}: looked for folders "
                f"{', '.join(_IMAGE_FOLDERS)}; unpack them there, from {_PAGE}."
            )
        left_out = self._left_out()
        identities: dict[int, str | None] = {}  # None: left out
        for image in load_json(image_data):
            number, coco_id = field(image, "image_id", int, image_data), image.get("coco_id")
            identity = f"coco/{coco_id}" if coco_id is not None else f"{self.name}/{number}"
            identities[number] = None if coco_id in left_out else identity
        count = sum(identity is None for identity in identities.values())
        if not self.options["keep_coco_test"]:
            self.notes.append(f"{count:,} images of COCO's val and test splits left out")
        paths = list_images(folders)
        missing = [
            name
            for number, identity in identities.items()
            if identity is not None and (name := f"{number}.jpg") not in paths
        ]
        items = _read_regions(regions, identities, paths)
        return {"train": Candidates(items, len(identities) - count, missing)}

    def _require(self, name: str, what: str) -> Path:
        return require(self.source_dir, (name,), what, f"unpack it there, from {_PAGE}")

    def _left_out(self) -> frozenset[int]:
        """COCO ids that must not be trained on."""
        if self.options["keep_coco_test"]:
            return frozenset()
        path = find_karpathy(self.source_dir, self.options["karpathy_json"])
        if path is None:
            raise DataError(
                f"No list of COCO's test images in {self.source_dir}: looked for "
                f"{', '.join(KARPATHY_FILES)}; give --karpathy_json=.../dataset_coco.json so that "
                "they are left out, or --keep_coco_test to keep them."
            )
        return karpathy.coco_ids(path, _LEFT_OUT_SPLITS)


def _read_regions(path: Path, identities: Mapping[int, str | None], paths: Mapping[str, Path]) -> Iterator[Candidate]:
    """Candidates in the order of the file, which is 700 MB and therefore read as a stream."""
    with path.open("rb") as file:
        for image in _stream(file, path):
            number = image.get("id", image.get("image_id")) if isinstance(image, Mapping) else None
            regions = field(image, "regions", list, path)
            if number is None and regions:
                number = field(regions[0], "image_id", int, path)
            if number not in identities:
                raise DataError(
                    f"{path} describes image {number}, which image_data.json does not list; "
                    "download both again, of one version."
                )
            identity = identities[number]
            if identity is not None:
                found = paths.get(f"{number}.jpg")
                texts = [region.get("phrase") for region in regions if isinstance(region, Mapping)]
                yield Candidate(identity, texts, reader(found), str(found or f"{number}.jpg"))


def _stream(file: Any, path: Path) -> Iterator[Any]:
    try:
        yield from ijson.items(file, "item", use_float=True)
    except ijson.JSONError as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} is not whole JSON ({reason}); download it again.") from error
