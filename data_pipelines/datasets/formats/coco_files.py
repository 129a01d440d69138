"""COCO photographs on disk: the same ones under the same ids, whatever the year of the folder that they lie in.

An annotation may name its file. Then that file is its image, whatever the id says: programs that export sets in COCO's
format number the images anew.
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

PAGE = "https://cocodataset.org/#download"


@dataclasses.dataclass(frozen=True)
class Photographs:
    """The images in COCO's folders.

    Attributes:
      source_dir: where the folders lie.
      by_id: COCO id -> file, of those whose names tell it.
      by_name: file name -> file; the first folder wins.
    """

    source_dir: Path
    by_id: Mapping[int, Path]
    by_name: Mapping[str, Path]

    def candidate(self, coco_id: int, texts: Sequence[Any], published_as: str, labels: Sequence[str] = ()) -> Candidate:
        """A COCO image, in whichever folder it was found; `published_as` names it where it was not."""
        path = self.by_id.get(coco_id)
        return Candidate(f"coco/{coco_id}", texts, reader(path), str(path or published_as), labels)

    def named(
        self, file_name: str, stated_id: int | None, texts: Sequence[Any], folder: str, shared: Container[str] = ()
    ) -> Candidate:
        """The image of an annotation that names its file.

        Args:
          file_name: as the annotation has it, perhaps with folders.
          stated_id: the image's number there.
          texts: its captions.
          folder: of its split, such as train2017.
          shared: last parts of names that several files of the annotation have.
        """
        name = PurePosixPath(file_name.replace("\\", "/"))
        elsewhere = name.is_absolute() or ".." in name.parts  # on the machine that wrote it
        if elsewhere:
            name = PurePosixPath(name.name)
        coco_id = karpathy.coco_id_of(name.name)
        path = None if elsewhere and name.name in shared else self._exact(name, folder, shared)
        if path is None and coco_id is None and name.stem == str(stated_id):  # 139.jpg, where 000000000139.jpg lies
            coco_id = stated_id if stated_id in self.by_id else None
        if path is None and coco_id is not None:
            path = self.by_id.get(coco_id)
        identity = f"coco_captions/{folder}/{name}" if coco_id is None else f"coco/{coco_id}"
        return Candidate(identity, texts, reader(path), str(path or f"{folder}/{name}"))

    def _exact(self, name: PurePosixPath, folder: str, shared: Container[str]) -> Path | None:
        """The file of that very name: in the folder of its split, or in another one where only one image has it."""
        if len(name.parts) > 1 or name.name in shared:
            places = (self.source_dir / folder / name, self.source_dir / name)
            if path := next((place for place in places if _is_there(place)), None):
                return path
        if name.name in shared:
            return None
        path = self.by_name.get(name.name)
        if path is not None and path.parent.name != folder and _is_there(own := self.source_dir / folder / name.name):
            return own
        return path


def _is_there(path: Path) -> bool:
    """Whether it is a file; names that no file can have are not there."""
    try:
        return path.is_file()
    except OSError:
        return False


def find_photographs(source_dir: Path, folders: Sequence[str]) -> Photographs:
    """All images in those of the folders that are there.

    Raises:
      DataError: none of them is there.
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
    """Last parts of names that several different files have, so that they alone name none of these."""
    counts = collections.Counter(PurePosixPath(name).name for name in {n.replace("\\", "/") for n in file_names})
    return frozenset(name for name, count in counts.items() if count > 1)


def disagrees(file_name: str, stated_id: int | None) -> bool:
    """Whether the number in a file name is another one than the id that is stated."""
    number = karpathy.coco_id_of(PurePosixPath(file_name.replace("\\", "/")).name)
    return number is not None and stated_id is not None and number != stated_id
