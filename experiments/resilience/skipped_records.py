"""Damaged records that training leaves out: named in the log, and too many of them stop it."""

from collections.abc import Iterable

from data_pipelines.errors import DataError
from experiments.run.progress import warn


class SkippedRecords:
    """What this process has left out of one stream since it started; each record is told once."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def add(self, problems: Iterable[str], limit: int) -> None:
        """Tell the problems of one batch.

        Args:
          problems: a sentence for each row that is left out; the same one for the same record.
          limit: different ones at most.

        Raises:
          DataError: it is one too many.
        """
        for problem in sorted(set(problems) - self._known):
            self._known.add(problem)
            if len(self._known) > limit:
                raise DataError(f"More than data.max_bad_records={limit} records are damaged, the last one: {problem}")
            warn(f"left out: {problem}")
