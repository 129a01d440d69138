"""Regions beside the images of a data set: which image gets which row, and who gets none."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from data_pipelines.datasets.candidates import BadRegionsError, Candidate, Candidates, FoundRegions
from data_pipelines.errors import DataError
from data_pipelines.regions.ids import keys_of, normal_id
from data_pipelines.regions.row_table import RowTable
from data_pipelines.regions.rows import BadRowError, Layout, RegionSource
from data_pipelines.regions.usable import usable

NO_REGIONS = "no regions"
_ASKED = 5  # rows that say what the layout is
_TRIED = 100  # rows to find those
_LISTED = 20  # places in the summary


class Joiner:
    """Joins the rows of a source with candidates by image id."""

    def __init__(self, source: RegionSource, max_regions: int, progress: Callable[[], None] = lambda: None) -> None:
        """Find out which rows there are.

        Args:
          source: of the regions.
          max_regions: kept of an image.
          progress: called after each row.

        Raises:
          DataError: no row of the source is usable.
        """
        self._source = source
        self._max_regions = max_regions
        self._first_id = ""
        self._without: Candidate | None = None  # the first image without regions
        self._table = RowTable(self._keys(progress))
        self._transposed = False  # of the rows that tell the layout
        self._layout = self._find_layout()

    def join(self, splits: Mapping[str, Candidates]) -> dict[str, Candidates]:
        """The splits with regions for those images that have some, without the others, which `left_out` counts.

        Images of a split that is read as a stream are joined as they come.

        Raises:
          DataError: no image has regions, as far as that is known; or two have the same ones.
        """
        joined = {split: self._join(candidates) for split, candidates in splits.items()}
        if all(candidates.total == 0 and candidates.skipped for candidates in joined.values()):
            raise self.nothing_joins()
        return joined

    def to_json(self) -> dict[str, Any]:
        """What the source was, once all images have been joined."""
        table = self._table
        places = [f"{self._source.place(number)}: no id" for number in table.without_key[:_LISTED]]
        places += [f"{self._source.place(number)}: id repeated" for number in table.repeated[:_LISTED]]
        return {
            "source": self._source.path.name,
            "rows": table.num_rows,
            "unjoined": table.num_unjoined,
            "repeated": len(table.repeated),
            "without_id": len(table.without_key),
            "listed": places[:_LISTED],
            **({"transposed": True} if self._transposed else {}),
        }

    def _keys(self, progress: Callable[[], None]) -> Iterator[str | None]:
        for published in self._source.ids():
            progress()
            self._first_id = self._first_id or published or ""
            yield None if published is None else normal_id(published)

    def _find_layout(self) -> Layout:
        """That of most of the first rows that can be read, so that a damaged one costs its own image only."""
        layouts: collections.Counter[Layout] = collections.Counter()
        first = ""
        for number in range(min(self._table.num_rows, _TRIED)):
            try:
                row = self._source.read(number)
                layouts[row.layout] += 1
                self._transposed |= row.transposed
            except (BadRowError, OSError) as fault:
                first = first or f"{self._source.place(number)}: {fault}"
            if layouts.total() == _ASKED:
                break
        if layouts:
            return layouts.most_common(1)[0][0]
        raise DataError(
            f"None of the first {_TRIED} rows of --regions={self._source.path} can be used "
            f"({first or 'there are none'}); repair or replace the file."
        )

    def _join(self, candidates: Candidates) -> Candidates:
        skipped: collections.Counter[str] = collections.Counter()
        joined = self._joined(candidates, skipped)
        if isinstance(candidates.items, Sequence):
            return dataclasses.replace(Candidates.of(list(joined)), skipped=skipped)
        # Missing files of images without regions are no loss, and which those are is not known yet.
        return dataclasses.replace(candidates, items=joined, missing=(), skipped=skipped)

    def _joined(self, candidates: Candidates, skipped: collections.Counter[str]) -> Iterator[Candidate]:
        for candidate in candidates.items:
            number = self._row_of(candidate)
            if number is None:
                self._without = self._without or candidate
                skipped[NO_REGIONS] += 1
            else:
                reader = _Reader(self._source, number, self._layout, self._max_regions)
                yield dataclasses.replace(candidate, regions=reader)

    def _row_of(self, candidate: Candidate) -> int | None:
        for key in keys_of(candidate.image_id, candidate.place):
            try:
                number = self._table.join(key, candidate.image_id)
            except KeyError as error:
                raise DataError(
                    f"--regions={self._source.path} has regions of {key!r}, which may be those of "
                    f"{candidate.image_id!r} and of another image; call them by the whole id of their image."
                ) from error
            if number is not None:
                return number
        return None

    def nothing_joins(self) -> DataError:
        """The error to raise where images were left out and none is left."""
        return DataError(
            f"No image has regions in --regions={self._source.path}: an image is {self._without.image_id!r} "
            f"({self._without.place}), and the first regions are of {self._first_id!r}; give these images' regions."
        )


@dataclasses.dataclass(frozen=True)
class _Reader:
    """`Candidate.regions` for a row of a source."""

    source: RegionSource
    number: int
    layout: Layout
    max_regions: int

    def __call__(self, height: int, width: int) -> FoundRegions:
        try:
            return usable(self.source.read(self.number), self.layout, height, width, self.max_regions)
        except BadRowError as fault:
            reason = str(fault)
        except OSError as error:
            reason = error.strerror or type(error).__name__
        raise BadRegionsError(f"damaged regions ({reason})", self.source.place(self.number))
