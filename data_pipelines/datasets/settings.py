"""How a data set is read and written, whatever it is."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to read, whatever the data set.

    Attributes:
      max_bad_share: of damaged or missing images, 0 to 1; above it nothing is prepared.
      num_threads: that read and decode.
      start: called with a split's name and number of candidates (or None) before it is read.
      progress: called after each candidate.
      num_shards: files of each split; None: as many as their size makes.
      beam: makes the job that reads and writes on Apache Beam's workers, as `beam.prepare_job.Job` does of a folder,
        features and these settings; None: this process does it.
    """

    max_bad_share: float = 0.01
    num_threads: int = 4
    start: Callable[[str, int | None], None] = lambda split, total: None
    progress: Callable[[], None] = lambda: None
    num_shards: int | None = None
    beam: "Callable[[Path, Any, Settings], AbstractContextManager] | None" = None
