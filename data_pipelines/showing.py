"""Values from outside files in an error's sentence: short and on one line, whatever they hold."""

import reprlib

_MOST = 80  # letters of a text; about as many of a whole value

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _MOST
_SHORT.maxdict = _SHORT.maxlist = 4
_SHORT.maxlevel = 2


def shown(value: object) -> str:
    """`repr(value)`, cut where it is long or deep; control characters and broken unicode come escaped."""
    return _SHORT.repr(value)
