"""Apache Beam for the programs that use it: its runner, its options, and the errors of its workers."""

import importlib
import logging
import re
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.progress import LINE_EVERY

DIRECT = "direct"
_DIRECT_NAMES = (DIRECT, "DirectRunner")
_REPORTED = re.compile(r"DataError: (.+?)(?: \[while running .*)?$", re.MULTILINE)


def is_direct(runner: str) -> bool:
    """Whether a runner is Beam's direct runner on this machine."""
    return runner in _DIRECT_NAMES


def import_with_beam(module: str, what: str) -> ModuleType:
    """Import a module that needs Apache Beam for `what`; raises DataError if Beam is not installed."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # Beam warns about missing Google libraries
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "apache_beam":
            raise
        raise DataError(f"{what} needs Apache Beam; run `pip install 'pixelbert_jax[beam]'`.") from None
    finally:
        logging.disable(disabled)


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise DataError if an argument after `--` is not an option."""
    for argument in arguments[:1]:
        if not argument.startswith("--"):
            raise DataError(f"Unknown argument {argument!r}; Beam's options follow `--` and start with --.")


def pipeline_options(runner: str, arguments: Sequence[str], flag: str, page: str) -> Any:
    """Check the runner and return Beam's options.

    Args:
      runner: "direct" for this machine, or a runner of Beam.
      arguments: options of the runner, such as "--direct_num_workers=4".
      flag: name of the flag for the runner, for messages.
      page: page of the documentation that lists the options.

    Raises:
      DataError: the runner does not exist, or the direct runner does not have an option.
    """
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import create_runner

    name = "DirectRunner" if is_direct(runner) else runner
    try:
        create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"--{flag}={runner} cannot be used ({reason}); give direct, or a runner of Beam.") from None
    defaults = ["--default_sdk_harness_log_level=CRITICAL"]  # the user's options come later and have priority
    if is_direct(runner):
        # The pipelines have no triggers. With this option, DirectRunner stays in Python and downloads no other runner.
        defaults.append("--allow_unsafe_triggers")
    options = PipelineOptions([*defaults, *arguments, f"--runner={name}"])
    unknown = sorted(options.display_data().keys() - options.get_all_options().keys())
    # Other runners may have options that only they know.
    if is_direct(runner) and unknown:
        raise DataError(f"--{unknown[0]} is no option of Beam's direct runner; see {page} for those that are.")
    return options


def run_pipeline(build: Callable[[Any], None], options: Any) -> None:
    """Build and run a pipeline; raises DataError if a worker raised it."""
    import apache_beam as beam

    logger = logging.getLogger("apache_beam")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # the exception is the only report of an error
    try:
        with beam.Pipeline(options=options) as pipeline:
            build(pipeline)
    except Exception as error:
        if str(error).startswith("KeyboardInterrupt"):  # Beam turns an interrupt of a worker in this process into this
            raise KeyboardInterrupt from None
        # Beam reports a worker's exception as text, after its traceback.
        reported = _REPORTED.findall(f"DataError: {error}" if isinstance(error, DataError) else str(error))
        if not reported:
            raise
        raise DataError(reported[-1]) from None
    finally:
        logger.setLevel(level)


class WorkerProgress:
    """Prints a line to stderr every few seconds; each worker prints its own lines."""

    def __init__(self, done: str) -> None:
        """Args: done: participle for the finished work on an image, such as "read"."""
        self._done, self._count, self._last_line_time = done, 0, time.monotonic()

    def step(self, location: object) -> None:
        """Count one image at `location`."""
        self._count += 1
        if time.monotonic() - self._last_line_time >= LINE_EVERY:
            self._last_line_time = time.monotonic()
            print(f"images {self._done}: {self._count:,}, at {location}", file=sys.stderr, flush=True)
