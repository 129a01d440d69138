"""This package's exception type for bad input, and how messages of other libraries are quoted in it."""


class ConfigError(ValueError):
    """A configuration or checkpoint that cannot work. The message is one sentence: what is wrong, where, what to do."""


def in_short(text: object, limit: int = 200) -> str:
    """Another library's message on one line, cut between words where it is longer than `limit` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[:limit].rpartition(' ')[0] or line[:limit]} ..."
