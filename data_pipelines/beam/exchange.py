"""Files for the communication between the main process and the workers of one run; all use the same path."""

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

_REGIONS = "regions"  # persistent id of the regions' source in a chunk, and name of the file that stores it


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of verifying one candidate.

    Attributes:
      outcome: result of the examination.
      sizes: height and width in pixels of the image, or of both images of a pair; empty for an unusable candidate.
      num_bytes: size of the serialized record; 0 for an unusable candidate.
      digest: digest of the serialized record, which detects later changes.
    """

    outcome: Outcome
    sizes: Sequence[tuple[int, int]] = ()
    num_bytes: int = 0
    digest: bytes = b""


@dataclasses.dataclass(frozen=True)
class Exchange:
    """The files of one run, in their own folder. Only this run writes them, so they may be pickles.

    Attributes:
      folder: folder of the files.
      chunk: number of candidates of a split that one worker verifies together; the last chunk may have fewer.
    """

    folder: Path
    chunk: int

    def write_candidates(self, split: str, chunk: int, candidates: Sequence[Candidate]) -> None:
        """Store a chunk of candidates; the source of the regions is stored only once, in its own file."""
        buffer = io.BytesIO()
        pickler = _Pickler(buffer, pickle.HIGHEST_PROTOCOL)
        pickler.dump(list(candidates))
        if pickler.regions is not None and not (self.folder / _REGIONS).exists():
            write_atomically(self.folder / _REGIONS, pickle.dumps(pickler.regions))
        write_atomically(self._path("candidates", split, chunk), buffer.getvalue())

    def read_regions(self) -> RegionSource | None:
        """Load the source of the regions; None if there are no regions. Its table takes about 60 bytes per row."""
        path = self.folder / _REGIONS
        return pickle.loads(path.read_bytes()) if path.exists() else None

    def read_candidates(self, split: str, chunk: int, regions: RegionSource | None) -> list[Candidate]:
        """Load a chunk of candidates with the regions from `read_regions`; raises DataError if it is missing."""
        unpickler = _Unpickler(io.BytesIO(self._read("candidates", split, chunk)))
        unpickler.regions = regions
        return unpickler.load()

    def write_verdicts(self, split: str, chunk: int, verdicts: Sequence[Verdict]) -> None:
        """Store the verdicts of a chunk; a second write stores the same content."""
        write_atomically(self._path("verdicts", split, chunk), pickle.dumps(list(verdicts), pickle.HIGHEST_PROTOCOL))

    def read_verdicts(self, split: str, chunk: int) -> list[Verdict]:
        """Load the verdicts of a chunk; raises DataError if they are missing."""
        return pickle.loads(self._read("verdicts", split, chunk))

    def write_positions(self, split: str, shard: int, positions: array) -> None:
        """Store the positions of the candidates that become the records of a file."""
        write_atomically(self._path("positions", split, shard), positions.tobytes())

    def read_positions(self, split: str, shard: int) -> array:
        """Load the positions of the candidates of a file in their split, int64."""
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
    """Does not pickle the source of the regions, which may be large, but keeps it as `regions`."""

    regions: RegionSource | None = None

    def persistent_id(self, obj: Any) -> str | None:
        if not isinstance(obj, RegionSource):
            return None
        self.regions = obj
        return _REGIONS


class _Unpickler(pickle.Unpickler):
    """Inserts `regions` at the positions of the source of the regions."""

    regions: RegionSource | None = None

    def persistent_load(self, pid: str) -> RegionSource | None:
        del pid  # there is only one id
        return self.regions
