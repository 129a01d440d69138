"""The one exception type of this package for bad input from outside."""


class ConfigError(ValueError):
    """A configuration or checkpoint that cannot work; the message is one sentence with thing, place and remedy."""
