"""Files through which the main process and the workers of one run speak to each other; all see them at one path."""

import dataclasses
import io
import pickle
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.datasets.candidates import Candidate
from data_pipelines.datasets.reading import Outcome
from data_pipelines.errors import DataError
from data_pipelines.regions.rows import RegionSource
from data_pipelines.storage.atomic_files import write_atomically

_REGIONS = "regions"  # stands for the source of the regions in a chunk, and is the file that has it


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a worker found out about a candidate.

    Attributes:
      outcome: of its look.
      sizes: height and width in pixels of the image, or of both of a pair; empty if it cannot be used.
      num_bytes: of the serialized record; 0 if it cannot be used.
      digest: of the same, to know it again.
    """

    outcome: Outcome
    sizes: Sequence[tuple[int, int]] = ()
    num_bytes: int = 0
    digest: bytes = b""


@dataclasses.dataclass(frozen=True)
class Exchange:
    """The files, in a folder of their own. Only this run writes them, so they may be pickles.

    Attributes:
      folder: theirs.
      chunk: candidates of a split that one worker looks at one after the other; the last chunk may have fewer.
    """

    folder: Path
    chunk: int

    def write_candidates(self, split: str, chunk: int, candidates: Sequence[Candidate]) -> None:
        """Store a chunk; the source of the regions is stored once, beside it."""
        buffer = io.BytesIO()
        pickler = _Pickler(buffer, pickle.HIGHEST_PROTOCOL)
        pickler.dump(list(candidates))
        if pickler.regions is not None and not (self.folder / _REGIONS).exists():
            write_atomically(self.folder / _REGIONS, pickle.dumps(pickler.regions))
        write_atomically(self._path("candidates", split, chunk), buffer.getvalue())

    def read_regions(self) -> RegionSource | None:
        """The source of the regions; None without regions. Its table takes about 60 bytes a row."""
        path = self.folder / _REGIONS
        return pickle.loads(path.read_bytes()) if path.exists() else None

    def read_candidates(self, split: str, chunk: int, regions: RegionSource | None) -> list[Candidate]:
        """A chunk, with the regions that `read_regions` gave; DataError if it is not there."""
        unpickler = _Unpickler(io.BytesIO(self._read("candidates", split, chunk)))
        unpickler.regions = regions
        return unpickler.load()

    def write_verdicts(self, split: str, chunk: int, verdicts: Sequence[Verdict]) -> None:
        """Store what was found out about a chunk; written twice, it is the same."""
        write_atomically(self._path("verdicts", split, chunk), pickle.dumps(list(verdicts), pickle.HIGHEST_PROTOCOL))

    def read_verdicts(self, split: str, chunk: int) -> list[Verdict]:
        """What was found out about a chunk; DataError if it is not there."""
        return pickle.loads(self._read("verdicts", split, chunk))

    def write_positions(self, split: str, shard: int, positions: array) -> None:
        """Store which candidates of a split are the records of a file."""
        write_atomically(self._path("positions", split, shard), positions.tobytes())

    def read_positions(self, split: str, shard: int) -> array:
        """Positions of candidates in their split, int64."""
        positions = array("q")
        positions.frombytes(self._read("positions", split, shard))
        return positions

    def _path(self, kind: str, split: str, number: int) -> Path:
        return self.folder / f"{kind}-{split}-{number:06d}"

    def _read(self, kind: str, split: str, number: int) -> bytes:
        path = self._path(kind, split, number)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise DataError(
                f"{path}, which another process of this run wrote, is not there; give a --data_dir that all workers "
                "see under the same path."
            ) from None


class _Pickler(pickle.Pickler):
    """Leaves the source of the regions out, which may be large, and keeps it as `regions`."""

    regions: RegionSource | None = None

    def persistent_id(self, obj: Any) -> str | None:
        if not isinstance(obj, RegionSource):
            return None
        self.regions = obj
        return _REGIONS


class _Unpickler(pickle.Unpickler):
    """Puts `regions` where the source of the regions was."""

    regions: RegionSource | None = None

    def persistent_load(self, pid: str) -> RegionSource | None:
        del pid  # there is only one
        return self.regions
