"""Candidates from the rows of Parquet files, as the Hugging Face hub and img2dataset write them.

The rows are read twice as a stream: first to find out which rows have the same image, then to read the images. In
between, 25 bytes per row are in memory, and the texts of those images whose rows are not next to each other.
"""

import bisect
import collections
import dataclasses
import itertools
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from data_pipelines.datasets.candidates import Candidate, Candidates, NoText, clean_text
from data_pipelines.datasets.formats.json_lines import check_split
from data_pipelines.datasets.formats.karpathy import coco_id_of, foreign_id
from data_pipelines.datasets.labels import to_json
from data_pipelines.datasets.parquet_rows import ParquetRows, Row, RowFormat, RowImage, Text, Values, digest_of, only
from data_pipelines.datasets.settings import Settings
from data_pipelines.errors import DataError, short_repr

_MAX_SPLITS = 100
_SKIPPED = 255  # instead of the number of a split
_NO_IMAGE, _NO_SPLIT = "rows without an image", "rows without a split"
_VQA_IDS = ("question_id", "image_id", "question_type", "answer_type")  # columns of VQA, whose image ids are COCO's


@dataclasses.dataclass
class _Survey:
    """What the first reading found about all N rows.

    Attributes:
      split_N: uint8, number of the split of each row, or _SKIPPED.
      key_N: uint64, equal for rows with the same image.
      has_target: splits in which some text has the training target.
      unused: split -> counts of the rows that are not used.
      absent: split -> files that do not exist, as keys in the order of the rows.
    """

    split_N: np.ndarray
    key_N: np.ndarray
    has_target: set[int]
    unused: Mapping[int, collections.Counter[str]]
    absent: Mapping[int, dict[str, None]]


class ParquetSource:
    """The rows of Parquet files as candidates.

    Attributes:
      notes: lines for the summary; complete after `candidates`.
    """

    def __init__(self, rows: ParquetRows, layout: RowFormat, source_dir: Path, settings: Settings) -> None:
        """Args: settings: for the progress. The others are those of `rows`."""
        self._rows, self._layout, self._source_dir, self._settings = rows, layout, source_dir, settings
        self.notes = [rows.note]
        self._starts = [0, *itertools.accumulate(group.rows for group in rows.groups)]
        self._vqa_ids = all(role in rows.columns for role in _VQA_IDS) and "coco_id" not in rows.named
        self._named = True
        self._splits: list[str] = []

    def candidates(self) -> dict[str, Candidates]:
        """The candidates of all splits.

        Raises:
          DataError: a file is damaged, an id occurs twice, or a row has an invalid split.
        """
        survey = self._survey()
        if self._vqa_ids:
            self.notes.append("image_id is the COCO id: each question_id is image_id * 1000 + a number below 1000")
        if not self._named:
            self.notes.append("the images' names are not their ids, because different images have the same name")
        return {
            name: self._split(number, survey) for number, name in sorted(enumerate(self._splits), key=lambda s: s[1])
        }

    def _split(self, split: int, survey: _Survey) -> Candidates:
        key_M = survey.key_N[survey.split_N == split]
        runs = key_M[np.append(True, key_M[1:] != key_M[:-1])] if len(key_M) else key_M
        distinct, counts = np.unique(runs, return_counts=True)
        scattered = frozenset(distinct[counts > 1].tolist())
        joined: dict[int, list[Text]] = {}
        for key, row in self._rows_of(split, survey, images=False) if scattered else ():
            if key in scattered:
                joined.setdefault(key, []).extend(self._texts(row, split, survey))
        if len(distinct) < len(key_M):
            self.notes.append(f"{self._splits[split]}: {len(key_M):,} rows of {len(distinct):,} images")
        items = self._candidates(split, survey, scattered, joined)
        return Candidates(items, len(distinct), list(survey.absent[split]), unused=survey.unused[split])

    def _candidates(
        self, split: int, survey: _Survey, scattered: frozenset[int], joined: dict[int, list[Text]]
    ) -> Iterator[Candidate]:
        """A candidate for each image, at its first row; the texts of `scattered` images are taken from `joined`."""
        for key, run in itertools.groupby(self._rows_of(split, survey), key=lambda entry: entry[0]):
            _, first = next(run)
            if key not in scattered:
                texts = [*self._texts(first, split, survey)]
                for _, row in run:
                    texts += self._texts(row, split, survey)
                yield self._candidate(first, texts)
            elif key in joined:
                yield self._candidate(first, joined.pop(key))

    def _candidate(self, row: Row, texts: Sequence[Text]) -> Candidate:
        images = self._rows.images(row)
        image_id = self._name_of(row, images) if self._named or self._coco_of(row, images) else ""
        image_id = image_id or f"{self._layout.name}/{digest_of(*(image.digest for image in images)).hex()}"
        labels = []
        for number, (text, label) in enumerate(texts):
            key = self._layout.id_key
            if isinstance(text, NoText):
                label = {}
            elif key and label.get(key) is None:
                label = {**label, key: f"{image_id.removeprefix(f'{self._layout.name}/')}/{number}"}
            labels += [to_json(label)] if key else []
        sources = [image.source for image in images]
        return Candidate.of(image_id, [text for text, _ in texts], sources[0], labels, *sources[1:])

    def _texts(self, row: Row, split: int, survey: _Survey) -> list[Text]:
        """The texts of a row; without the training target that others of the split have, a text cannot be used."""
        texts, target = self._layout.texts(row.values), self._layout.target
        if not target or split not in survey.has_target:
            return list(texts)
        lacking = NoText(f"no {target}, unlike others of the split")
        return [(lacking if clean_text(text) and label.get(target) is None else text, label) for text, label in texts]

    # --- the first reading ---

    def _survey(self) -> _Survey:
        split_N, name_N, digest_N, id_N = array("B"), array("Q"), array("Q"), array("Q")
        has_target: set[int] = set()
        unused: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        absent: dict[int, dict[str, None]] = collections.defaultdict(dict)
        numbers: dict[str, int] = {}
        self._settings.start("rows", self._starts[-1])
        for row in self._rows.read(self._rows.groups):
            self._settings.progress()
            split = self._rows.split_of(row)
            if split is not None and split not in numbers:
                check_split(split, self._source_dir)
                numbers[split] = len(numbers)
                if len(numbers) > _MAX_SPLITS:
                    raise DataError(
                        f"{row.location}: there are more than {_MAX_SPLITS} splits, such as {short_repr(split)}; name "
                        "another column with --split_column, or prepare fewer files."
                    )
            number = numbers.get(split, 0)
            images = self._rows.images(row)
            if split is None or images is None:
                unused[number][_NO_SPLIT if split is None else _NO_IMAGE] += 1
                for numbers_N in (name_N, digest_N, id_N):
                    numbers_N.append(0)
                split_N.append(_SKIPPED)
                continue
            if self._vqa_ids and not _may_have_vqa_ids(row.values):
                self._vqa_ids = False
                return self._survey()
            name = self._name_of(row, images)
            split_N.append(number)
            name_N.append(_number(name.encode("utf-8", "replace")) if name else 0)
            digest_N.append(0 if name.startswith("coco/") else _number(*(image.digest for image in images)))
            absent[number] |= {image.source.location: None for image in images if image.source.read is None}
            labels = [label for text, label in self._layout.texts(row.values) if clean_text(text)]
            has_target |= {number for label in labels if label.get(self._layout.target) is not None}
            identity = labels[0].get(self._layout.id_key) if labels else None  # a labelled row has one text
            id_N.append(0 if identity is None else _number(repr(identity).encode()))
        self._splits = list(numbers)
        split_N, name_N, digest_N = (np.array(numbers_N) for numbers_N in (split_N, name_N, digest_N))
        self._check_ids(split_N, np.array(id_N))
        order = np.lexsort((digest_N, name_N))
        name_N_sorted, digest_N_sorted = name_N[order], digest_N[order]
        same_name = (name_N_sorted[1:] == name_N_sorted[:-1]) & (name_N_sorted[1:] > 0)
        self._named = not (same_name & (digest_N_sorted[1:] != digest_N_sorted[:-1])).any()
        # The digest of a COCO photograph is 0, so that its id alone decides.
        key_N = np.where(digest_N == 0, name_N, digest_N ^ (name_N * np.uint64(3) if self._named else np.uint64(0)))
        return _Survey(split_N, key_N, has_target, unused, absent)

    def _check_ids(self, split_N: np.ndarray, id_N: np.ndarray) -> None:
        """Raise DataError if an id of a text occurs twice in a split."""
        for split in range(len(self._splits)):
            rows = np.flatnonzero((split_N == split) & (id_N > 0))
            _, first = np.unique(id_N[rows], return_index=True)
            if len(first) < len(rows):
                row = int(np.delete(rows, first).min())
                number = bisect.bisect_right(self._starts, row) - 1
                group = self._rows.groups[number]
                raise DataError(
                    f"{group.path}, row {row - self._starts[number] + group.first}: its {self._layout.id_key} is that "
                    "of an earlier row of the split; correct the file."
                )

    def _rows_of(self, split: int, survey: _Survey, *, images: bool = True) -> Iterator[tuple[int, Row]]:
        """Key and row of the used rows of a split; row groups without such rows are not read."""
        for group, start in zip(self._rows.groups, self._starts, strict=False):
            inside = survey.split_N[start : start + group.rows] == split
            if inside.any():
                for row in self._rows.read([group], images=images):
                    if inside[row.number]:
                        yield int(survey.key_N[start + row.number]), row

    def _name_of(self, row: Row, images: Sequence[RowImage]) -> str:
        """The image id by the names of a row; "" if it has none."""
        coco = self._coco_of(row, images)
        if coco:
            return coco
        paths = [_clean(image.path) for image in images]
        name = "|".join(paths) if all(paths) else ""
        if self._layout.num_images == 1 and not images[0].is_file:
            name = _clean(only(row.values, "file_name")) or _clean(only(row.values, "image_id")) or name
        return f"{self._layout.name}/{name}" if name else ""

    def _coco_of(self, row: Row, images: Sequence[RowImage]) -> str:
        """`coco/<id>` for a COCO photograph by its columns or the name of its file; otherwise ""."""
        if self._layout.num_images > 1:
            return ""
        stated = foreign_id(only(row.values, "image_id" if self._vqa_ids else "coco_id"))
        if isinstance(stated, int):
            return f"coco/{stated}"
        for name in (only(row.values, "file_name"), images[0].path):
            number = coco_id_of(name) if isinstance(name, str) else None
            if number is not None:
                return f"coco/{number}"
        return ""


def _may_have_vqa_ids(values: Values) -> bool:
    """Whether the id of a question, if there is one, is that of its image with three more digits, as in VQA."""
    question, image = only(values, "question_id"), only(values, "image_id")
    return question is None or image is None or (isinstance(question, int) and question // 1000 == image)


def _clean(name: object) -> str:
    """A name as part of an image id; of an absolute path only the name of the file."""
    if isinstance(name, float) and name.is_integer():
        name = int(name)
    if isinstance(name, int):
        return str(name)
    name = clean_text(name)
    return PurePosixPath(name).name if name.startswith("/") else name


def _number(*parts: bytes) -> int:
    """A number of 64 bits for the parts, not 0."""
    return int.from_bytes(digest_of(*parts)[:8], "big") or 1
