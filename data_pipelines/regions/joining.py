"""Join the images of a data set with the rows of a source of regions, and count the images without regions."""

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
_LAYOUT_ROWS = 5  # number of readable rows that determine the layout
_MAX_TRIED_ROWS = 100  # maximum number of rows to try for this
_LISTED = 20  # locations in the summary


class Joiner:
    """Joins the rows of a source of regions with candidates by image id."""

    def __init__(self, source: RegionSource, max_regions: int, progress: Callable[[], None] = lambda: None) -> None:
        """Read the ids of all rows.

        Args:
          source: source of the regions.
          max_regions: maximum number of regions to keep per image.
          progress: called after each row.

        Raises:
          DataError: no row of the source is usable.
        """
        self._source = source
        self._max_regions = max_regions
        self._first_id = ""
        self._first_without: Candidate | None = None  # the first image without regions
        self._table = RowTable(self._keys(progress))
        self._transposed = False  # whether a row that determines the layout has transposed features
        self._layout = self._find_layout()

    def join(self, splits: Mapping[str, Candidates]) -> dict[str, Candidates]:
        """Add regions to the images of all splits; images without regions are removed and counted in `skipped`.

        A split that is read as a stream is joined while it is read.

        Raises:
          DataError: no image has regions, as far as this is known already, or two images have the same row.
        """
        joined = {split: self._join(candidates) for split, candidates in splits.items()}
        if all(candidates.total == 0 and candidates.skipped for candidates in joined.values()):
            raise self.nothing_joins()
        return joined

    def to_json(self) -> dict[str, Any]:
        """Description of the source for the summary; complete after all images have been joined."""
        table = self._table
        locations = [f"{self._source.location(number)}: no id" for number in table.without_key[:_LISTED]]
        locations += [f"{self._source.location(number)}: id repeated" for number in table.repeated[:_LISTED]]
        return {
            "source": self._source.path.name,
            "rows": table.num_rows,
            "unjoined": table.num_unjoined,
            "repeated": len(table.repeated),
            "without_id": len(table.without_key),
            "listed": locations[:_LISTED],
            **({"transposed": True} if self._transposed else {}),
            **({"detector": self._source.detector} if self._source.detector else {}),
        }

    def _keys(self, progress: Callable[[], None]) -> Iterator[str | None]:
        """The normal id of each row, None for a row without an id."""
        for published in self._source.ids():
            progress()
            self._first_id = self._first_id or published or ""
            yield None if published is None else normal_id(published)

    def _find_layout(self) -> Layout:
        """The layout of most of the first readable rows, so that a damaged row affects only its own image."""
        layouts: collections.Counter[Layout] = collections.Counter()
        first = ""
        for number in range(min(self._table.num_rows, _MAX_TRIED_ROWS)):
            try:
                row = self._source.read(number)
                layouts[row.layout] += 1
                self._transposed |= row.transposed
            except (BadRowError, OSError) as fault:
                first = first or f"{self._source.location(number)}: {fault}"
            if layouts.total() == _LAYOUT_ROWS:
                break
        if layouts:
            return layouts.most_common(1)[0][0]
        raise DataError(
            f"None of the first {_MAX_TRIED_ROWS} rows of --regions={self._source.path} can be used "
            f"({first or 'there are none'}); repair or replace the file."
        )

    def _join(self, candidates: Candidates) -> Candidates:
        skipped: collections.Counter[str] = collections.Counter()
        joined = self._joined(candidates, skipped)
        if isinstance(candidates.items, Sequence):
            return dataclasses.replace(Candidates.of(list(joined)), skipped=skipped)
        # A missing file does not matter if its image has no regions, which is not known yet.
        return dataclasses.replace(candidates, items=joined, missing=(), skipped=skipped)

    def _joined(self, candidates: Candidates, skipped: collections.Counter[str]) -> Iterator[Candidate]:
        for candidate in candidates.items:
            number = self._row_of(candidate)
            if number is None:
                self._first_without = self._first_without or candidate
                skipped[NO_REGIONS] += 1
            else:
                reader = _Reader(self._source, number, self._layout, self._max_regions)
                yield dataclasses.replace(candidate, regions=reader)

    def _row_of(self, candidate: Candidate) -> int | None:
        """The number of the row with a candidate's regions; None if there is none."""
        for key in keys_of(candidate.image_id, candidate.location):
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
        """The error for the case that no image has regions."""
        image = self._first_without
        return DataError(
            f"No image has regions in --regions={self._source.path}: an image is {image.image_id!r} "
            f"({image.location}), and the first regions are of {self._first_id!r}; give these images' regions."
        )


@dataclasses.dataclass(frozen=True)
class _Reader:
    """`Candidate.regions` that reads a row of a source."""

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
        raise BadRegionsError(f"damaged regions ({reason})", self.source.location(self.number))
