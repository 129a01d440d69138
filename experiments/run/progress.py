"""The progress of a run for a person: a bar on a terminal, plain lines otherwise."""

import sys
import time

from tqdm import tqdm

from experiments.resilience.distributed import are_many, index, is_first


class Progress:
    """Shows the finished steps, a few metrics, and the remaining time."""

    def __init__(self, total: int, start: int, *, seconds_between_lines: float = 10.0) -> None:
        self._total, self._interval = total, seconds_between_lines
        self._first: tuple[float, int] | None = None  # time and step of the first update: compiling does not count
        self._last_line = 0.0
        self._bar = None
        if sys.stderr.isatty() and is_first():
            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)

    def update(self, step: int, metrics: str) -> None:
        """Report that `step` steps are done."""
        if self._bar is not None:
            self._bar.set_postfix_str(metrics, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        self._first = self._first or (now, step)
        if now - self._last_line >= self._interval or step == self._total:
            self._last_line = now
            begun, first = self._first
            left = duration((now - begun) / (step - first) * (self._total - step)) if step > first else "?"
            say(f"step {step}/{self._total}  {metrics}  left {left}")

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()


def say(line: str) -> None:
    """Print a line at once, above a bar if there is one; of several processes only the first one prints."""
    if not is_first():
        return
    with tqdm.external_write_mode(file=sys.stdout):
        print(line, flush=True)


def warn(line: str) -> None:
    """Print a line to the error stream, above a bar; each of several processes adds its number."""
    with tqdm.external_write_mode(file=sys.stderr):
        print(f"process {index()}: {line}" if are_many() else line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    hours, rest = divmod(int(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
