"""NLVR2: pairs of photographs with sentences that are true or false of them."""

from pathlib import Path

import tensorflow_datasets as tfds

from data_pipelines.datasets.builder import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidate, Candidates
from data_pipelines.datasets.formats.json_lines import read_lines
from data_pipelines.datasets.labels import Labeller, TextsByImage, truth
from data_pipelines.datasets.layout import find_image, first_existing, folders_below, list_images
from data_pipelines.errors import DataError, shown

_SPLITS = ("train", "dev", "test1")
_LINE = '{"sentence": "...", "identifier": "split-set-pair-sentence", "label": "True"}'
_PAGE = "https://github.com/lil-lab/nlvr/tree/master/nlvr2"


class Nlvr2(ImageTextBuilder):
    """Pairs of photographs, left and right, with sentences that are true or false of them."""

    name = "nlvr2"
    VERSION = tfds.core.Version("1.0.0")
    LABELLED = True
    PAIRED = True

    def candidates(self) -> dict[str, Candidates]:
        """Splits train, dev and test1, as their files are there."""
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
        for place, entry in read_lines(path, _LINE, ("sentence", "identifier")):
            identifier = entry["identifier"]
            parts = identifier.split("-") if isinstance(identifier, str) else []
            if len(parts) != 4 or not all(parts):
                raise DataError(
                    f"{place}: identifier {shown(identifier)} is not split-set-pair-sentence; download it again."
                )
            prefix, image_set, pair, sentence = parts
            label = {
                "identifier": identifier,
                "label": truth(entry.get("label"), place),
                # The official consistency looks at the sentence's pairs of one set together.
                "group": f"{prefix}-{image_set}-{sentence}",
            }
            texts.add(f"{prefix}-{image_set}-{pair}", entry["sentence"], label)
        items = []
        for pair, its_texts, labels in texts:
            left, right = (find_image(paths, f"{pair}-img{side}", f"{pair}-img{side}.png") for side in (0, 1))
            items.append(Candidate.of(f"{self.name}/{pair}", its_texts, left, labels, right))
        return Candidates.of(items)
