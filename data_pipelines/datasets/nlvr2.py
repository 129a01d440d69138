"""NLVR2: pairs of photographs with true or false sentences about them."""

from pathlib import Path

import tensorflow_datasets as tfds

from data_pipelines.datasets.builder import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.formats.json_lines import read_lines
from data_pipelines.datasets.labels import Labeller, TextsByImage, truth
from data_pipelines.datasets.layout import find_image, first_existing, folders_below, list_images
from data_pipelines.errors import DataError, short_repr

_SPLITS = ("train", "dev", "test1")
_LINE = '{"sentence": "...", "identifier": "split-set-pair-sentence", "label": "True"}'
_PAGE = "https://github.com/lil-lab/nlvr/tree/master/nlvr2"


class Nlvr2(ImageTextBuilder):
    """Pairs of photographs, left and right, with true or false sentences."""

    name = "nlvr2"
    VERSION = tfds.core.Version("1.0.0")
    LABELLED = True
    PAIRED = True

    def candidates(self) -> dict[str, Candidates]:
        """The splits train, dev and test1, if their files exist."""
        files = {
            split: path
            for split in _SPLITS
            if (path := first_existing(self.source_dir, (f"{split}.json", f"data/{split}.json"))) is not None
        }
        if not files:
            names = ", ".join(f"{split}.json, data/{split}.json" for split in _SPLITS)
            raise DataError(f"No sentences of NLVR2 in {self.source_dir}: looked for {names}; get them from {_PAGE}.")
        folders = folders_below(self.source_dir, ("images", *(f"images/{split}" for split in _SPLITS), *_SPLITS))
        if not folders:
            raise DataError(
                f"No images of NLVR2 in {self.source_dir}: looked for folders images, {', '.join(_SPLITS)}; "
                f"{_PAGE} says how to get them."
            )
        paths = {path.stem: path for path in list_images(folders).values()}
        return {split: self._split(split, path, paths) for split, path in files.items()}

    def _split(self, split: str, path: Path, paths: dict[str, Path]) -> Candidates:
        texts = TextsByImage(Labeller(path, "identifier", "label", required=not split.startswith("test")))
        for location, entry in read_lines(path, _LINE, ("sentence", "identifier")):
            identifier = entry["identifier"]
            parts = identifier.split("-") if isinstance(identifier, str) else []
            if len(parts) != 4 or not all(parts):
                raise DataError(
                    f"{location}: identifier {short_repr(identifier)} is not split-set-pair-sentence; "
                    "download it again."
                )
            prefix, image_set, pair, sentence = parts
            label = {
                "identifier": identifier,
                "label": truth(entry.get("label"), location),
                # The official consistency metric uses all pairs of a set with the same sentence together.
                "group": f"{prefix}-{image_set}-{sentence}",
            }
            texts.add(f"{prefix}-{image_set}-{pair}", entry["sentence"], label)
        items = []
        for pair, pair_texts, labels in texts:
            left, right = (find_image(paths, f"{pair}-img{side}", f"{pair}-img{side}.png") for side in (0, 1))
            items.append(Candidate.of(f"{self.name}/{pair}", pair_texts, left, labels, right))
        return Candidates.of(items)
