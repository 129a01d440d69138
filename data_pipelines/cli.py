"""How the programs of this package end: with their result, or with one line that describes the error."""

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import logging

from data_pipelines.errors import DataError
from data_pipelines.storage.bucket_errors import is_bucket_error, reason


def run_command(run: Callable[[list[str]], str], argv: list[str], verbosity: int = logging.WARNING) -> None:
    """Call `run` and print its result; for bad input, exit with code 1 and one line on stderr.

    Args:
      run: the program; it receives the command-line arguments without the program's name.
      argv: arguments of the process.
      verbosity: log level for the libraries.
    """
    logging.set_verbosity(verbosity)
    signal.signal(signal.SIGTERM, _stop)  # a run that is stopped removes its partial output
    try:
        summary = run(argv[1:])
    except (DataError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except Exception as error:
        if is_bucket_error(error):
            sys.exit(f"error: a bucket cannot be used ({reason(error)}); check its name, and that you are signed in.")
        raise
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run the same command again.")
    print(summary)


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt
