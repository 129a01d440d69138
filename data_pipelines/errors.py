"""The exceptions for bad input from outside, and how their sentences show its values: short and on one line."""

import reprlib

_MOST = 80  # letters of a text; about as many of a whole value

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _MOST
_SHORT.maxdict = _SHORT.maxlist = 4
_SHORT.maxlevel = 2


class DataError(Exception):
    """Bad outside input: a missing file, a damaged record, a wrong layout.

    Its message is one clear sentence that names the thing, the place and the remedy. Programs print
    it as `error: ...` without a traceback.
    """


class BadRecordError(DataError):
    """One record of a prepared data set is damaged; the others may serve."""


def shown(value: object) -> str:
    """`repr(value)`, cut where it is long or deep; control characters and broken unicode come escaped."""
    return _SHORT.repr(value)


def in_short(text: object, limit: int = 200) -> str:
    """Another library's message on one line, cut between words where it is longer than `limit` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[:limit].rpartition(' ')[0] or line[:limit]} ..."
