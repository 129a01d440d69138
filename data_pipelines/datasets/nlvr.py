"""NLVR (version 1): drawings of three boxes with true or false sentences about them.

Each sentence has six drawings, which are the permutations of its three boxes. Each drawing is a record.
"""

from collections.abc import Mapping
from pathlib import Path

import tensorflow_datasets as tfds

from data_pipelines.datasets.builder import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates, FileBytes, Source
from data_pipelines.datasets.formats.json_lines import read_lines
from data_pipelines.datasets.formats.tar_images import list_tar_images
from data_pipelines.datasets.labels import Labeller, to_json, truth
from data_pipelines.datasets.layout import folders_below, list_images
from data_pipelines.errors import DataError, short_repr

# split -> possible prefixes of the names of its images
_SPLITS = {"train": ("train",), "train2": ("hidden", "train2"), "dev": ("dev",), "test": ("test",)}
_PERMUTATIONS = 6
_LINE = '{"sentence": "...", "identifier": "1572-0", "label": "true"}'
_PAGE = "https://github.com/lil-lab/nlvr/tree/master/nlvr"


class Nlvr(ImageTextBuilder):
    """Drawings of three boxes with a true or false sentence."""

    name = "nlvr"
    VERSION = tfds.core.Version("1.0.0")
    LABELLED = True

    def candidates(self) -> dict[str, Candidates]:
        """The splits train, train2, dev and test, if their files exist."""
        files = {split: self.source_dir / split / f"{split}.json" for split in _SPLITS}
        found = {split: path for split, path in files.items() if path.exists()}
        if not found:
            names = ", ".join(f"{split}/{split}.json" for split in _SPLITS)
            raise DataError(f"No sentences of NLVR in {self.source_dir}: looked for {names}; get them from {_PAGE}.")
        return {split: self._split(split, path) for split, path in found.items()}

    def _split(self, split: str, path: Path) -> Candidates:
        """Candidates in the order of the sentences; the six drawings of a sentence are consecutive."""
        images = _find_images(path.parent)
        labeller = Labeller(path, "identifier", "label", required=not split.startswith("test"))
        items = []
        for location, entry in read_lines(path, _LINE, ("sentence", "identifier")):
            identifier = entry["identifier"]
            if not isinstance(identifier, (int, str)):
                raise DataError(
                    f"{location}: identifier {short_repr(identifier)} is not a name; download the file again."
                )
            label = {
                "identifier": identifier,
                "permutation": 0,
                "label": truth(entry.get("label"), location),
                # The official consistency metric uses all drawings of a sentence together.
                "group": str(identifier).partition("-")[0],
            }
            labeller.check(label)
            for k in range(_PERMUTATIONS):
                names = [f"{prefix}-{identifier}-{k}.png" for prefix in _SPLITS[split]]
                name = next((name for name in names if name in images), names[0])
                source = images.get(name, Source(None, f"{path.parent}: {name}"))
                image_id = f"{self.name}/{split}-{identifier}-{k}"
                labels = [to_json({**label, "permutation": k})]
                items.append(Candidate.of(image_id, [entry["sentence"]], source, labels))
        return Candidates.of(items)


def _find_images(folder: Path) -> Mapping[str, Source]:
    """File name -> image, from images/ and its subfolders, or otherwise from images.tar."""
    if folders := folders_below(folder, ("images",)):
        return {name: Source(FileBytes(path), str(path)) for name, path in list_images(folders).items()}
    tar = folder / "images.tar"
    if not tar.is_file():
        raise DataError(f"No images of NLVR in {folder}: looked for images, images.tar; get them from {_PAGE}.")
    return {name: Source(member, f"{tar}:{name}") for name, member in list_tar_images(tar).items()}
