"""How the programs of this package end: with what they found, or with one line that says what is wrong."""

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import logging

from data_pipelines.errors import DataError


def run_command(run: Callable[[list[str]], str], argv: list[str], verbosity: int = logging.WARNING) -> None:
    """Print what `run` returns of the arguments; exit code 1 and one line on stderr for bad input.

    Args:
      run: the program; it gets the arguments behind its name.
      argv: of the process.
      verbosity: of what libraries log.
    """
    logging.set_verbosity(verbosity)
    signal.signal(signal.SIGTERM, _stop)  # so that a stopped run removes what it wrote
    try:
        summary = run(argv[1:])
    except (DataError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run the same command again.")
    print(summary)


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt
