"""Common base of users' own data sets: Parquet files beside the layouts of each of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from data_pipelines.datasets.builder import ImageTextBuilder
from data_pipelines.datasets.candidates import Candidates
from data_pipelines.datasets.formats.parquet_columns import parse_columns
from data_pipelines.datasets.formats.parquet_files import find_files
from data_pipelines.datasets.parquet_rows import ParquetRows, RowFormat
from data_pipelines.datasets.parquet_source import ParquetSource
from data_pipelines.errors import DataError

_OPTIONS = {"columns": "", "split_column": ""}


class OwnDataBuilder(ImageTextBuilder, skip_registration=True):
    """A data set that a user brings, in files of his own or from the Hugging Face hub.

    Class attribute of a subclass:
      ROWS: what it reads from the rows of Parquet files.

    Attributes:
      origin: repository and revision of the files, if they come from the hub; set before `check`.
    """

    OPTIONS = _OPTIONS
    TURNED = True
    ROWS: ClassVar[RowFormat]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.OPTIONS = {**vars(cls).get("OPTIONS", {}), **_OPTIONS}
        super().__init_subclass__(**kwargs)

    def __init__(self, **arguments: Any) -> None:
        """Args: as for ImageTextBuilder."""
        self.origin: Mapping[str, str] = {}
        self._columns: Mapping[str, Sequence[str]] = {}
        super().__init__(**arguments)

    def check_columns(self) -> None:
        """Raise DataError if --columns has a wrong form; needs no files."""
        parse_columns(self.options["columns"], self.ROWS.roles)

    def from_parquet(self, others: Sequence[str] = ("*.jsonl",)) -> dict[str, Candidates] | None:
        """The candidates of the Parquet files in the source folder; None if there are none.

        Args:
          others: patterns of the files in other layouts.

        Raises:
          DataError: there are also files in another layout, a Parquet file is damaged or lacks a column, or an option
            has no effect.
        """
        other = next((path for pattern in others for path in self.source_dir.glob(pattern)), None)
        # With files of another layout, the folders of images are not searched.
        files = {"": [*self.source_dir.glob("*.parquet")]} if other else find_files(self.source_dir)
        if not any(files.values()):
            if unused := [option for option in _OPTIONS if self.options[option]]:
                raise DataError(
                    f"--{unused[0]}={self.options[unused[0]]} is for Parquet files, and {self.source_dir} has none; "
                    "leave it out."
                )
            return None
        if other:
            raise DataError(
                f"{self.source_dir} has both Parquet files and {Path(other).suffix} files; move one kind elsewhere."
            )
        rows = ParquetRows(self.ROWS, self.source_dir, files, **{option: self.options[option] for option in _OPTIONS})
        source = ParquetSource(rows, self.ROWS, self.source_dir, self.settings)
        found = source.candidates()
        self.notes += source.notes
        self._columns = rows.columns
        return found

    def about(self) -> dict[str, Any]:
        """As ImageTextBuilder, with the columns of Parquet files, and the repository and revision on the hub."""
        more = {"columns": {role: list(names) for role, names in self._columns.items()}, "origin": dict(self.origin)}
        return {**super().about(), **{name: value for name, value in more.items() if value}}
