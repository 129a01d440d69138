"""The base class of all data sets: a TFDS builder that turns candidates into verified records on disk."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from data_pipelines.datasets.candidates import Candidates, check_share
from data_pipelines.datasets.identical import OPTION, Identical
from data_pipelines.datasets.reading import NOT_FOUND, Selection, Skipped, verified_examples
from data_pipelines.datasets.settings import Settings
from data_pipelines.errors import DataError
from data_pipelines.regions import open_source
from data_pipelines.regions.joining import NO_REGIONS, Joiner
from data_pipelines.regions.rows import MAX_BOXES
from data_pipelines.storage.paths import as_path
from data_pipelines.storage.shards import write_split

DRAWN = "drawn"  # value of --regions for data sets that create their own regions


class _LocalInfo(tfds.core.DatasetInfo):
    """DatasetInfo of TFDS without a look-up on Google's servers, for which TFDS creates a temporary folder."""

    def initialize_from_bucket(self) -> None:
        """Do nothing: the servers do not have these data sets."""


class ImageTextBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of images with texts; a subclass defines the candidates.

    Class attributes of a subclass:
      name: name of the data set.
      VERSION: version of the content of the records.
      OPTIONS: flags of the data set, with their default values; `prepare` passes their values on.
      PATH_OPTIONS: options that are paths; they do not describe the content.
      REGION_OPTIONS: options for regions; they are added to OPTIONS except for pairs of images.
      DRAWS_REGIONS: whether the candidates already have regions; otherwise regions are joined from a file.
      NEEDS_SOURCE: whether the data set reads from source_dir.
      LABELLED: whether each text has a label. Splits may then share images, with different texts.
      PAIRED: whether a record is a pair of images.
      TURNED: whether images are turned upright by their orientation tag. This is true for users' own images. Published
        boxes and results refer to images as stored.
      DESCRIPTION: one line.
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {}
    PATH_OPTIONS: ClassVar[Sequence[str]] = ()
    REGION_OPTIONS: ClassVar[Mapping[str, Any]] = {"regions": "", "max_regions": 100}
    DRAWS_REGIONS: ClassVar[bool] = False
    NEEDS_SOURCE: ClassVar[bool] = True
    LABELLED: ClassVar[bool] = False
    PAIRED: ClassVar[bool] = False
    TURNED: ClassVar[bool] = False
    DESCRIPTION: ClassVar[str] = ""
    url_infos: ClassVar[Mapping[str, Any]] = {}  # no downloads; TFDS does not search for a list of checksums

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.PAIRED:
            cls.OPTIONS = {**cls.OPTIONS, **cls.REGION_OPTIONS}

    def __init__(
        self,
        *,
        data_dir: str | Path,
        source_dir: epath.PathLike | None = None,
        options: Mapping[str, Any] | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Args: options: values for some of OPTIONS; the others have their default values."""
        self.source_dir = as_path(source_dir) if source_dir is not None else Path()
        self.options = {**self.OPTIONS, **(options or {})}
        self.settings = settings or Settings()
        self.notes = ["each record is a pair of images"] if self.PAIRED else []  # lines for the summary
        self._splits: dict[str, Candidates] | None = None
        self._joiner: Joiner | None = None
        self._skipped: dict[str, Skipped] = {}
        self._identical: Identical | None = None
        self._seen: dict[str, set[int]] = {}  # split -> hashes of the image ids so far
        super().__init__(data_dir=str(data_dir), file_format="array_record")

    @property
    def has_regions(self) -> bool:
        """Whether the records have regions."""
        return bool(self.options.get("regions"))

    def candidates(self) -> dict[str, Candidates]:
        """The candidates of all splits. Checks the layout of source_dir; raises DataError before any long work."""
        raise NotImplementedError

    def check(self) -> None:
        """Check the options and the source files without reading images.

        Raises:
          DataError: an option or the layout is wrong, or too many files are missing.
        """
        self._check_region_options()
        if self.options.get(OPTION, 0) < 0:
            raise DataError(f"--{OPTION}={self.options[OPTION]} is negative; give 0 to keep all images.")
        self._splits = self.candidates()
        if not self._splits:
            raise DataError(f"The files in {self.source_dir} list no image; download them again.")
        if self.has_regions and not self.DRAWS_REGIONS:
            self._join_regions()
        for split in self._splits.values():
            if split.missing and split.total:
                count = len(split.missing)
                reasons = f"{count:,} {NOT_FOUND} (first: {split.missing[0]})"
                check_share(count, split.total, self.settings.max_bad_share, reasons)

    def _check_region_options(self) -> None:
        """Raise DataError for region options that have no effect or are out of range."""
        for option, default in self.REGION_OPTIONS.items():
            if not self.has_regions and self.options.get(option, default) != default:
                raise DataError(f"{self.name}: --{option} has no effect without --regions; give both or neither.")
        if not 1 <= self.options.get("max_regions", 1) <= MAX_BOXES:
            raise DataError(f"--max_regions={self.options['max_regions']} is not between 1 and {MAX_BOXES:,}.")

    def _join_regions(self) -> None:
        """Add regions from a file to the candidates; candidates without regions are skipped."""
        source = open_source(as_path(self.options["regions"]))
        self.settings.start("regions", None)
        self._joiner = Joiner(source, self.options["max_regions"], self.settings.progress)
        self._splits = self._joiner.join(self._splits)

    def _info(self) -> tfds.core.DatasetInfo:
        return _LocalInfo(
            builder=self,
            description=self.DESCRIPTION or (self.__doc__ or "").partition("\n")[0],
            features=tfds.features.FeaturesDict(self._features()),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _features(self) -> dict[str, Any]:
        features: dict[str, Any] = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "height": np.int32,
            "width": np.int32,
            "image_id": tfds.features.Text(),
            "texts": tfds.features.Sequence(tfds.features.Text()),
        }
        if self.LABELLED:
            features["labels"] = tfds.features.Sequence(tfds.features.Text())
        if self.PAIRED:
            features |= {f"second_{name}": features[name] for name in ("image", "height", "width")}
        if self.TURNED:
            features |= {name: np.int32 for name in ("orientation", "second_orientation")[: 1 + self.PAIRED]}
        if self.has_regions:
            features |= {
                "region_features": tfds.features.Tensor(shape=(), dtype=np.object_),
                "region_boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
                "region_classes": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                "region_scores": tfds.features.Tensor(shape=(None,), dtype=np.float32),
                "global_feature": tfds.features.Tensor(shape=(), dtype=np.object_),
            }
        return features

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager  # nothing is downloaded
        if self._splits is None:
            self.check()
        shared: set[int] = set()
        self._seen = {split: set() if self.LABELLED else shared for split in self._splits}
        self._skipped = {split: Skipped() for split in self._splits}
        if OPTION in self.OPTIONS:
            self._identical = Identical(self.options[OPTION])
        return {
            split: self._generate_examples(split, candidates, self._seen[split], self._skipped[split])
            for split, candidates in self._splits.items()
        }

    def _generate_examples(
        self, split: str, candidates: Candidates, seen: set[int], skipped: Skipped
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        self.settings.start(split, candidates.total)
        examples = verified_examples(
            candidates,
            seen=seen,
            skipped=skipped,
            num_threads=self.settings.num_threads,
            max_bad_share=self.settings.max_bad_share,
            progress=self.settings.progress,
            identical=self._identical,
        )
        yield from enumerate(examples)

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list[tfds.core.SplitInfo]:
        """Write with `data_pipelines.storage.shards` instead of the sorting writer of TFDS."""
        del download_config
        generators = self._split_generators(dl_manager)
        infos = self._write(generators) if self.settings.beam is None else self._write_on_beam()
        if not infos:
            raise self._joiner.nothing_joins()
        # TFDS saves this beside the records, so it is available when the index is written.
        self.info.metadata.update(self.about())
        return infos

    def _write(self, generators: Mapping[str, Iterator[tuple[int, dict]]]) -> list[tfds.core.SplitInfo]:
        """Write one split after the other, and each image right after it is read."""
        infos = []
        for split, numbered in generators.items():
            examples = (example for _, example in numbered)
            first = next(examples, None)
            if first is None:
                self._skip_split(split)
                continue
            whole = itertools.chain([first], examples)
            template = self._get_filename_template(split_name=split)
            sizes, destination = self.settings.num_shards, self.settings.destination
            infos.append(write_split(whole, self.info.features, template, num_shards=sizes, destination=destination))
        return infos

    def _write_on_beam(self) -> list[tfds.core.SplitInfo]:
        """As `_write`, but workers first verify all images and then write the files."""
        with self.settings.beam(Path(self.data_dir), self.info.features, self.settings) as job:
            job.verify(self._splits)
            selected = {}
            for split, candidates in self._splits.items():
                seen, skipped = self._seen[split], self._skipped[split]
                selection = Selection(candidates, seen, skipped, self.settings.max_bad_share, self._identical)
                records = job.select(split, selection)
                if records.lengths:
                    selected[split] = records
                else:
                    self._skip_split(split)
            return job.write(selected, lambda split: self._get_filename_template(split_name=split))

    def _skip_split(self, split: str) -> None:
        """Note that a split without records is skipped; raises DataError if missing regions are not the only reason."""
        if set(self._skipped[split].images) != {NO_REGIONS}:
            raise self._skipped[split].nothing_usable(split)
        self.notes.append(f"split {split} skipped: none of its images has regions")

    def about(self) -> dict[str, Any]:
        """Description of this preparation for the index, as JSON."""
        return {
            "name": self.name,
            "version": str(self.VERSION),
            "options": self._kept_options(),
            "notes": self.notes + self._shared_images(),
            "skipped": {split: skipped.to_json() for split, skipped in self._skipped.items()},
            **({"regions": self._joiner.to_json()} if self._joiner is not None else {}),
        }

    def _kept_options(self) -> dict[str, Any]:
        """The options that describe the content; region options only if there are regions."""
        skipped = (*self.PATH_OPTIONS, *(() if self.has_regions else self.REGION_OPTIONS))
        options = {name: value for name, value in self.options.items() if name not in skipped}
        # Only the name of the regions' file is kept, because the file may move.
        return options | ({"regions": Path(options["regions"]).name} if self.has_regions else {})

    def _shared_images(self) -> list[str]:
        """A line for each two splits that have images in common; the texts of these images differ."""
        if not self.LABELLED:
            return []
        pairs = itertools.combinations(self._seen.items(), 2)
        counts = {(a, b): len(seen_a & seen_b) for (a, seen_a), (b, seen_b) in pairs}
        return [f"images of {b} that are also in {a}: {count:,}" for (a, b), count in counts.items() if count]
