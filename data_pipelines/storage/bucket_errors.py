"""Errors of a bucket: which of them pass, trying again, and one kind of error for all of them."""

import contextlib
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from data_pipelines.errors import in_short

_LIBRARIES = ("aiohttp", "botocore", "gcsfs", "google", "requests", "urllib3")  # their errors are not all OSErrors
_STATUS_THAT_PASSES = (408, 429, 500, 502, 503, 504)
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 32.0  # seconds between two tries
_PATIENCE = 300.0  # seconds of trying again; gcsfs itself gives up after about 30

T = TypeVar("T")


def is_bucket_error(error: BaseException) -> bool:
    """Whether a library that talks to buckets has raised this."""
    return type(error).__module__.partition(".")[0] in _LIBRARIES


def passes(error: BaseException) -> bool:
    """Whether the same call may succeed later: no answer, a cut connection, a server that is busy or restarts."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # of botocore
        code = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:  # of requests
        code = getattr(answer, "status_code", None)
    codes = (getattr(error, "code", None), getattr(error, "status", None), code)
    if known := [int(code) for code in codes if str(code).isdecimal()]:
        return known[0] in _STATUS_THAT_PASSES
    return is_bucket_error(error) or isinstance(error, ConnectionError | TimeoutError)


def reason(error: BaseException) -> str:
    """The error on one line, with the name of its class where it has no text."""
    if text := getattr(error, "strerror", None):
        return text
    if isinstance(error, FileNotFoundError):  # its text is an address
        return "not found; was the object or the bucket deleted?"
    return in_short(error) or type(error).__name__


@contextlib.contextmanager
def as_os_errors() -> Iterator[None]:
    """A block that reads or writes in a bucket; errors of the libraries become OSErrors."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or not is_bucket_error(error):
            raise
        raise OSError(reason(error)) from error


def report_tries_of_gcsfs() -> None:
    """Print one line for each time that gcsfs itself tries again; its log has no line for it, but stack traces."""
    log = logging.getLogger("gcsfs")
    log.setLevel(logging.DEBUG)
    log.propagate = False
    log.addHandler(_Tries())


class _Tries(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        name, found, error = record.getMessage().partition(" retrying after exception: ")
        if found:
            print(
                f"gcsfs: {name.strip('_')}: {in_short(error) or 'no answer'}; another try", file=sys.stderr, flush=True
            )


def retried(call: Callable[[], T], what: str, patience: float = _PATIENCE) -> T:
    """`call()`, again while its errors pass, with longer and longer waits; each of them is reported on stderr.

    Args:
      call: reads or writes in a bucket; it may be called several times.
      what: the object, for the reports.
      patience: seconds after the first error in which it is tried again.

    Raises:
      OSError: an error that does not pass, or the last one.
    """
    wait, end = _FIRST_WAIT, None
    while True:
        try:
            with as_os_errors():
                return call()
        except OSError as error:
            end = end or time.monotonic() + patience
            pause = wait * random.uniform(0.75, 1.25)
            if not passes(error.__cause__ or error) or time.monotonic() + pause > end:
                raise
            print(f"{what}: {reason(error)}; another try in {pause:.0f} s", file=sys.stderr, flush=True)
        time.sleep(pause)
        wait = min(2 * wait, _LONGEST_WAIT)
