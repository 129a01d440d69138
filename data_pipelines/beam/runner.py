"""Apache Beam, where a program asks for it: its runner, its options, and the errors of its workers."""

import importlib
import logging
import re
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from data_pipelines.errors import DataError

DIRECT = "direct"
_DIRECT_NAMES = (DIRECT, "DirectRunner")
_TOLD = re.compile(r"DataError: (.+?)(?: \[while running .*)?$", re.MULTILINE)
_LINE_EVERY = 10.0  # seconds


def is_direct(runner: str) -> bool:
    """Whether a runner is Beam's own, on this machine."""
    return runner in _DIRECT_NAMES


def import_with_beam(module: str, what: str) -> ModuleType:
    """A module that needs Apache Beam; raises DataError, which says that `what` needs it, if Beam is not there."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # Beam warns of Google's libraries that are not there
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "apache_beam":
            raise
        raise DataError(f"{what} needs Apache Beam; run `pip install 'pixelbert_jax[beam]'`.") from None
    finally:
        logging.disable(disabled)


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise DataError for what follows `--` and is no option."""
    for argument in arguments[:1]:
        if not argument.startswith("--"):
            raise DataError(f"Unknown argument {argument!r}; Beam's options follow `--` and start with --.")


def pipeline_options(runner: str, arguments: Sequence[str], flag: str, page: str) -> Any:
    """Beam's options, the runner checked.

    Args:
      runner: "direct" for this machine, or a runner of Beam.
      arguments: its options, such as "--direct_num_workers=4".
      flag: the name of the flag that gave the runner, for messages.
      page: of the documentation that lists options.

    Raises:
      DataError: there is no such runner, or the direct one has no such option.
    """
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import create_runner

    name = "DirectRunner" if is_direct(runner) else runner
    try:
        create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"--{flag}={runner} cannot be used ({reason}); give direct, or a runner of Beam.") from None
    ours = ["--default_sdk_harness_log_level=CRITICAL"]  # before the user's, which win
    if is_direct(runner):
        # There are no triggers here; but with it DirectRunner stays in Python, and fetches no other from the internet.
        ours.append("--allow_unsafe_triggers")
    options = PipelineOptions([*ours, *arguments, f"--runner={name}"])
    unknown = sorted(options.display_data().keys() - options.get_all_options().keys())
    # Options of other runners may be known to them alone.
    if is_direct(runner) and unknown:
        raise DataError(f"--{unknown[0]} is no option of Beam's direct runner; see {page} for those that are.")
    return options


def run_pipeline(build: Callable[[Any], None], options: Any) -> None:
    """Run a pipeline; raises DataError if a worker did."""
    import apache_beam as beam

    logger = logging.getLogger("apache_beam")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what goes wrong is told once, by the exception
    try:
        with beam.Pipeline(options=options) as pipeline:
            build(pipeline)
    except Exception as error:
        if str(error).startswith("KeyboardInterrupt"):  # in this process, while it was a worker; Beam makes it an error
            raise KeyboardInterrupt from None
        # A worker's exception comes as text, after its traceback.
        told = _TOLD.findall(f"DataError: {error}" if isinstance(error, DataError) else str(error))
        if not told:
            raise
        raise DataError(told[-1]) from None
    finally:
        logger.setLevel(level)


class WorkerProgress:
    """A line on stderr now and then; each worker writes its own."""

    def __init__(self, done: str) -> None:
        """Args: done: what has been done to the images, such as "read"."""
        self._done, self._count, self._shown = done, 0, time.monotonic()

    def step(self, place: object) -> None:
        """Count one image; `place` says where it is."""
        self._count += 1
        if time.monotonic() - self._shown >= _LINE_EVERY:
            self._shown = time.monotonic()
            print(f"images {self._done}: {self._count:,}, at {place}", file=sys.stderr, flush=True)
