"""Damaged records that training skips: they are named in the log, and too many of them stop the run."""

from collections.abc import Iterable

from data_pipelines.errors import DataError
from experiments.run.progress import warn


class SkippedRecords:
    """The records that this process has skipped in one stream since it started; each is reported once."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def add(self, problems: Iterable[str], limit: int) -> None:
        """Report the problems of one batch.

        Args:
          problems: a sentence for each skipped row; the same sentence for the same record.
          limit: the greatest allowed number of different problems.

        Raises:
          DataError: there are more than that.
        """
        for problem in sorted(set(problems) - self._known):
            self._known.add(problem)
            if len(self._known) > limit:
                raise DataError(f"More than data.max_bad_records={limit} records are damaged, the last one: {problem}")
            warn(f"skipped: {problem}")
