"""Exceptions for bad input, and helpers that print values in their messages: short and on one line."""

import reprlib

_MAX_CHARACTERS = 80  # of a string; about as many of a whole value

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _MAX_CHARACTERS
_SHORT.maxdict = _SHORT.maxlist = 4
_SHORT.maxlevel = 2


class DataError(Exception):
    """Bad input: a missing file, a damaged record, a wrong layout.

    The message is one clear sentence that names the problem, its location and the remedy. Programs print it as
    `error: ...` without a traceback.
    """


class BadRecordError(DataError):
    """One record of a prepared data set is damaged; the other records may be usable."""


def short_repr(value: object) -> str:
    """`repr(value)`, shortened if it is long or deeply nested; control characters and broken Unicode are escaped."""
    return _SHORT.repr(value)


def in_short(text: object, limit: int = 200) -> str:
    """The message of another library on one line, cut between words if it is longer than `limit` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[:limit].rpartition(' ')[0] or line[:limit]} ..."
