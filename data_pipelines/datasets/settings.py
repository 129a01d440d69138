"""Settings for reading and writing any data set."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from data_pipelines.storage.destination import StayHere, ToBucket


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that are independent of the data set.

    Attributes:
      max_bad_share: maximum share of damaged or missing images, 0 to 1; above it nothing is prepared.
      num_threads: threads that read and decode.
      start: called with the name of a split and its number of candidates (or None) before it is read.
      progress: called after each candidate.
      num_shards: files per split; None: the number follows from the size.
      beam: creates the job that reads and writes on the workers of Apache Beam, from a folder, features and these
        settings, as `beam.prepare_job.Job`; None: this process reads and writes.
      destination: gets each file of records when it is whole; not used on Beam.
    """

    max_bad_share: float = 0.01
    num_threads: int = 4
    start: Callable[[str, int | None], None] = lambda split, total: None
    progress: Callable[[], None] = lambda: None
    num_shards: int | None = None
    beam: "Callable[[Path, Any, Settings], AbstractContextManager] | None" = None
    destination: StayHere | ToBucket = StayHere()
