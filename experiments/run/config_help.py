"""`--config.help`: every field of a configuration with its type, its value and the comment beside it."""

import contextlib
import dataclasses
import io
from typing import Any

import tyro


def config_help(config: Any) -> str:
    """The text that `--config=FILE --config.help` prints.

    Args:
      config: what the file's `get_config()` returns, with overrides.
    """
    wrapped = dataclasses.make_dataclass("Fields", [("config", type(config), dataclasses.field(default=config))])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        # Of a field that may be one class or another, the class in the file is described.
        tyro.cli(
            wrapped,
            args=["--help"],
            use_underscores=True,
            config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        )
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    first = next(i for i, line in enumerate(lines) if line.strip().startswith("config options"))
    return "\n".join([f"Fields of {type(config).__name__}. Set one with --config.FIELD=VALUE.", "", *lines[first:]])
