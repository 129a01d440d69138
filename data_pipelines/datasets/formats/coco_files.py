"""COCO photographs on disk: a photograph has the same id in the folders of all years.

If an annotation names its file, the file is the image, whatever the id is, because programs that export data sets in
COCO's format assign new ids.
"""

import collections
import dataclasses
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipelines.datasets.candidates import Candidate
from data_pipelines.datasets.formats import karpathy
from data_pipelines.datasets.layout import list_images, reader
from data_pipelines.errors import DataError
from data_pipelines.storage.paths import is_file

PAGE = "https://cocodataset.org/#download"


@dataclasses.dataclass(frozen=True)
class Photographs:
    """The images in COCO's folders.

    Attributes:
      source_dir: parent of the folders.
      by_id: COCO id -> file, for file names with a COCO id.
      by_name: file name -> file; the first folder has priority.
    """

    source_dir: Path
    by_id: Mapping[int, Path]
    by_name: Mapping[str, Path]

    def candidate(self, coco_id: int, texts: Sequence[Any], published_as: str, labels: Sequence[str] = ()) -> Candidate:
        """A candidate for a COCO image in any folder; `published_as` is its location for messages if it is missing."""
        path = self.by_id.get(coco_id)
        return Candidate(f"coco/{coco_id}", texts, reader(path), str(path or published_as), labels)

    def named(
        self, file_name: str, stated_id: int | None, texts: Sequence[Any], folder: str, shared: Container[str] = ()
    ) -> Candidate:
        """A candidate for the image of an annotation that names its file.

        Args:
          file_name: file name in the annotation, which may include folders.
          stated_id: image id in the annotation.
          texts: captions of the image.
          folder: folder of the split, such as train2017.
          shared: last parts of file names that several files of the annotation have.
        """
        name = PurePosixPath(file_name.replace("\\", "/"))
        elsewhere = name.is_absolute() or ".." in name.parts  # a path on the machine that wrote the annotation
        if elsewhere:
            name = PurePosixPath(name.name)
        coco_id = karpathy.coco_id_of(name.name)
        path = None if elsewhere and name.name in shared else self._exact(name, folder, shared)
        if path is None and coco_id is None and name.stem == str(stated_id):  # 139.jpg for the file 000000000139.jpg
            coco_id = stated_id if stated_id in self.by_id else None
        if path is None and coco_id is not None:
            path = self.by_id.get(coco_id)
        identity = f"coco_captions/{folder}/{name}" if coco_id is None else f"coco/{coco_id}"
        return Candidate(identity, texts, reader(path), str(path or f"{folder}/{name}"))

    def _exact(self, name: PurePosixPath, folder: str, shared: Container[str]) -> Path | None:
        """The file with exactly this name: in the folder of its split, or in another one if only one image has it."""
        if len(name.parts) > 1 or name.name in shared:
            locations = (self.source_dir / folder / name, self.source_dir / name)
            if path := next((location for location in locations if is_file(location)), None):
                return path
        if name.name in shared:
            return None
        path = self.by_name.get(name.name)
        if path is not None and path.parent.name != folder and is_file(own := self.source_dir / folder / name.name):
            return own
        return path


def find_photographs(source_dir: Path, folders: Sequence[str]) -> Photographs:
    """All images in those of the folders that exist.

    Raises:
      DataError: none of the folders exists.
    """
    found = [path for name in folders if (path := source_dir / name).is_dir()]
    if not found:
        raise DataError(
            f"No COCO images in {source_dir}: looked for folders {', '.join(folders)}; unpack them there, from {PAGE}."
        )
    paths = list_images(found)
    by_id = {number: path for name, path in paths.items() if (number := karpathy.coco_id_of(name)) is not None}
    return Photographs(source_dir, by_id, paths)


def shared_names(file_names: Iterable[str]) -> frozenset[str]:
    """Last parts of file names that several different files have, so that they do not identify a file."""
    counts = collections.Counter(PurePosixPath(name).name for name in {n.replace("\\", "/") for n in file_names})
    return frozenset(name for name, count in counts.items() if count > 1)


def disagrees(file_name: str, stated_id: int | None) -> bool:
    """Whether the number in a file name differs from the stated id."""
    number = karpathy.coco_id_of(PurePosixPath(file_name.replace("\\", "/")).name)
    return number is not None and stated_id is not None and number != stated_id
