"""Progress of a long loop: a bar on a terminal, otherwise a plain line every few seconds."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

LINE_EVERY = 10.0  # seconds


class Progress:
    """Shows the progress of consecutive stages; a stage ends at the start of the next one or at `close`."""

    def __init__(self, unit: str = "images", stream: TextIO | None = None) -> None:
        """Args: unit: name of the counted items; stream: output, stderr by default."""
        self._stream = stream or sys.stderr
        self._unit = unit
        self._bar: tqdm | None = None
        self._stage = ""

    def start(self, stage: str, total: int | None = None) -> None:
        """Begin a stage of `total` steps (None: unknown)."""
        self.close()
        self._stage, self._total, self._count = stage, total, 0
        self._start_time = self._last_line_time = time.monotonic()
        if self._stream.isatty():
            unit = f" {self._unit}"
            self._bar = tqdm(total=total, desc=stage, unit=unit, file=self._stream, leave=False)

    def step(self, count: int = 1) -> None:
        """Count items."""
        self._count += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last_line_time >= LINE_EVERY:
            self._last_line_time = time.monotonic()
            self._print_line()

    def note(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        with tqdm.external_write_mode(file=self._stream):
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """End the stage."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._stage:
            self._print_line()
        self._stage = ""

    def _print_line(self) -> None:
        of = f" of {self._total:,}" if self._total else ""
        speed = self._count / max(time.monotonic() - self._start_time, 1e-9)
        rate = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
        missing = (self._total or 0) - self._count
        left = f", {missing / speed / 60:,.1f} minutes left" if self._count and missing > 0 else ""
        print(
            f"{self._stage}: {self._count:,}{of} {self._unit}, {rate} per second{left}",
            file=self._stream,
            flush=True,
        )
