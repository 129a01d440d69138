"""The one exception type of this package for bad input from outside, and other libraries' messages in its sentence."""


class ConfigError(ValueError):
    """A configuration or checkpoint that cannot work; the message is one sentence with thing, place and remedy."""


def in_short(text: object, limit: int = 200) -> str:
    """Another library's message on one line, cut between words where it is longer than `limit` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[:limit].rpartition(' ')[0] or line[:limit]} ..."
