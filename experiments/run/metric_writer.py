"""Metrics of a run: `metrics.jsonl` always, TensorBoard and Weights & Biases on demand."""

import errno
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from data_pipelines.storage.atomic_files import write_atomically
from data_pipelines.storage.paths import is_local
from experiments.resilience.disk_errors import writing
from experiments.run.trackers import TensorBoard, Tracker, Wandb
from pixelbert_jax.errors import ConfigError

_SECONDS_BETWEEN_UPLOADS = 60.0


class MetricWriter:
    """Appends one JSON object per line, each with `step`; floats are written so that they read back equal.

    Nothing can be appended to an object in a bucket: there the whole file is sent, once per minute and at each `flush`.
    All methods raise ConfigError if the file cannot be written, or was deleted during the run.
    """

    def __init__(
        self,
        path: epath.PathLike,
        *,
        resume_step: int = 0,
        tensorboard: bool = False,
        wandb: str = "",
        config: dict[str, Any] | None = None,
        writes: bool = True,
    ) -> None:
        """Open the file; lines after `resume_step` are dropped, so that a resumed run neither repeats nor skips.

        Args:
          path: the file.
          resume_step: last step whose lines are kept.
          tensorboard: write TensorBoard files too.
          wandb: project of Weights & Biases to write to; empty: none.
          config: the run's configuration, for that project.
          writes: False in all processes of a run but the first.

        Raises:
          ConfigError: the file cannot be written, or the package of `tensorboard` or `wandb` is missing.
        """
        self.path, self._writes, self._file = epath.Path(path), writes, None
        self._trackers: list[Tracker] = []
        if not writes:
            return
        records = [record for record in read_metrics(path) if record["step"] <= resume_step]
        self._text, self._sent = "".join(_line(record) for record in records), time.monotonic()
        with writing(path):
            write_atomically(self.path, self._text)
            if is_local(self.path):
                self._file = self.path.open("a")
        if tensorboard:
            self._trackers.append(TensorBoard(self.path.parent, resume_step))
        if wandb:
            self._trackers.append(Wandb(self.path.parent, wandb, config or {}))

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Add one record."""
        if not self._writes:
            return
        line = _line({"step": step} | metrics)
        if self._file is not None:
            with writing(self.path):
                self._file.write(line)
                self._file.flush()
        else:
            self._text += line
            if time.monotonic() - self._sent >= _SECONDS_BETWEEN_UPLOADS:
                self.flush()
        for tracker in self._trackers:
            tracker.scalars(step, metrics)

    @property
    def takes_images(self) -> bool:
        """Whether `write_image` shows an image anywhere."""
        return bool(self._trackers)

    def write_image(self, step: int, name: str, image_HxWx3: np.ndarray) -> None:
        """Add an image, uint8, to TensorBoard and Weights & Biases."""
        for tracker in self._trackers:
            tracker.image(step, name, image_HxWx3)

    def flush(self) -> None:
        """Return when all lines are on the disk, or in the bucket."""
        if not self._writes:
            return
        with writing(self.path):
            if self._file is None:
                write_atomically(self.path, self._text)
                self._sent = time.monotonic()
            elif not os.path.samestat(Path(self.path).stat(), os.fstat(self._file.fileno())):
                raise OSError(errno.ENOENT, "another file took its place while the run was writing")
            else:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Finish the files."""
        try:
            self.flush()
        finally:
            if self._file is not None:
                with writing(self.path):
                    self._file.close()
        for tracker in self._trackers:
            tracker.close()


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; an incomplete last line is skipped.

    Raises:
      ConfigError: another line is not what `MetricWriter` writes.
    """
    path = epath.Path(path)
    if not path.exists():
        return []
    records = []
    lines = [(number, line) for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
    for number, line in lines:
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or type(record.get("step")) is not int:
                raise ValueError("no record")
        except (ValueError, RecursionError):
            if number == lines[-1][0]:
                break
            raise ConfigError(f"{path}, line {number}: not a JSON object with a step; remove that line.") from None
        records.append(record)
    return records


def _line(record: dict[str, Any]) -> str:
    # JSON has no NaN; None keeps the file readable by every parser.
    safe = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(safe) + "\n"
